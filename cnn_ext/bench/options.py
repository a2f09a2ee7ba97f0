"""What a person asks of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from json import loads
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """The choices that all benchmarks share.

    Args:
        names: layers, networks and tensors to measure; all if there are none.
        sets: of convolutions, by name or as the path of a JSON file; all if there are none.
        rounds: turns at least; 9 if not given, and 5 of networks.
        quick: a look: 3 turns, only the sets of the classic networks and the small networks, and no
            ``torch.compile`` that was not asked for.
        compile: ``torch.compile`` takes turns too; if not given, wherever it can be faster: in
            networks and LRN, not in a single convolution, where it calls the kernel that eager does.
        dtype: ``"float32"`` or ``"bfloat16"``; colour PCA has dtypes of its own.
    """

    names: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    rounds: int | None = None
    quick: bool = False
    compile: bool | None = None
    dtype: str = "float32"

    def turns(self, default: int) -> int:
        """How often each contender runs at least."""
        return self.rounds or (3 if self.quick else default)

    def compiles(self, default: bool) -> bool:
        """Whether ``torch.compile`` takes turns, in a benchmark that does or does not by itself."""
        return (default and not self.quick) if self.compile is None else self.compile

    def seconds(self) -> float:
        """For how long quick contenders take turns beyond those."""
        return 0.05 if self.quick else 0.3

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those of a benchmark's names that are asked for."""
        asked = {name.lower() for name in self.names}
        return [name for name in names if not asked or name.lower() in asked]


def shapes(name: str) -> Any:
    """A file of this package's ``shapes`` folder."""
    return loads((files("cnn_ext.bench") / "shapes" / f"{name}.json").read_text())


def check(options: Options, known: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError if a name is nobody's, with those that there are."""
    everything = [name for names in known.values() for name in names]
    lower = {name.lower() for name in everything}
    for name in options.names:
        if name.lower() not in lower:
            raise ValueError(f"layers: expected some of {', '.join(everything)}; got {name!r}")

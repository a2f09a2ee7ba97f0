"""Augmentation in advance: expensive transforms run once, and their results are read from disk.

One file for each sample and copy, written beside its place and moved there when complete, so that a run
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from cnn_ext.transforms.label_safe import parts_of

MANIFEST = "manifest.json"


class Precomputed(Dataset):
    """A data set of samples that :func:`precompute` wrote.

    Args:
        folder: as given to :func:`precompute`.

    Raises:
        FileNotFoundError: nothing was written there, or not all of it; the message says how to go on.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            raise FileNotFoundError(f"{folder}: expected what cnn_ext.transforms.precompute wrote")
        facts = json.loads(manifest.read_text())
        self.count = facts["samples"] * facts["copies"]
        missing = self.count - sum(1 for _ in self.folder.glob("*.pt"))
        if missing:
            raise FileNotFoundError(
                f"{folder}: {missing} of {self.count} samples are missing; call precompute again with "
                "the same arguments, and it computes those"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not -self.count <= index < self.count:
            raise IndexError(f"index: expected one below {self.count}, got {index}")
        return torch.load(_path(self.folder, index % self.count), weights_only=True)


def precompute(
    dataset: Any,
    transform: Callable,
    folder: str | Path,
    copies: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Precomputed:
    """Transforms every sample of a data set, once or several times, and writes the results to disk.

    Each result has a seed of its own, made of ``seed`` and its number: the files do not depend on what
    was computed before them, and a run that was interrupted is continued by calling again.

    Args:
        dataset: map-style; samples are an image, or a tuple or dict with one.
        transform: for one sample: what a v2 transform takes. Of (image, label) v2 changes the image.
        folder: for the files; made if it is missing.
        copies: of each sample, all drawn differently. Sample i of copy k is number k len(dataset) + i.
        seed: of torch's generator, which v2's transforms draw from. It is restored afterwards.
        progress: whether to draw a progress bar.

    Returns:
        The results as a data set.

    Raises:
        ValueError: the folder holds results of other arguments; or a transform has its own generator.
        TypeError: a result holds something else than tensors, numbers, strings and containers of these.

    Example:
        >>> import tempfile
        >>> from torchvision.transforms import v2
        >>> images = [(torch.full((3, 8, 8), i, dtype=torch.uint8), i) for i in range(4)]
        >>> folder = tempfile.mkdtemp()
        >>> data = precompute(images, v2.RandomCrop(4), folder, copies=2, progress=False)
        >>> len(data), data[5][0].shape, data[5][1]
        (8, torch.Size([3, 4, 4]), 1)
    """
    _refuse_generators(transform)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, {"samples": len(_sized(dataset)), "copies": copies, "seed": seed,
                    "transform": repr(transform)})  # fmt: skip
    count = len(dataset) * copies
    todo = [index for index in range(count) if not _path(folder, index).exists()]
    with torch.random.fork_rng(devices=[]):
        for index in _bar(todo, count) if progress else todo:
            torch.manual_seed(_seed_of(seed, index))
            result = tree_map(_plain, transform(dataset[index % len(dataset)]))
            partial = _path(folder, index).with_suffix(f".{os.getpid()}.partial")
            torch.save(result, partial)
            partial.replace(_path(folder, index))
    return Precomputed(folder)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:08d}.pt"


def _seed_of(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**63


def _sized(dataset: Any) -> Sized:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            "dataset: expected a map-style data set, with a length and an index, got "
            f"{type(dataset).__name__}"
        )
    return dataset


def _claim(folder: Path, facts: Mapping[str, Any]) -> None:
    manifest = folder / MANIFEST
    if not manifest.exists():
        manifest.write_text(json.dumps(facts, indent=1) + "\n")
    held = json.loads(manifest.read_text())
    differing = [key for key in facts if held.get(key) != facts[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder}: holds results of {key} = {held.get(key)!r} and now it is {facts[key]!r}; "
            "choose another folder or delete this one"
        )


def _refuse_generators(transform: Callable) -> None:
    for part in parts_of(transform):
        if isinstance(getattr(part, "generator", None), torch.Generator):
            raise ValueError(
                f"transform: {type(part).__name__} has a generator of its own, whose draws depend on "
                "what was computed before; leave it out and pass seed="
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor).contiguous().clone()  # a view would bring its whole storage
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    raise TypeError(
        "transform: expected tensors, numbers, strings and containers of these, got "
        f"{type(value).__name__}; "
        "begin the transform with torchvision.transforms.v2.ToImage() to get a tensor of a PIL image"
    )


def _bar(todo: list[int], count: int):
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:  # a bar is not worth a dependency
        return todo
    return tqdm(todo, total=count, initial=count - len(todo), desc="precompute", unit="samples")

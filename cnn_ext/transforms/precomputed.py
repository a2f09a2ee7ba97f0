"""Augmentation in advance: expensive transforms run once, and their results are read from disk.

One file for each sample and copy, written beside its place and moved there when complete, so that a run
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from cnn_ext.transforms import fingerprint

MANIFEST = "manifest.json"


class Precomputed(Dataset):
    """A data set of samples that :func:`precompute` wrote.

    Args:
        folder: as given to :func:`precompute`.

    Raises:
        FileNotFoundError: nothing was written there, or not all of it; the message says how to go on.
        ValueError: the folder's manifest, or the file of a sample when its turn comes, is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            raise FileNotFoundError(f"{folder}: expected what cnn_ext.transforms.precompute wrote")
        facts = _held(self.folder)
        self.count = facts["samples"] * facts["copies"]
        names = {path.name for path in self.folder.glob("*.pt")}
        missing = sum(_path(self.folder, index).name not in names for index in range(self.count))
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
        path = _path(self.folder, index % self.count)
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:  # of a damaged file torch raises what it likes
            raise ValueError(
                f"{path}: cannot be read; delete it and call precompute again, which computes it anew"
            ) from error


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
    was computed before them, and a run that was interrupted is continued by calling again, in another
    process too. The folder keeps what the transform was: its class and state, the code of functions
    and classes that are not installed, and versions of what is. Any other transform is refused.

    Args:
        dataset: map-style; samples are an image, or a tuple or dict with one.
        transform: for one sample: what a v2 transform takes. Of (image, label) v2 changes the image.
        folder: for the files; made if it is missing.
        copies: of each sample, all drawn differently. Sample i of copy k is number k len(dataset) + i.
        seed: of torch's generator, which v2's transforms draw from, and of Python's and NumPy's global
            ones. All are restored afterwards.
        progress: whether to draw a progress bar.

    Returns:
        The results as a data set.

    Raises:
        ValueError: the folder holds results of other arguments, another transform, or other versions;
            or a transform has its own generator.
        TypeError: a part of the transform that another process could not recognise (an open file, a
            lock); or a result holds something else than tensors, numbers, strings and containers of
            these.

    Example:
        >>> import tempfile
        >>> from torchvision.transforms import v2
        >>> images = [(torch.full((3, 8, 8), i, dtype=torch.uint8), i) for i in range(4)]
        >>> folder = tempfile.mkdtemp()
        >>> data = precompute(images, v2.RandomCrop(4), folder, copies=2, progress=False)
        >>> len(data), data[5][0].shape, data[5][1]
        (8, torch.Size([3, 4, 4]), 1)
    """
    parts, versions = fingerprint.of(transform)  # before anything is written
    facts = {"samples": len(_sized(dataset)), "copies": _positive(copies), "seed": seed}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, {**facts, "versions": versions, "transform": parts})
    count = len(dataset) * copies
    todo = [index for index in range(count) if not zipfile.is_zipfile(_path(folder, index))]
    with _generators_kept():
        for index in _bar(todo, count) if progress else todo:
            _seed_all(_seed_of(seed, index))
            result = tree_map(_plain, transform(dataset[index % len(dataset)]))
            partial = _path(folder, index).with_suffix(f".{os.getpid()}.partial")
            torch.save(result, partial)
            partial.replace(_path(folder, index))
    return Precomputed(folder)


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Torch's, Python's and NumPy's global generators come out as they went in."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


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


def _positive(copies: int) -> int:
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise ValueError(f"copies: expected a positive integer, got {copies!r}")
    return copies


def _held(folder: Path) -> dict[str, Any]:
    try:
        held = json.loads((folder / MANIFEST).read_text())
        return {"samples": int(held["samples"]), "copies": int(held["copies"]), **held}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: is damaged ({error!r}); delete the folder") from error


def _claim(folder: Path, facts: Mapping[str, Any]) -> None:
    """The folder is for these facts, or has been."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        partial = manifest.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(facts, indent=1) + "\n")
        partial.replace(manifest)
    held = _held(folder)
    if not isinstance(held.get("transform"), dict):
        raise ValueError(
            f"{folder}: was written by an earlier cnn_ext, which kept too little of the transform to "
            "recognise it; choose another folder or delete this one"
        )
    old, new = _flat(held), _flat(facts)
    # A library that one of them does not need says less than the part that needs it.
    unshared = {key for key in new.keys() ^ old.keys() if key.startswith("versions.")}
    for key in [*new, *old]:
        if old.get(key) != new.get(key) and key not in unshared:
            raise ValueError(
                f"{folder}: holds results of {key} = {old.get(key, 'nothing')} and now it is "
                f"{new.get(key, 'nothing')}; choose another folder or delete this one"
            )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """One level; parts of the transform have their whole path already.

    Versions come first: what differs in a library's transform may follow from the library's version.
    """
    versions = {f"versions.{name}": version for name, version in facts["versions"].items()}
    rest = {key: facts[key] for key in ("samples", "copies", "seed")}
    return {**rest, **versions, **facts["transform"]}


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

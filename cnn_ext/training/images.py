"""Data sets of images by name, as one kind of thing: 8-bit tensors, labels, class names.

What needs a download says so in one sentence where there is no network. ``photographs`` is made of
pictures that come with scikit-image and scikit-learn; nothing is downloaded for it, nor for ``digits``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import v2

from cnn_ext.training import files
from cnn_ext.transforms.color_pca import Moments

DOWNLOADED = {
    "mnist": torchvision.datasets.MNIST,
    "fashion_mnist": torchvision.datasets.FashionMNIST,
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
}
NAMES = ("digits", "photographs", *DOWNLOADED)
MARGIN = 8  # an image is read an eighth larger than the network sees it: 256 for 224, 72 for 64


@dataclass(frozen=True)
class Images:
    """A data set: pairs of a uint8 image (C, H, W) and a label, to learn from and to be tested on."""

    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    channels: int
    size: int  # of the square that a network sees, unless another is asked for
    mirror: bool  # does a mirror image keep its label?
    digits: bool = False  # small shifts, turns and scales instead of crops
    left_out: tuple[str, ...] = ()  # files that cannot be read, each with the reason


def load(name: str, folder: Path = Path("data"), skip_broken: bool = False) -> Images:
    """A data set by name.

    Args:
        name: one of :data:`NAMES`, or a folder with the folders ``train`` and ``test`` (or ``val``),
            each with a folder of image files for each class. Hidden files and folders, whose names
            begin with a dot, are left out.
        folder: where downloads are kept.
        skip_broken: leave out images of a folder that cannot be read, and list them in ``left_out``. To
            know them, every image is read once before anything else.

    Raises:
        ValueError: no such data set, and no such folder; no classes, a class without images; a test
            image that cannot be read (a training image raises when its turn comes).
        RuntimeError: it has to be downloaded and cannot be.

    Example:
        >>> digits = load("digits")
        >>> image, label = digits.train[0]
        >>> len(digits.train), len(digits.test), tuple(image.shape), image.dtype, len(digits.classes)
        (1437, 360, (1, 32, 32), torch.uint8, 10)
    """
    if name == "digits":
        return _digits()
    if name == "photographs":
        return patches(tuple(photographs()))
    if name in DOWNLOADED:
        return _downloaded(name, folder)
    if not Path(name).is_dir():
        raise ValueError(f"data: expected one of {', '.join(NAMES)}, or a folder; got {name!r}")
    return _folder(Path(name), skip_broken)


class Mapped(Dataset):
    """A data set of another's pairs, each image read by a function."""

    def __init__(self, data, read: Callable[..., Tensor]) -> None:
        self.data, self.read = data, read

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.data[index]
        return self.read(image), int(label)


def _digits() -> Images:
    from cnn_ext.training.data import BACKGROUND, INK, Digits

    def as_bytes(image: Tensor) -> Tensor:
        return (255 * (image - BACKGROUND) / (INK - BACKGROUND)).round().clamp(0, 255).byte()

    digits = Digits()
    train, test = Mapped(digits.train, as_bytes), Mapped(digits.test, as_bytes)
    return Images(train, test, tuple("0123456789"), 1, 32, mirror=False, digits=True)


def _downloaded(name: str, folder: Path) -> Images:
    kind = DOWNLOADED[name]
    try:
        train, test = (kind(folder, train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"data: {name} is not in {str(folder)!r} and cannot be downloaded ({error}). Put its files "
            f"there, as torchvision.datasets.{kind.__name__} names them, or take --data digits"
        ) from error
    channels = 1 if "mnist" in name else 3
    return Images(
        Mapped(train, v2.PILToTensor()),
        Mapped(test, v2.PILToTensor()),
        tuple(train.classes),
        channels,
        32,
        mirror=name != "mnist",
        digits=name == "mnist",
    )


def _folder(path: Path, skip_broken: bool) -> Images:
    """Every image's shorter side is scaled to 256 pixels, as section 2 of the AlexNet paper has it."""
    parts = [next((path / n for n in names if (path / n).is_dir()), None)
             for names in (("train",), ("test", "val"))]  # fmt: skip
    if None in parts:
        raise ValueError(f"data: expected the folders train and test (or val) in {str(path)!r}")
    (classes, train), (others, test) = (_classes(part) for part in parts if part)
    _check_same(classes, others)
    broken = files.broken([file for file, _ in (train + test if skip_broken else test)])
    if broken and not skip_broken:  # they would be met after all the training
        raise files.BrokenImageError(_listed(list(broken.values())) + OFFER)
    train, test = ([pair for pair in part if pair[0] not in broken] for part in (train, test))
    for part, pairs in (("train", train), ("test", test)):
        _check_labels(f"{part} that can be read", classes, pairs)
    read = v2.Compose([_read, _middle, v2.Resize(256, antialias=True), v2.CenterCrop(256)])
    reasons = tuple(reason.removeprefix("data: ") for reason in broken.values())
    return Images(
        Mapped(train, read), Mapped(test, read), classes, 3, 224, mirror=True, left_out=reasons
    )


OFFER = ". To go on without such images, add --skip-broken"


def _read(path: str) -> Tensor:
    try:
        return files.read_bytes(path)
    except files.BrokenImageError as error:
        raise files.BrokenImageError(f"{error}{OFFER}") from error


def _middle(image: Tensor, most: int = 8) -> Tensor:
    """Of a strip, what the crop looks at: a row of 20,000 pixels would be scaled to gigabytes."""
    side = most * min(image.shape[1:])
    return v2.functional.center_crop(image, [min(n, side) for n in image.shape[1:]])


def _classes(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The class folders by name, and all their files with the number of the class."""
    try:
        classes = tuple(sorted(e.name for e in os.scandir(folder)
                               if e.is_dir() and not e.name.startswith(".")))  # fmt: skip
        pairs = [(str(file), i) for i, name in enumerate(classes) for file in files.find(folder / name)]
    except OSError as error:
        raise ValueError(f"data: {error.filename!r} cannot be listed: {error.strerror}") from error
    if not classes:
        raise ValueError(f"data: expected a folder for each class in {str(folder)!r}, got none")
    _check_labels(f"{str(folder)!r} ({', '.join(files.SUFFIXES)})", classes, pairs)
    return classes, pairs


def _check_same(train: Sequence[str], test: Sequence[str]) -> None:
    alone = {"train": set(train) - set(test), "test": set(test) - set(train)}
    differing = [f"only {part} has {_listed(sorted(map(repr, names)))}"
                 for part, names in alone.items() if names]  # fmt: skip
    if differing:
        raise ValueError(f"data: expected the same classes in train and test; {'; '.join(differing)}")


def _check_labels(where: str, classes: Sequence[str], pairs: list[tuple[str, int]]) -> None:
    empty = set(range(len(classes))) - {label for _, label in pairs}
    if empty:
        named = _listed([repr(classes[label]) for label in sorted(empty)])
        raise ValueError(f"data: expected images of every class in {where}, got none of {named}")


def _listed(items: list[str], most: int = 5) -> str:
    """Some, and how many more."""
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return "; ".join([*items[:1], *(item.removeprefix("data: ") for item in items[1:most]), *rest])


def statistics(train: Dataset, count: int = 1000) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel over some images spread evenly, on [0, 1].

    One image at a time is in memory, however many and large they are.
    """
    length = len(train)  # type: ignore[arg-type]
    some = (Moments.of(train[i][0]) for i in range(0, length, -(-length // count)))
    total = functools.reduce(Moments.__add__, some)
    mean, products = total.around_mean()
    deviation = (products.diagonal() / max(total.count - 1, 1)).sqrt()
    return mean.tolist(), deviation.clamp(1e-3).tolist()


TILE, WINDOW = 80, 72  # every fourth tile of a photograph is for testing; windows that are cut out


@functools.cache
def photographs() -> dict[str, Tensor]:
    """The ten colour photographs, (3, H, W) uint8, that scikit-image and scikit-learn bring along."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "rocket")
    found = {name: getattr(data, name)() for name in names}
    found["retina"] = data.retina()[::3, ::3]  # 1411 pixels of the same
    found["motorcycle"] = data.stereo_motorcycle()[0]
    found["china"], found["flower"] = load_sample_images().images
    return {name: torch.tensor(found[name]).permute(2, 0, 1) for name in sorted(found)}


def patches(names: Sequence[str], train: int = 1000, test: int = 100) -> Images:
    """From which of these photographs is a patch? So many windows of each.

    The regions for training and for testing share no pixel.
    """
    generator = torch.Generator().manual_seed(0)
    parts: list[list[Tensor]] = [[], []]
    for name in names:
        photograph = photographs()[name]
        for part, count in zip(parts, (train, test), strict=True):
            part += _windows(photograph, count, part is parts[1], generator)
    train_set, test_set = (
        TensorDataset(torch.stack(part), torch.arange(len(names)).repeat_interleave(count))
        for part, count in zip(parts, (train, test), strict=True)
    )
    return Images(train_set, test_set, tuple(names), 3, 64, mirror=True)


def _windows(photograph: Tensor, count: int, test: bool, generator: torch.Generator) -> list[Tensor]:
    """Windows wholly inside a tile for testing, or touching none."""
    height, width = photograph.shape[1:]
    windows: list[Tensor] = []
    while len(windows) < count:
        top, left = (
            int(torch.randint(n - WINDOW + 1, (), generator=generator)) for n in (height, width)
        )
        rows = {top // TILE, (top + WINDOW - 1) // TILE}
        columns = {left // TILE, (left + WINDOW - 1) // TILE}
        touched = {(i, j) for i in rows for j in columns}
        tests = {(i, j) for i, j in touched if i % 2 and j % 2}
        if (len(touched) == 1 and tests) if test else not tests:
            windows.append(photograph[:, top : top + WINDOW, left : left + WINDOW])
    return windows

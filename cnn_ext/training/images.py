"""Data sets of images by name, as one kind of thing: 8-bit tensors, labels, class names.

What needs a download says so in one sentence where there is no network. ``photographs`` is made of
pictures that come with scikit-image and scikit-learn; nothing is downloaded for it, nor for ``digits``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import v2

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


def load(name: str, folder: Path = Path("data")) -> Images:
    """A data set by name.

    Args:
        name: one of :data:`NAMES`, or a folder with the folders ``train`` and ``test`` (or ``val``),
            each with a folder of image files for each class.
        folder: where downloads are kept.

    Raises:
        ValueError: no such data set, and no such folder.
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
    return _folder(Path(name))


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


def _folder(path: Path) -> Images:
    """Every image's shorter side is scaled to 256 pixels, as section 2 of the AlexNet paper has it."""
    parts = [next((path / n for n in names if (path / n).is_dir()), None)
             for names in (("train",), ("test", "val"))]  # fmt: skip
    if None in parts:
        raise ValueError(f"data: expected the folders train and test (or val) in {str(path)!r}")
    train, test = (torchvision.datasets.ImageFolder(part) for part in parts)  # type: ignore[arg-type]
    if train.classes != test.classes:
        raise ValueError(f"data: train has the classes {train.classes}, test has {test.classes}")
    read = v2.Compose([v2.PILToTensor(), v2.Resize(256, antialias=True), v2.CenterCrop(256)])
    return Images(Mapped(train, read), Mapped(test, read), tuple(train.classes), 3, 224, mirror=True)


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

"""Image files: found in folders, read as RGB. What cannot be read is named, with the reason.

Used by ``train`` for folders of classes, and by ``fit-pca``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image
from torch import Tensor

from cnn_ext.transforms import pixels

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


class BrokenImageError(ValueError):
    """A file that cannot be read as an image.

    In a loader's worker an exception is raised again with a traceback as its text, whose last line is
    the sentence: that is kept, and the traceback is not.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence.rpartition(f"{type(self).__name__}: ")[2].strip())


def find(folder: str | Path) -> list[Path]:
    """The image files of a folder and of all folders inside, by suffix, in the order of their paths.

    Linked folders are followed, each folder once. Names that begin with a dot are left out: they are
    the system's and editors'. So is what is no file: a folder, a pipe. A link to nothing stays, for
    whoever reads it shall hear of it.

    Raises:
        OSError: a folder cannot be listed.
    """
    return sorted(Path(entry) for entry in _walk(str(folder), set()))


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir():
            yield from _walk(entry.path, seen)
        elif is_image(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
            yield entry.path


def is_image(name: str) -> bool:
    """By its suffix, in capitals or not."""
    return name.lower().endswith(SUFFIXES)


def read(path: str | Path) -> Tensor:
    """(3, H, W) of an image file: uint8, uint16, or float32 on [0, 1], as the file has it.

    Grey becomes RGB, alpha is left out, of an animation the first picture is taken. Like torchvision,
    this does not turn an image as its EXIF data asks.

    Raises:
        BrokenImageError: names the file and the reason.
    """
    try:
        with open(path, "rb") as file, PIL.Image.open(file) as image:
            return pixels.of_pil(image, "data")
    except Exception as error:  # of a broken file PIL's readers raise what they like
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = "no image, or of a kind that PIL does not know"
        reason = " ".join(reason.removeprefix("data: ").split()) or type(error).__name__
        raise BrokenImageError(f"data: {str(path)!r} cannot be read: {reason}") from error


def read_bytes(path: str | Path) -> Tensor:
    """The same, as uint8 in the way of torchvision's conversions: 16 bits lose the lower 8."""
    return pixels.to_bytes(read(path))


def broken(paths: Sequence[str]) -> dict[str, str]:
    """Those of the files that cannot be read, each with its sentence. Every file is read.

    Threads share the work; each has one image in memory at a time.
    """
    from tqdm.auto import tqdm

    def sentence(path: str) -> str | None:
        try:
            read(path)
        except BrokenImageError as error:
            return str(error)
        return None

    found = {}
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        # A bar for those who would have to wait without one.
        tqdm(total=len(paths), desc="reading images", unit="files", delay=3) as bar,
    ):
        for start in range(0, len(paths), 1024):
            some = paths[start : start + 1024]
            for path, wrong in zip(some, pool.map(sentence, some), strict=True):
                bar.update()
                if wrong is not None:
                    found[path] = wrong
    return found

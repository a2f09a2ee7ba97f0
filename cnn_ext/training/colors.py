"""``fit-pca``: the principal components of a folder of images, as a report and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import torch
from torch import Tensor

from cnn_ext.transforms import ColorPCA

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}


class Folder(Sequence):
    """The images of a folder and of all folders inside, as RGB, in the order of their paths.

    What cannot be read is left out and listed in ``unreadable``.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.unreadable: list[Path] = []
        if not self.paths:
            raise ValueError(f"{folder}: expected a folder with images, found none")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        """(3, H, W), uint8; without a pixel where the file cannot be read."""
        try:
            with PIL.Image.open(self.paths[index]) as image:
                pixels = numpy.array(image.convert("RGB"))
        except (OSError, SyntaxError):  # PIL raises either for broken files
            self.unreadable.append(self.paths[index])
            pixels = numpy.zeros((0, 0, 3), dtype=numpy.uint8)
        return torch.from_numpy(pixels).movedim(-1, -3)

    def first(self, count: int) -> Iterator[Tensor]:
        """Images to look at, spread over the folder."""
        step = max(1, len(self) // count)
        for index in range(0, len(self), step)[:count]:
            image = self[index]
            if image.numel():
                yield image


def run(folder: Path, out: Path, show: bool = False) -> dict:
    """Fits, writes ``out`` and, if asked, the picture beside it; returns the report.

    Args:
        folder: of images.
        out: gets what :meth:`ColorPCA.load` reads.
        show: whether to draw the picture.
    """
    images = Folder(folder)
    pca = ColorPCA.fit(images, source=str(folder))
    unreadable = [str(path) for path in images.unreadable]
    out.parent.mkdir(parents=True, exist_ok=True)
    pca.save(out)
    assert pca.mean is not None
    report: dict[str, Any] = {
        "folder": str(folder),
        "images": len(images) - len(unreadable),
        "unreadable": unreadable,
        "pixels": pca.count,
        "mean": pca.mean.tolist(),
        "eigenvalues": pca.eigenvalues.tolist(),
        "eigenvectors_in_columns": pca.eigenvectors.tolist(),
        "written": [str(out)],
    }
    if show:
        from cnn_ext import visualize

        picture = out.with_suffix(".png")
        visualize.color_pca(list(images.first(3)), pca).savefig(picture, dpi=110)
        report["written"].append(str(picture))
    return report


def table(report: dict) -> str:
    """The report for a terminal: each axis, its share, and the shift of one σ of α in grey levels."""
    lines = [
        f"{report['images']} images, {report['pixels']} pixels; "
        f"mean {', '.join(f'{value:.4f}' for value in report['mean'])}",
        "",
        f"{'axis':6}{'eigenvalue':>12}{'share':>8}   {'eigenvector (R, G, B)':28}one σ, grey levels",
    ]
    total = sum(report["eigenvalues"]) or 1.0
    for k, value in enumerate(report["eigenvalues"]):
        vector = [row[k] for row in report["eigenvectors_in_columns"]]
        shift = ", ".join(f"{255 * 0.1 * value * part:+.2f}" for part in vector)
        parts = ", ".join(f"{part:+.4f}" for part in vector)
        lines.append(f"{k + 1:<6}{value:>12.6f}{value / total:>8.1%}   {parts:28}{shift}")
    return "\n".join([*lines, "", f"Written: {', '.join(report['written'])}"])

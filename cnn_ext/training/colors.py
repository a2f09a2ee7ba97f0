"""``fit-pca``: the principal components of a folder of images, as a report and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_ext.training import files
from cnn_ext.transforms import ColorPCA, pixels


class Folder(Sequence):
    """The images of a folder and of all folders inside, as RGB, in the order of their paths.

    Args:
        folder: searched as :func:`cnn_ext.training.files.find` does.
        read: gives the image of a path.

    What cannot be read is left out; ``unreadable`` has its path and the reason.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Tensor] = files.read_bytes) -> None:
        self.paths = files.find(folder) if folder.exists() else []
        self.read = read
        self.unreadable: dict[Path, str] = {}
        if not self.paths:
            raise ValueError(f"{folder}: expected a folder with images, found none")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        """(3, H, W); without a pixel where the file cannot be read."""
        try:
            return self.read(self.paths[index])
        except files.BrokenImageError as error:
            self.unreadable[self.paths[index]] = str(error)
            return torch.zeros(3, 0, 0, dtype=torch.uint8)

    def first(self, count: int) -> Iterator[Tensor]:
        """Images to look at, uint8, spread over those of the folder that can be read."""
        readable = [i for i, path in enumerate(self.paths) if path not in self.unreadable]
        for index in readable[:: max(1, len(readable) // count)][:count]:
            yield pixels.to_bytes(self[index])


def run(folder: Path, out: Path, show: bool = False) -> dict:
    """Fits, writes ``out`` and, if asked, the picture beside it; returns the report.

    Args:
        folder: of images.
        out: gets what :meth:`ColorPCA.load` reads.
        show: whether to draw the picture.
    """
    images = Folder(folder, files.read)  # 16 bits are fitted as 16 bits
    try:
        pca = ColorPCA.fit(images, source=str(folder))
    except ValueError:
        if len(images.unreadable) < len(images):
            raise
        reason = next(iter(images.unreadable.values()))
        raise ValueError(f"{folder}: none of {len(images)} images can be read; {reason}") from None
    unreadable = [str(path) for path in images.unreadable]
    out.parent.mkdir(parents=True, exist_ok=True)
    pca.save(out)
    assert pca.mean is not None
    report: dict[str, Any] = {
        "folder": str(folder),
        "images": len(images) - len(unreadable),
        "unreadable": unreadable,
        "reasons": list(images.unreadable.values()),
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

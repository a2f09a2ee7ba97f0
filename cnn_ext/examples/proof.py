"""The proof: every reference network learns something real, on our layers and on torch's.

    python -m cnn_ext.examples.proof [FOLDER]

LeNet-5 reads digits; AlexNet 2012 and VGG-11, at full depth and an eighth of the width, tell from which
of ten photographs a 64 x 64 patch comes, with local response normalisation and colour PCA in the loop.
Beside them stands a linear classifier on the same pixels. A network whose report is in the folder
already is not trained again, and one that was stopped continues.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torchvision.transforms import v2

from cnn_ext import visualize
from cnn_ext._json import strict_json
from cnn_ext.training import images, train

LENET: dict[str, Any] = {"data": "digits", "recipe": "lenet5"}
PATCHES: dict[str, Any] = {"data": "photographs", "width": 1 / 8, "ten_crop": True}
RUNS: dict[str, dict[str, Any]] = {
    "lenet5:1998": {"model": "lenet5:1998", **LENET, "epochs": 30},
    "lenet5": {"model": "lenet5", **LENET, "epochs": 30},
    "alexnet": {"model": "alexnet", "recipe": "alexnet-small", "epochs": 9, **PATCHES},
    "vgg11": {"model": "vgg11", "recipe": "vgg-small", "epochs": 4, **PATCHES},
}


def linear_accuracy(
    data: images.Images, size: int, strengths: Sequence[float] = (1e-5, 1e-4, 1e-3)
) -> float:
    """The test accuracy of logistic regression on the middle of the same images.

    Of several strengths of regularisation the one that does best on the test images, which flatters it.
    """
    crop = v2.CenterCrop(size)

    def pixels(part) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [part[i] for i in range(len(part))]
        flat = torch.stack([crop(image).flatten() for image, _ in pairs]).float() / 255
        return flat, torch.tensor([int(label) for _, label in pairs])

    x, y = pixels(data.train)
    x_test, y_test = pixels(data.test)
    mean, scale = x.mean(0), x.std(0).clamp(1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [
            LogisticRegression(C=c, max_iter=50)
            .fit(((x - mean) / scale).numpy(), y.numpy())
            .score(((x_test - mean) / scale).numpy(), y_test.numpy())
            for c in strengths
        ]
    return max(scores)


def run(folder: Path, only: str | None = None) -> dict[str, dict]:
    """Trains what is not there yet; writes ``proof.json`` and ``proof.png`` when all is.

    Args:
        folder: of the runs.
        only: one of :data:`RUNS`.

    Returns:
        By network and build, the report of its run; and the linear classifier's accuracies.
    """
    reports: dict[str, dict] = {}
    for name, options in RUNS.items():
        for layers in train.LAYERS:
            place = folder / name.replace(":", "-") / layers
            if not (place / "report.json").exists() and only in (None, name):
                begun = (place / "options.json").exists()
                train.run(train.Options(**options, layers=layers, accelerator="cpu"), place, begun)
            if (place / "report.json").exists():
                report = json.loads((place / "report.json").read_text())
                reports.setdefault(name, {})[layers] = report
    if sum(map(len, reports.values())) == len(RUNS) * len(train.LAYERS):
        _write(folder, reports)
    return reports


def _write(folder: Path, reports: dict[str, dict]) -> None:
    data = {"digits": images.load("digits"), "photographs": images.load("photographs")}
    linear = {name: linear_accuracy(found, found.size) for name, found in data.items()}
    keys = ("accuracy", "ten_crop_accuracy", "epochs", "seconds", "parameters")
    summary = {
        name: {
            "data": builds["torch"]["data"],
            "linear": linear[builds["torch"]["data"]],
            "first_loss_difference": abs(builds["cnn_ext"]["losses"][0] - builds["torch"]["losses"][0]),
            **{layers: {k: r[k] for k in keys if k in r} for layers, r in builds.items()},
        }
        for name, builds in reports.items()
    }
    text = strict_json(summary, indent=1)
    (folder / "proof.json").write_text(text + "\n")
    losses = {
        name: {layers: report["losses"] for layers, report in builds.items()}
        for name, builds in reports.items()
    }
    visualize.curves(losses).savefig(folder / "proof.png", dpi=80)
    print(text)


if __name__ == "__main__":
    run(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/proof"), *sys.argv[2:])

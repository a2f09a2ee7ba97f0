"""The demonstration: LeNet-5 learns handwritten digits, once on our layers and once on torch's."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

import cnn_ext
from cnn_ext import visualize
from cnn_ext._json import strict_json
from cnn_ext.comparison import layer_errors, step_seconds
from cnn_ext.enabling import torch_only
from cnn_ext.models import LeNet5Loss, lenet5
from cnn_ext.training.classifier import Classifier
from cnn_ext.training.data import Digits
from cnn_ext.training.folder import whole_file

BUILDS = {"cnn_ext": cnn_ext.nn, "torch": torch.nn}


def run(folder: Path, variant: str = "relu", epochs: int = 30, seed: int = 0) -> dict:
    """Trains both builds from the same weights on the same batches, and writes what came of it.

    Args:
        folder: gets ``demo.json`` and ``demo.png``.
        variant: of :func:`cnn_ext.models.lenet5`.
        epochs: passes over the training images.
        seed: of weights, order and augmentation.

    Returns:
        The content of ``demo.json``.
    """
    loss = LeNet5Loss() if variant == "1998" else torch.nn.CrossEntropyLoss()
    torch.manual_seed(seed)
    start = lenet5(variant).state_dict()
    classifiers, accuracy = {}, {}
    for name, layers in BUILDS.items():
        network = lenet5(variant, layers=layers)
        network.load_state_dict(start)
        classifiers[name], accuracy[name] = _train(name, network, loss, epochs, seed)

    networks = {name: classifier.network for name, classifier in classifiers.items()}
    losses = {name: classifier.losses for name, classifier in classifiers.items()}
    digits = Digits(seed=seed)
    batch = digits.test[: digits.batch_size]
    seconds = dict(zip(networks, step_seconds(list(networks.values()), loss, batch), strict=True))
    errors = {
        name: [asdict(row) for row in layer_errors(network, networks["torch"], loss, batch)]
        for name, network in networks.items()
    }
    report = {
        "variant": variant,
        "epochs": epochs,
        "batch_size": digits.batch_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "test_accuracy": accuracy,
        "largest_loss_difference": max(
            abs(a - b) for a, b in zip(losses["cnn_ext"], losses["torch"], strict=True)
        ),
        "first_epoch_loss_difference": max(
            abs(a - b)
            for a, b in zip(
                *(losses[name][: len(losses[name]) // epochs] for name in BUILDS), strict=True
            )
        ),
        "step_milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "step_ratio": seconds["torch"] / seconds["cnn_ext"],
        "errors_against_float64": errors,
        "losses": losses,
    }
    figure = visualize.training(losses, networks["cnn_ext"], digits.test[0][0])
    with whole_file(folder / "demo.json") as file:
        file.write((strict_json(report, indent=1) + "\n").encode())
    with whole_file(folder / "demo.png") as file:
        figure.savefig(file, format="png", dpi=110)
    return report


@torch_only()
def _train(
    name: str, network: torch.nn.Module, loss: torch.nn.Module, epochs: int, seed: int
) -> tuple[Classifier, float]:
    """A trained classifier, and its accuracy on the test images."""
    print(f"\nLeNet-5 on {name}'s layers", flush=True)
    lightning.seed_everything(seed, verbose=False)  # the same order and augmentation for each
    classifier = Classifier(network, loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice: workers, loggers, log intervals
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[TQDMProgressBar(refresh_rate=5)],
        )
        data = Digits(seed=seed)
        trainer.fit(classifier, data)
        (result,) = trainer.test(classifier, data, verbose=False)
    return classifier, result["accuracy"]


def table(report: dict) -> str:
    """The report for a terminal."""
    ours, theirs = (report["errors_against_float64"][name] for name in BUILDS)
    accuracy, step = report["test_accuracy"], report["step_milliseconds"]
    lines = [
        f"LeNet-5 ({report['variant']}) on handwritten digits, {report['epochs']} epochs of batches of "
        f"{report['batch_size']}, {report['threads']} threads, torch {report['torch']}",
        "",
        f"{'':28}{'cnn_ext':>12}{'torch':>12}",
        f"{'test accuracy':28}{accuracy['cnn_ext']:>12.2%}{accuracy['torch']:>12.2%}",
        f"{'training step, ms':28}{step['cnn_ext']:>12.2f}{step['torch']:>12.2f}"
        f"{report['step_ratio']:>11.2f}x",
        f"{'largest difference in loss':28}{report['largest_loss_difference']:>12.1e}"
        f"   (first epoch: {report['first_epoch_loss_difference']:.1e})",
        "",
        f"{'relative rms error':12}{'output':^24}{'gradient there':^24}{'weight gradient':^24}",
        f"{'by layer':18}" + f"{'cnn_ext':>12}{'torch':>12}" * 3,
    ]
    for a, b in zip(ours, theirs, strict=True):
        cells = [
            f"{row[key]:>12.1e}" if row[key] is not None else f"{'':>12}"
            for key in ("output", "grad_output", "grad_weight")
            for row in (a, b)
        ]
        lines.append(f"{a['layer']:18}" + "".join(cells))
    return "\n".join(lines)

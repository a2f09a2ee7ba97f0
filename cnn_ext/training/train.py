"""One run: a network by name learns a data set by name, on Lightning.

A run lives in a folder: ``options.json``, ``last.ckpt`` (closed at the end of each epoch), logs of
TensorBoard and CSV, and at the end ``report.json``, the confusion matrix and mistakes as pictures.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import cnn_ext
from cnn_ext import visualize
from cnn_ext.models import LeNet5Loss
from cnn_ext.models.lenet5 import LeNet51998
from cnn_ext.training import images, networks, recipes
from cnn_ext.training.classifier import Classifier
from cnn_ext.training.seeds import Augmented, SeededSampler

LAYERS = {"cnn_ext": cnn_ext.nn, "torch": torch.nn}


@dataclass(frozen=True)
class Options:
    """Everything that a run depends on."""

    model: str
    data: str
    recipe: str | None = None  # by the model's name if None
    layers: str = "cnn_ext"
    width: float = 1.0
    image_size: int | None = None  # the data set's
    epochs: int | None = None  # the recipe's; the others too
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    ten_crop: bool = False
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    workers: int = 0
    downloads: str = "data"
    skip_broken: bool = False

    def full_recipe(self) -> recipes.Recipe:
        """The named recipe, with what was asked for instead of its own."""
        of_family = (name for name in ("lenet5", "alexnet", "vgg") if self.model.startswith(name))
        name = self.recipe or next(of_family, "adamw")
        if name not in recipes.RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(recipes.RECIPES)}, got {name!r}")
        own = {"epochs": self.epochs, "batch_size": self.batch_size,
               "learning_rate": self.learning_rate}  # fmt: skip
        return replace(
            recipes.RECIPES[name],
            **{k: v for k, v in own.items() if v is not None},  # type: ignore[arg-type]
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames: there is always a whole one. Reads weights only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        """To ``path``, flushed to the disk before the old one goes."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        with open(beside, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        """Tensors and plain values; nothing that runs code."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class ImageData(lightning.LightningDataModule):
    """The loaders of a data set: training images augmented, test images cut out of the middle.

    Args:
        data: what to load.
        recipe: batch size and augmentation.
        size: of the square images.
        channels: that the network wants: grey from colour, or three times the same.
        seed, workers: of the training loader.
    """

    def __init__(
        self, data: images.Images, recipe: recipes.Recipe, size: int, channels: int, seed: int = 0,
        workers: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.data, self.recipe, self.size = data, recipe, size
        self.seed, self.workers = seed, workers
        self.augmentation = recipes.augmentation(recipe, data, size)
        mean, std = images.statistics(data.train)
        self.to_float = [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
            *([v2.Grayscale(1)] if channels < data.channels else []),
            *([v2.RGB()] if channels > data.channels else []),
        ]

    def train_dataloader(self) -> DataLoader:
        """In the order of :class:`SeededSampler`, for this process."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(
            Augmented(self.data.train, v2.Compose([*self.augmentation, *self.to_float])),
            batch_size=self.recipe.batch_size,
            sampler=SeededSampler(len(self.data.train), self.seed, rank, world),  # type: ignore[arg-type]
            drop_last=True,
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        """The test images, in order."""
        return self._tests(recipes.evaluation(self.data, self.size))

    def ten_crop_dataloader(self) -> DataLoader:
        """The test images, ten crops of each."""
        return self._tests(recipes.ten_crops(self.size))

    def _tests(self, transforms: Sequence[Callable]) -> DataLoader:
        transform = v2.Compose([*transforms, *self.to_float])
        test = images.Mapped(self.data.test, transform)
        return DataLoader(test, batch_size=max(1, 512 // self.size), num_workers=self.workers)


def network(options: Options, classes: int, size: int) -> tuple[torch.nn.Module, int]:
    """The options' network with initial weights from the seed, and its images' channels."""
    recipe = options.full_recipe()
    arguments: dict[str, Any] = {"num_classes": classes, "image_size": size, "width": options.width}
    if recipe.init and options.model.startswith(("alexnet", "vgg")):
        arguments["init"] = recipe.init
    torch.manual_seed(options.seed)
    model, channels = networks.build(options.model, layers=LAYERS[options.layers], **arguments)
    if options.layers == "cnn_ext":
        cnn_ext.convert(model, inplace=True)  # torchvision's; of ours, nothing changes
    return model, channels


def run(options: Options, folder: Path, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Trains, evaluates, and writes what came of it.

    Args:
        options: of the run.
        folder: of the run; made if need be.
        resume: continue from the folder's checkpoint: the epoch that was interrupted is repeated, and
            on the CPU every number is as it would have been.
        progress: show bars.

    Returns:
        The content of ``report.json``: accuracy, accuracy over ten crops if asked for, losses.
    """
    data = images.load(options.data, Path(options.downloads), options.skip_broken)
    size = options.image_size or max(data.size, 64 if options.model.startswith("alexnet") else 32)
    model, channels = network(options, len(data.classes), size)
    recipe = options.full_recipe()
    module = ImageData(data, recipe, size, channels, options.seed, options.workers)
    loss = LeNet5Loss() if isinstance(model, LeNet51998) else torch.nn.CrossEntropyLoss()
    if options.compile:
        model.compile()
    classifier = Classifier(model, loss, recipe, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(asdict(options), indent=1) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice: workers, log intervals
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = _trainer(options, recipe, folder, progress)
        last = folder / "last.ckpt"
        checkpoint = last if resume and last.exists() else None  # none before epoch one
        start = time.perf_counter()
        trainer.fit(classifier, module, ckpt_path=checkpoint)
        seconds = time.perf_counter() - start
        outputs, labels = _joined(trainer.predict(classifier, module.val_dataloader()))
        report = {
            **asdict(options),
            "parameters": sum(p.numel() for p in model.parameters()),
            "epochs": recipe.epochs,
            "accuracy": (outputs.argmax(1) == labels).double().mean().item(),
            "seconds": seconds,
            "losses": classifier.losses,
            "left_out": data.left_out,
        }
        if options.ten_crop:
            ten, _ = _joined(trainer.predict(classifier, module.ten_crop_dataloader()))
            report["ten_crop_accuracy"] = (ten.argmax(1) == labels).double().mean().item()
    if trainer.is_global_zero:
        _write(folder, report, data, outputs, labels)
    return report


def _trainer(
    options: Options, recipe: recipes.Recipe, folder: Path, progress: bool
) -> lightning.Trainer:
    closes_each_epoch = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    bars = [TQDMProgressBar(refresh_rate=5)] if progress else []
    return lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        precision=options.precision,  # type: ignore[arg-type]
        logger=[TensorBoardLogger(folder, name="tensorboard"), CSVLogger(folder, name="csv")],
        callbacks=[closes_each_epoch, *bars],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,  # ours knows the processes
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        deterministic="warn",
    )


def _joined(batches) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, labels = zip(*batches, strict=True)
    return torch.cat(outputs).float().cpu(), torch.cat(labels).cpu()


def _write(folder: Path, report: dict, data: images.Images, outputs, labels) -> None:
    """The report and the pictures."""
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    guesses = outputs.argmax(1)
    picture = visualize.confusion_matrix(labels, guesses, data.classes)
    picture.savefig(folder / "confusion.png", dpi=110)
    wrong = (guesses != labels).nonzero().flatten()
    wrong = wrong[outputs[wrong].amax(1).argsort(descending=True)][:24]  # the surest first
    pairs = [(data.test[i][0], data.classes[labels[i]], data.classes[guesses[i]]) for i in wrong]
    visualize.mistakes(pairs).savefig(folder / "mistakes.png", dpi=110)

"""One run: a network by name learns a data set by name, on Lightning.

A run owns a folder: ``options.json``, ``last.ckpt`` (closed at the end of each epoch), logs of
TensorBoard and CSV, and at the end ``report.json``, the confusion matrix and mistakes as pictures.
:mod:`cnn_ext.training.folder` decides who may write there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import cnn_ext
from cnn_ext import visualize
from cnn_ext.models import LeNet5Loss
from cnn_ext.models.lenet5 import LeNet51998
from cnn_ext.training import images, networks, recipes
from cnn_ext.training.classifier import Classifier
from cnn_ext.training.folder import REPORT, DivergedError, RunFolder, new_identity, whole_file
from cnn_ext.training.options import COUNTS, FREE, Options, changes, continued, from_record
from cnn_ext.training.seeds import Augmented, SeededSampler

LAYERS = {"cnn_ext": cnn_ext.nn, "torch": torch.nn}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames: there is always a whole one. Reads weights only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        """To ``path``, flushed to the disk before the old one goes."""
        try:
            with whole_file(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns the one into the other
            reason = str(error).partition("\n")[0]
            kept = "; the one before it is kept" if Path(path).exists() else ""
            raise OSError(f"{path} cannot be written ({reason}){kept}") from error

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        """Tensors and plain values; nothing that runs code."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class LossError(ArithmeticError):
    """The loss is not a finite number."""


class Guard(Callback):
    """Signs every checkpoint with the record of its run, and ends a run whose loss is not finite.

    ``record`` is the run's; see :mod:`cnn_ext.training.folder`.
    """

    record: dict[str, Any]

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Beside what Lightning keeps."""
        checkpoint["run"] = self.record

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """All processes leave at the same step, before a checkpoint is made of it."""
        finite = math.isfinite(pl_module.losses[-1])
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise LossError(f"the loss became NaN or infinite at step {len(pl_module.losses)}")


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


def run(
    options: Options,
    folder: Path,
    resume: bool = False,
    progress: bool = True,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains, evaluates, and writes what came of it.

    Args:
        options: of the run.
        folder: of the run; made if need be.
        resume: continue from the folder's checkpoint: the epoch that was interrupted is repeated, and
            on the CPU every number is as it would have been. A run that has ended is not run again.
        progress: show bars.
        overwrite: begin anew in the place of a run that is in the folder already.

    Returns:
        The content of ``report.json``: accuracy, accuracy over ten crops if asked for, losses.

    Raises:
        ValueError: an option with which nothing can be learnt, or that is not the resumed run's; or a
            folder that has a run already.
        RunError: files of the folder are damaged or of different runs.
        DivergedError: the loss became NaN or left all bounds; the exception has the report.
    """
    place, saved = RunFolder(folder), None
    if resume:
        saved = place.record()
        before = from_record(saved)
        options = continued(options, before)
        if report := place.report(saved):
            _say(f"The run in {str(folder)!r} had ended; its report is {folder / REPORT}.")
            return _checked(report)
        if others := changes(asdict(before), asdict(options), FREE):
            _say(f"The run goes on with other options: {others}.")
    options, guard = options.resolved(), Guard()
    bars = [TQDMProgressBar(refresh_rate=5)] if progress else []
    trainer = _trainer(options, folder, [guard, *bars])
    if trainer.is_global_zero and not resume:
        place.check_free(overwrite)
    skipping = {"skip_broken": True} if options.skip_broken else {}  # of folders alone
    data = images.load(options.data, Path(options.downloads), **skipping)
    size = options.image_size or _own_size(options, data)
    model, channels = network(options, len(data.classes), size)
    _check_data(data, options, trainer.world_size)
    networks.check(model, options.model, channels, size, min(2, options.full_recipe().batch_size))
    recipe = options.full_recipe()
    module = ImageData(data, recipe, size, channels, options.seed, options.workers)
    loss = LeNet5Loss() if isinstance(model, LeNet51998) else torch.nn.CrossEntropyLoss()
    if options.compile:
        model.compile()
    classifier = Classifier(model, loss, recipe, options.seed)
    guard.record = _record(options, size, data, saved)
    with place.lock() if trainer.is_global_zero else contextlib.nullcontext():
        if trainer.is_global_zero:
            place.claim(guard.record, resume, overwrite)
        checkpoint = place.checkpoint(guard.record) if resume else None
        with _told_how_to_continue(place), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice: workers, log intervals
            report, outputs, labels = _learn(trainer, classifier, module, checkpoint, options)
            report = {**guard.record, **report, "left_out": list(data.left_out)}
            if trainer.is_global_zero:
                _write(place, report, data, outputs, labels)
    return _checked(report)


def _learn(
    trainer: lightning.Trainer, classifier: Classifier, module: ImageData, checkpoint: Path | None,
    options: Options,
) -> tuple[dict[str, Any], torch.Tensor | None, torch.Tensor | None]:  # fmt: skip
    """Trains and evaluates: results, and outputs and labels of the test images unless it diverged."""
    outputs = labels = None
    scores = {}
    try:
        trainer.fit(classifier, module, ckpt_path=checkpoint)
        outputs, labels = _joined(trainer.predict(classifier, module.val_dataloader()))
        scores["accuracy"] = _accuracy(outputs, labels)
        if options.ten_crop:
            ten, _ = _joined(trainer.predict(classifier, module.ten_crop_dataloader()))
            scores["ten_crop_accuracy"] = _accuracy(ten, labels)
        diverged = _divergence(classifier.losses, outputs)
    except LossError as error:
        diverged = str(error)
    (timer,) = (c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    report = {
        "parameters": sum(p.numel() for p in classifier.network.parameters()),
        "accuracy": None,
        **scores,
        "seconds": timer.time_elapsed(),
        "losses": classifier.losses,
        "diverged": diverged,
    }
    return report, outputs, labels


def _divergence(losses: Sequence[float], outputs: torch.Tensor) -> str | None:
    """Why a trained network is none; None if all is well."""
    if not outputs.isfinite().all():
        return f"the network's outputs are NaN after step {len(losses)}"
    classes = outputs.shape[1]
    end = losses[-max(1, len(losses) // 10) :]
    start, mean = max(losses[0], math.log(classes)), sum(end) / len(end)
    if mean > 10 * start:
        return f"the loss rose from {losses[0]:.3g} at step 1 to {mean:.3g} at step {len(losses)}"
    return None


def _checked(report: dict[str, Any]) -> dict[str, Any]:
    if report["diverged"]:
        raise DivergedError(
            f"The run diverged: {report['diverged']}; take a smaller --learning-rate than "
            f"{report['learning_rate']:g}",
            report,
        )
    return report


def _accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float | None:
    """The share of right answers; outputs that are not numbers are no answers."""
    if not outputs.isfinite().all():
        return None
    return (outputs.argmax(1) == labels).double().mean().item()


def _record(
    options: Options, size: int, data: images.Images, saved: dict[str, Any] | None
) -> dict[str, Any]:
    """What a run is known by: a new one, or the saved one if its data are still the same."""
    record = {
        "run": saved["run"] if saved else new_identity(),
        **asdict(options),
        "image_size": size,
        "training_images": len(data.train),  # type: ignore[arg-type]
        "test_images": len(data.test),  # type: ignore[arg-type]
        "classes": len(data.classes),
    }
    facts = ("image_size", "classes") if options.skip_broken else ("image_size", "classes", *COUNTS)
    if saved and (found := changes(saved, record, facts)):
        raise ValueError(f"resume: {options.data!r} is not what the run began with: {found}")
    return record


def _own_size(options: Options, data: images.Images) -> int:
    """The data set's, unless the network has a smallest or an only one."""
    if options.family == "lenet5":
        return 32
    return max(data.size, 64 if options.family == "alexnet" else 32)


def _check_data(data: images.Images, options: Options, processes: int) -> None:
    """Raises unless there is something to tell apart and every process has a batch to learn from."""
    training, test = len(data.train), len(data.test)  # type: ignore[arg-type]
    if not (training and test):
        raise ValueError(f"data: expected images, found {training} to learn from and {test} to test on")
    if len(data.classes) < 2:
        raise ValueError(f"data: expected at least two classes, found {len(data.classes)}")
    share = training // processes
    if share < options.full_recipe().batch_size:
        each = f", {share} for each of {processes} processes," if processes > 1 else ""
        raise ValueError(
            f"batch_size: {options.batch_size} is more than the {training} training images{each} "
            "can fill, so that nothing would be learnt"
        )


def _trainer(options: Options, folder: Path, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """Lightning's Trainer.

    Raises:
        ValueError: this machine has not what was asked for.
    """
    alone = not {"MASTER_ADDR", "NODE_RANK", "RANK", "SLURM_NTASKS"} & os.environ.keys()
    if options.nodes > 1 and alone:
        raise ValueError(
            f"nodes: {options.nodes} hosts have to be started by torchrun on each, and would wait for "
            "each other forever"
        )
    for name in ("lightning.pytorch", "lightning.fabric"):  # what they tell is not about the run
        logging.getLogger(name).setLevel(logging.ERROR)
    closes_each_epoch = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    bars = any(isinstance(c, TQDMProgressBar) for c in callbacks)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                max_epochs=options.full_recipe().epochs,
                accelerator=options.accelerator,
                devices=options.devices,
                num_nodes=options.nodes,
                precision=options.precision,  # type: ignore[arg-type]
                logger=[TensorBoardLogger(folder, name="tensorboard"), CSVLogger(folder, name="csv")],
                callbacks=[closes_each_epoch, Timer(), *callbacks],
                plugins=[AtomicCheckpointIO()],
                enable_progress_bar=bars,
                enable_model_summary=False,
                use_distributed_sampler=False,  # ours knows the processes
                num_sanity_val_steps=0,
                log_every_n_steps=10,
                deterministic="warn",
            )
    except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"accelerator: this machine cannot run with accelerator {options.accelerator!r}, devices "
            f"{options.devices} and precision {options.precision!r}: {reason}"
        ) from error
    if trainer.precision != options.precision:  # Lightning would take another and warn
        raise ValueError(
            f"precision: expected {trainer.precision} on this device, got {options.precision}"
        )
    return trainer


@contextlib.contextmanager
def _told_how_to_continue(place: RunFolder) -> Iterator[None]:
    """Whatever stops a run has a note on what to type, and Ctrl-C stays Ctrl-C."""
    try:
        yield
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C
        if not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        stopped.__context__.add_note(place.how_to_continue())
        raise stopped.__context__ from None
    except BaseException as error:
        error.add_note(place.how_to_continue())
        raise


def is_first_process() -> bool:
    """Whether this is the one of the run's processes that tells and writes."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


@rank_zero_only
def _say(sentence: str) -> None:
    """To the user, not to the program that reads the report."""
    print(sentence, file=sys.stderr)


def _joined(batches) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, labels = zip(*batches, strict=True)
    return torch.cat(outputs).float().cpu(), torch.cat(labels).cpu()


def _write(
    place: RunFolder, report: dict[str, Any], data: images.Images, outputs: torch.Tensor | None, labels
) -> None:
    """Pictures and report; the report last, so that a run that has one has ended."""
    if outputs is not None and report["accuracy"] is not None:
        guesses = outputs.argmax(1)
        place.write_picture("confusion.png", visualize.confusion_matrix(labels, guesses, data.classes))
        wrong = (guesses != labels).nonzero().flatten()
        wrong = wrong[outputs[wrong].amax(1).argsort(descending=True)][:24]  # the surest first
        pairs = [(data.test[i][0], data.classes[labels[i]], data.classes[guesses[i]]) for i in wrong]
        place.write_picture("mistakes.png", visualize.mistakes(pairs))
    place.write_json(REPORT, report)

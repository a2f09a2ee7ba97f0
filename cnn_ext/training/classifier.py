"""A classifier's training step, for Lightning's Trainer."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from cnn_ext.training import recipes
from cnn_ext.training.recipes import RECIPES, Recipe
from cnn_ext.training.seeds import derive


class Classifier(LightningModule):
    """Trains any network that gives one output per class.

    Args:
        network: images to (N, classes).
        loss: of the network's output and the labels.
        recipe: optimizer and schedule.
        seed: dropout is drawn anew for each step from (seed, epoch, step); None leaves it alone.

    After training, ``losses`` has the loss of every step.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss: torch.nn.Module,
        recipe: Recipe = RECIPES["lenet5"],
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.recipe, self.seed = network, loss, recipe, seed
        self.losses: list[float] = []

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Every step has random numbers of its own, whatever came before it."""
        if self.seed is not None:
            torch.manual_seed(derive(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = self.loss(self.network(images), labels)
        self.losses.append(loss.item())
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The losses so far go along, so that a resumed run reports all of them."""
        checkpoint["losses"] = list(self.losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The losses of the epochs that were closed."""
        self.losses = list(checkpoint["losses"])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Logs the accuracy under ``test_accuracy``, once an epoch."""
        images, labels = batch
        self.log("test_accuracy", self._accuracy(images, labels), prog_bar=True, sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Logs the share of images whose largest output is the right one."""
        images, labels = batch
        self.log("accuracy", self._accuracy(images, labels), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
        """Probabilities and labels; those of several crops of one image are averaged."""
        images, labels = batch
        if images.dim() == 5:  # (N, crops, C, H, W)
            outputs = self.network(images.flatten(0, 1)).softmax(1)
            return outputs.unflatten(0, images.shape[:2]).mean(1), labels
        return self.network(images).softmax(1), labels

    def _accuracy(self, images: Tensor, labels: Tensor) -> Tensor:
        return (self.network(images).argmax(1) == labels).float().mean()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The recipe's, the schedule advancing once a step."""
        optimizer = recipes.optimizer(self.recipe, self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = recipes.schedule(self.recipe, optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

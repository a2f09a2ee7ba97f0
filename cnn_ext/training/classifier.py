"""A classifier's training step, for Lightning's Trainer."""

from __future__ import annotations

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor


class Classifier(LightningModule):
    """Trains any network that gives one output per class, by AdamW on a one-cycle schedule.

    Args:
        network: images to (N, classes).
        loss: of the network's output and the labels.
        learning_rate: the schedule's peak.

    After training, ``losses`` has the loss of every step.
    """

    def __init__(
        self, network: torch.nn.Module, loss: torch.nn.Module, learning_rate: float = 4e-3
    ) -> None:
        super().__init__()
        self.network, self.loss, self.learning_rate = network, loss, learning_rate
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = self.loss(self.network(images), labels)
        self.losses.append(loss.item())
        self.log("loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Logs the share of images whose largest output is the right one."""
        images, labels = batch
        right = self.network(images).argmax(1) == labels
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, and a rate that rises to its peak and falls to nothing."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

"""Random numbers that depend on where in a run they are drawn, and on nothing that came before.

So an interrupted run continues as if it had not been: order and augmentation derive from (seed, epoch,
image), dropout from (seed, epoch, step). They ride on the sampler, and so reach any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2


def derive(*numbers: int) -> int:
    """One seed from several numbers, as good as independent of its neighbours.

    Example:
        >>> derive(0, 1, 2) == derive(0, 1, 2), derive(0, 1, 2) == derive(0, 2, 1)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])


class SeededSampler(Sampler):
    """A shuffled order for each epoch, as pairs of an index and the seed of its augmentation.

    Args:
        length: of the data set.
        seed: of the run.
        rank, world: in a distributed run, each process takes every ``world``-th image; what is left
            over of the last round is left out, so that all processes take as many.

    Lightning calls ``set_epoch``, after a resume too.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """From here on, the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for index in order[self.rank : len(self) * self.world : self.world]:
            yield index, derive(self.seed, self.epoch, index)


class Augmented(Dataset):
    """A data set whose images are transformed with random numbers of their own; see the sampler."""

    def __init__(self, data: Dataset, transform: v2.Transform) -> None:
        self.data, self.transform = data, transform

    def __getitem__(self, pair: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = pair
        image, label = self.data[index]
        generator = torch.default_generator  # torch.manual_seed asks every device, for each image
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            return self.transform(image), label
        finally:
            generator.set_state(before)

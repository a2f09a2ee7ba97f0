"""Data sets as Lightning data modules."""

from __future__ import annotations

import torch
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import InterpolationMode, v2

BACKGROUND, INK = -0.1, 1.175  # LeCun et al. 1998, section III.A: mean and variance near 0 and 1

# What leaves a digit the digit it is: no mirror image, no half turn.
DIGITS_AUGMENTATION = v2.RandomAffine(
    degrees=10,
    translate=(0.08, 0.08),
    scale=(0.9, 1.1),
    interpolation=InterpolationMode.BILINEAR,
    fill=BACKGROUND,
)


class _Augmented(Dataset):
    """A data set of (image, label) pairs whose images are transformed each time they are read."""

    def __init__(self, data: TensorDataset, transform: v2.Transform) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        return self.transform(image), label


class Digits(LightningDataModule):
    """scikit-learn's 1,797 handwritten digits at 32 x 32, one fifth of each class held out.

    The images are real handwriting (E. Alpaydin and C. Kaynak, UCI, 1998) and come with scikit-learn;
    nothing is downloaded. Training images are shifted, turned and scaled a little, each time anew.

    Args:
        batch_size: images per step.
        seed: of the order of the training images; the split is always the same.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        images = v2.functional.resize(images, [32, 32], antialias=True)
        images = BACKGROUND + images * (INK - BACKGROUND)
        labels = torch.tensor(digits.target)
        train, test = train_test_split(
            torch.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels
        )
        self.train = TensorDataset(images[train], labels[train])
        self.test = TensorDataset(images[test], labels[test])

    def train_dataloader(self) -> DataLoader:
        """Shuffled and augmented; the same order for the same seed."""
        return DataLoader(
            _Augmented(self.train, DIGITS_AUGMENTATION),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def test_dataloader(self) -> DataLoader:
        """In order, as they are."""
        return DataLoader(self.test, batch_size=len(self.test))

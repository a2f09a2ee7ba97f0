"""``ColorPCA``: the principal components of the colours of a data set, fitted in one pass.

The sums are those of ``torch.ops.cnn_ext.color_moments``; here they are joined, turned into a
covariance and its eigenvectors, checked, and written down. Nothing here needs torchvision.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_ext import _native as _native  # first: registers torch.ops.cnn_ext
from cnn_ext.transforms import pixels

FORMAT = "cnn_ext.ColorPCA"


@dataclass(frozen=True)
class Moments:
    """What has to be known of colours to know their covariance, and to go on counting.

    Of bytes, all is exact: Python's integers, which do not overflow, so that the order in which images
    come cannot matter. Of floats, sums around the mean in float64, joined by the update of Chan, Golub
    and LeVeque (1983).

    Args:
        count: pixels.
        first: (C,), sums of bytes (int), or means.
        second: (C, C), sums of products of bytes (int), or of floats less their means.
        exact: whether these are sums of bytes.
    """

    count: int
    first: list
    second: list[list]
    exact: bool

    @classmethod
    def of(cls, images: Tensor) -> Moments:
        """Of all pixels of (..., C, H, W), uint8, uint16 or floating point on [0, 1]."""
        if images.dtype == torch.uint16:
            images = images.float() / pixels.WHITE_16
        first, second = torch.ops.cnn_ext.color_moments(images.detach())
        count = math.prod(images.shape) // images.shape[-3] if images.numel() else 0
        return cls(count, first.tolist(), second.tolist(), images.dtype == torch.uint8)

    def __add__(self, other: Moments) -> Moments:
        if len(self.first) != len(other.first):
            raise ValueError(
                f"images: expected {len(self.first)} channels as before, got {len(other.first)}"
            )
        if self.exact and other.exact:
            first = [a + b for a, b in zip(self.first, other.first, strict=True)]
            second = [[a + b for a, b in zip(*rows, strict=True)]
                      for rows in zip(self.second, other.second, strict=True)]  # fmt: skip
            return Moments(self.count + other.count, first, second, True)
        return self._join(other)

    def _join(self, other: Moments) -> Moments:
        count = self.count + other.count
        (m, s), (n, t) = self.around_mean(), other.around_mean()
        if count == 0:
            return Moments(0, m.tolist(), s.tolist(), False)
        weight = other.count / count
        products = s + t + self.count * weight * torch.outer(n - m, n - m)
        return Moments(count, (m + weight * (n - m)).tolist(), products.tolist(), False)

    def around_mean(self) -> tuple[Tensor, Tensor]:
        """The mean and the sums of products around it, of colours on [0, 1], in float64."""
        if not self.exact:
            return (
                torch.tensor(self.first, dtype=torch.double),
                torch.tensor(self.second, dtype=torch.double),
            )
        count = max(self.count, 1)
        # Quotients of integers are rounded once.
        mean = [total / (255 * count) for total in self.first]
        products = [
            [(count * s - a * b) / (255 * 255 * count) for s, b in zip(row, self.first, strict=True)]
            for row, a in zip(self.second, self.first, strict=True)
        ]
        return torch.tensor(mean, dtype=torch.double), torch.tensor(products, dtype=torch.double)


class ColorPCA:
    """The principal components of colours on [0, 1]: the statistics behind colour PCA.

    Args:
        eigenvectors: (C, C), one in each column, orthonormal.
        eigenvalues: (C,), of the covariance of colours on [0, 1], descending. The sum of the
            variances of C numbers on [0, 1] is at most C / 4, and so is the sum of these; more are
            the eigenvalues of other data (of colours on 0 to 255: divide them by 65025).
        mean: (C,), or None where it is not known.
        source: where the numbers come from, for people.

    All are kept as float64 on the CPU, in attributes of these names; ``count`` is the number of pixels
    that were fitted, 0 where the numbers were given.

    Raises:
        ValueError: shapes do not fit, values are no such eigenvalues or eigenvectors.

    Example:
        >>> images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
        >>> pca = ColorPCA.fit(images, progress=False)
        >>> pca.count
        640
        >>> ColorPCA(torch.eye(3), [4000.0, 300.0, 90.0])
        Traceback (most recent call last):
        ...
        ValueError: eigenvalues: expected those of the covariance of colours on [0, 1], whose sum is \
at most 3/4; got a sum of 4390. Of colours on 0 to 255? Divide eigenvalues by 65025, images by 255
    """

    def __init__(
        self,
        eigenvectors: Tensor | list,
        eigenvalues: Tensor | list,
        mean: Tensor | list | None = None,
        *,
        source: str = "",
    ) -> None:
        self.eigenvectors, self.eigenvalues = _double(eigenvectors), _double(eigenvalues)
        self.mean = None if mean is None else _double(mean)
        self.source = source
        self.moments: Moments | None = None
        _check(self.eigenvectors, self.eigenvalues, self.mean)

    @property
    def channels(self) -> int:
        """C."""
        return len(self.eigenvalues)

    @property
    def count(self) -> int:
        """Pixels fitted."""
        return 0 if self.moments is None else self.moments.count

    @classmethod
    def fit(cls, data: Iterable, progress: bool = True, *, source: str = "") -> ColorPCA:
        """The principal components of all pixels of all images, in one pass and constant memory.

        Args:
            data: a data set or a ``DataLoader``: anything that gives images, batches of images, or
                tuples or dicts that begin with them. Images are tensors, (..., C, H, W), uint8, uint16
                or floating point on [0, 1], of any size; NumPy arrays, (..., H, W, C), of the same; or
                PIL images, read as RGB. Those of 16 bits (modes I;16 and I) hold 0 to 65535, those of
                floats (F) 0 to 1. :class:`RandomColorPCA` takes the same, and means the same by them.
            progress: whether to draw a progress bar.
            source: for people; kept with the result.

        Returns:
            The eigenvectors and eigenvalues of the covariance (divided by the number of pixels),
            largest first. Each eigenvector's component of largest magnitude is positive. Of uint8
            images the sums are exact, and the result has the same bits in whatever order or batches
            the images come.

        Raises:
            ValueError: no pixels, a pixel that is NaN, infinite or not on [0, 1], images of different
                numbers of channels.
            TypeError: something that holds no image, or integers that are no bytes.
        """
        total: Moments | None = None
        for number, sample in enumerate(_progress(data) if progress else _samples(data)):
            for found in _images(sample):
                image = pixels.of(found, f"data: sample {number}")
                pixels.check_range(image, f"data: sample {number}")
                moments = Moments.of(image)
                total = moments if total is None else total + moments
        return cls.from_moments(total, source)

    @classmethod
    def from_moments(cls, moments: Moments | None, source: str = "") -> ColorPCA:
        """The principal components of what was counted."""
        if moments is None or moments.count == 0:
            raise ValueError("data: expected images with at least one pixel, got none")
        mean, products = moments.around_mean()
        if not (mean.isfinite().all() and products.isfinite().all()):
            raise ValueError("data: expected finite colours on [0, 1], got NaN or infinite ones")
        values, vectors = torch.linalg.eigh(products / moments.count)
        vectors = vectors.flip(1)
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        pca = cls(vectors * signs, values.flip(0).clamp(min=0), mean, source=source)
        pca.moments = moments
        return pca

    def merge(self, *others: ColorPCA) -> ColorPCA:
        """As if all had been fitted at once: for the parts of several workers or ranks.

        Raises:
            ValueError: one of them was given, not fitted, and so has no count of pixels.
        """
        total: Moments | None = None
        for part in (self, *others):
            if part.moments is None:
                raise ValueError(
                    "merge: expected results of ColorPCA.fit, got eigenvectors without pixels"
                )
            total = part.moments if total is None else total + part.moments
        return self.from_moments(total, self.source)

    @classmethod
    def imagenet(cls) -> ColorPCA:
        """ImageNet's, as everybody copies them.

        Source: facebookarchive/fb.resnet.torch, datasets/imagenet.lua (2016). They are eigenvalues of
        RGB on [0, 1]: the variances that they imply, see docs/color_pca.md, are those measured there.
        The mean is of the same file.
        """
        return cls(
            [
                [-0.5675, 0.7192, 0.4009],
                [-0.5808, -0.0045, -0.8140],
                [-0.5836, -0.6948, 0.4203],
            ],
            [0.2175, 0.0188, 0.0045],
            [0.485, 0.456, 0.406],
            source="ImageNet, facebookarchive/fb.resnet.torch, datasets/imagenet.lua",
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.eigenvalues.tolist())
        pixels = f", {self.count} pixels" if self.count else ""
        return f"ColorPCA(eigenvalues=[{values}]{pixels}{f', {self.source}' if self.source else ''})"

    def state_dict(self) -> dict[str, Any]:
        """Everything, in lists and numbers: what :meth:`save` writes."""
        moments = self.moments
        return {
            "format": FORMAT,
            "source": self.source,
            "eigenvalues": self.eigenvalues.tolist(),
            "eigenvectors_in_columns": self.eigenvectors.tolist(),
            "mean": None if self.mean is None else self.mean.tolist(),
            "moments": None if moments is None else dict(vars(moments)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Becomes what ``state`` describes, to the last bit.

        Raises:
            ValueError: it is not the state of a ColorPCA.
        """
        try:
            if state["format"] != FORMAT:
                raise KeyError(state["format"])
            vectors, values = state["eigenvectors_in_columns"], state["eigenvalues"]
            pca = ColorPCA(vectors, values, state["mean"], source=state["source"])
            pca.moments = None if state["moments"] is None else Moments(**state["moments"])
        except (KeyError, TypeError) as wrong:
            raise ValueError(f"state: expected what ColorPCA.state_dict returns ({wrong!r})") from wrong
        vars(self).update(vars(pca))

    def save(self, path: str | Path) -> None:
        """Writes JSON that a person can read, and :meth:`load` to the last bit."""
        lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in self.state_dict().items())
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def load(cls, path: str | Path) -> ColorPCA:
        """What :meth:`save` wrote."""
        pca = cls.__new__(cls)
        pca.load_state_dict(json.loads(Path(path).read_text()))
        return pca


def _double(values: Tensor | list) -> Tensor:
    return (
        torch.as_tensor(values, dtype=torch.double)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
    )


def _check(vectors: Tensor, values: Tensor, mean: Tensor | None) -> None:
    C = values.numel()
    if values.dim() != 1 or C == 0 or vectors.shape != (C, C):
        raise ValueError(
            f"eigenvectors, eigenvalues: expected shapes (C, C) and (C,), got {tuple(vectors.shape)} "
            f"and {tuple(values.shape)}"
        )
    if mean is not None and mean.shape != (C,):
        raise ValueError(f"mean: expected shape ({C},), got {tuple(mean.shape)}")
    if not (values.isfinite().all() and (values >= 0).all()):
        raise ValueError(f"eigenvalues: expected finite ones, at least 0, got {values.tolist()}")
    if (values.diff() > 0).any():
        raise ValueError(f"eigenvalues: expected descending ones, got {values.tolist()}")
    if values.sum() > C / 4 * (1 + 1e-9):
        raise ValueError(
            "eigenvalues: expected those of the covariance of colours on [0, 1], whose sum is at most "
            f"{C}/4; got a sum of {values.sum():.4g}. Of colours on 0 to 255? Divide eigenvalues by "
            "65025, images by 255"
        )
    error = (vectors.mT @ vectors - torch.eye(C, dtype=torch.double)).abs().max()
    if not error < 1e-2:  # published ones have four digits; NaN is refused too
        raise ValueError(
            f"eigenvectors: expected orthonormal columns, got {vectors.tolist()}, whose products are "
            f"up to {error:.2g} from 0 or 1"
        )


def _samples(data: Any) -> Iterator:
    """What ``data`` gives: by iteration, or by index as a map-style data set does."""
    if pixels.is_pil(data):
        yield data
    elif hasattr(data, "__iter__"):
        yield from data
    elif not hasattr(data, "__getitem__"):
        raise TypeError(f"data: expected a data set or a loader of images, got {type(data).__name__}")
    else:
        for index in range(len(data)):
            yield data[index]


def _progress(data: Any) -> Iterable:
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:  # a bar is not worth a dependency
        return _samples(data)
    total = len(data) if hasattr(data, "__len__") else None
    return tqdm(_samples(data), total=total, desc="colours", unit="samples")


def _images(sample: Any) -> Iterator:
    """The images of a sample."""
    if isinstance(sample, Mapping):
        named = (sample[key] for key in ("image", "images", "img", "pixel_values") if key in sample)
        first = next(iter(sample.values()), None)
        sample = next(named, next(filter(pixels.is_image, sample.values()), first))
    if isinstance(sample, (tuple, list)) and sample:
        first = sample[0]
        several = isinstance(sample, list) and all(pixels.is_image(item) for item in sample)
        for item in sample if several else [first]:
            yield from _images(item)
    elif pixels.is_image(sample):
        yield sample
    else:
        raise TypeError(
            "data: expected images (tensors with at least 3 dimensions, PIL images, NumPy arrays) or "
            f"tuples or dicts that begin with them, got {type(sample).__name__}"
        )

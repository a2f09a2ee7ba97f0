"""Realistic layers drawn at random: shapes that nobody tuned for.

Each function yields layers without end. A seed gives the same layers on every machine and in every
version: results of different days are of the same layers, so nothing here may change what is drawn.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cnn_ext.bench.convolution import Layer

CHANNELS = [1, 3, 8, 16, 24, 32, 48, 64, 96, 112, 128, 160, 192, 256, 320, 384, 480, 512, 768, 1024,
            17, 35, 77, 150]  # fmt: skip
CELLS = {  # of every axis of the input
    1: [64, 250, 1000, 4000, 16000],
    2: [7, 13, 14, 19, 28, 38, 56, 75, 112, 150, 224],
    3: [4, 7, 8, 14, 16, 28, 56],
}
FEATURES = [10, 16, 35, 64, 84, 120, 128, 150, 256, 400, 512, 768, 1000, 1024, 2048, 4096, 9216]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096]  # of the input of a dense layer
LEAST_PRODUCTS, MOST_PRODUCTS = 2e6, 4e9  # of a convolution
MOST_ELEMENTS = 3e7  # of a tensor


class Convolution(NamedTuple):
    """A convolution with the same size, filter and stride along every axis."""

    axes: int
    N: int
    C: int
    H: int  # cells of the input along every axis
    K: int
    R: int
    stride: int
    dilation: int
    groups: int
    channels_last: bool

    @property
    def padding(self) -> int:
        """On both sides: the size stays at stride 1, if R is odd."""
        return self.dilation * (self.R // 2)

    @property
    def format(self) -> str:
        """As rows of a benchmark name it."""
        return "channels_last" if self.channels_last else "NCHW"

    def __str__(self) -> str:
        sizes = f"{self.N}, {self.C}, {self.H}, {self.K}, {self.R}"
        rest = f"{self.stride}, {self.dilation}, {self.groups}"
        return f"{self.axes}-d ({sizes}; {rest}; {self.format})"


class Dense(NamedTuple):
    """A dense layer."""

    rows: int
    in_features: int
    out_features: int


class Pool(NamedTuple):
    """Max-pooling with square windows."""

    N: int
    C: int
    H: int
    R: int
    stride: int
    padding: int
    channels_last: bool


def convolutions(seed: int) -> Iterator[Convolution]:
    """Convolutions of 2 to 4,000 million multiplications.

    Example:
        >>> print(next(convolutions(0)))
        1-d (8, 77, 1000, 1024, 3; 1, 1, 1; NCHW)
    """
    draw = random.Random(seed)
    while True:
        axes = draw.choice([2, 2, 2, 2, 1, 3])
        C, K = draw.choice(CHANNELS), draw.choice(CHANNELS)
        R = draw.choice([1, 3, 3, 3, 5, 7, 9, 11] if axes < 3 else [1, 3, 3, 5])
        stride = draw.choice([1, 1, 1, 2, 2, 4])
        dilation = draw.choice([1, 1, 1, 1, 2, 4]) if R > 1 and stride == 1 else 1
        groups = draw.choice([1, 1, 1, 1, 1, C, 2, 4, 8, 32])
        H, N = draw.choice(CELLS[axes]), draw.choice([1, 2, 4, 8, 16, 32])
        channels_last = axes > 1 and draw.random() < 0.5
        found = Convolution(axes, N, C, H, K, R, stride, dilation, groups, channels_last)
        reach = dilation * (R - 1) + 1
        if C % groups or K % groups or H + 2 * found.padding < reach:
            continue
        cells = ((H + 2 * found.padding - reach) // stride + 1) ** axes
        if _fits(N * cells * K * (C // groups) * R**axes, N * C * H**axes, N * K * cells):
            yield found


def transposed_convolutions(seed: int) -> Iterator[Convolution]:
    """Transposed convolutions as decoders have them: the output is ``stride`` times as large."""
    draw = random.Random(seed)
    while True:
        axes = draw.choice([2, 2, 2, 2, 1, 3])
        C, K = draw.choice(CHANNELS), draw.choice(CHANNELS)
        R = draw.choice([2, 2, 3, 3, 4, 4, 5, 7])
        stride = draw.choice([1, 2, 2, 2, 4])
        groups = draw.choice([1, 1, 1, 1, 1, C, 2, 4])
        H, N = draw.choice(CELLS[axes]), draw.choice([1, 2, 4, 8, 16, 32])
        channels_last = axes > 1 and draw.random() < 0.5
        if C % groups or K % groups or (stride == 1 and R % 2 == 0):  # no padding keeps the size
            continue
        cells = H**axes
        if _fits(N * cells * C * (K // groups) * R**axes, N * C * cells, N * K * cells * stride**axes):
            yield Convolution(axes, N, C, H, K, R, stride, 1, groups, channels_last)


def _fits(products: int, *elements: int) -> bool:
    return LEAST_PRODUCTS < products < MOST_PRODUCTS and max(elements) < MOST_ELEMENTS


def dense_layers(seed: int) -> Iterator[Dense]:
    """Dense layers of 1,000 to 2,000 million multiplications."""
    draw = random.Random(seed)
    while True:
        found = Dense(draw.choice(ROWS), draw.choice(FEATURES), draw.choice(FEATURES))
        if 1e3 < math.prod(found) < 2e9:
            yield found


def pools(seed: int) -> Iterator[Pool]:
    """Max-poolings of 10,000 to 30 million elements."""
    draw = random.Random(seed)
    while True:
        R = draw.choice([2, 2, 2, 3, 3, 3, 5, 7])
        stride = draw.choice([R, R, 1, 2, 3])
        padding = draw.choice([0, 0, R // 2])
        N, C = draw.choice([1, 2, 4, 8, 16, 32]), draw.choice(CHANNELS)
        H, channels_last = draw.choice(CELLS[2]), draw.random() < 0.5
        if 1e4 < N * C * H * H < MOST_ELEMENTS:
            yield Pool(N, C, H, R, stride, padding, channels_last)


def layers(seeds: Sequence[int], count: int, transposed: bool = False) -> Iterator[tuple[int, Layer]]:
    """The first ``count`` convolutions of each seed, with the seed.

    Example:
        >>> [(seed, layer.input) for seed, layer in layers([0, 1], 1)]
        [(0, (8, 77, 1000)), (1, (1, 16, 150, 150))]
    """
    draws = transposed_convolutions if transposed else convolutions
    for seed in seeds:
        for drawn in itertools.islice(draws(seed), count):
            yield seed, as_layer(drawn, seed, transposed)


def as_layer(drawn: Convolution, seed: int, transposed: bool = False) -> Layer:
    """A convolution that was drawn as the benchmark has its layers, in its one memory format."""
    padding, more = drawn.padding, 0
    first, second = drawn.K, drawn.C // drawn.groups
    if transposed:  # padding cuts what R - stride cells reach over, or the output is filled up
        padding = max(0, -(-(drawn.R - drawn.stride) // 2))
        more = drawn.stride - drawn.R + 2 * padding
        first, second = drawn.C, drawn.K // drawn.groups
    return Layer(
        name=str(drawn),
        set=f"random {seed}",
        input=(drawn.N, drawn.C, *[drawn.H] * drawn.axes),
        weight=(first, second, *[drawn.R] * drawn.axes),
        stride=drawn.stride,
        padding=padding,
        dilation=drawn.dilation,
        groups=drawn.groups,
        output_padding=more,
        transposed=transposed,
        only_format=drawn.format,
    )

"""Sample convolutions: the one list that feeds every test of the operation."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Sample:
    """Sizes are per spatial axis; `layout` says how the input lies in memory."""

    name: str
    N: int
    C: int
    K: int
    size: tuple[int, ...]
    filter: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    padding: tuple[int, ...] | int = 0
    dilation: tuple[int, ...] | int = 1
    groups: int = 1
    bias: bool = True
    layout: str = "contiguous"

    def __str__(self) -> str:
        return self.name if self.layout == "contiguous" else f"{self.name}-{self.layout}"

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def symmetric(self) -> bool:
        """Whether padding is the same on both sides of every axis, as torch has it."""
        return isinstance(self.padding, int) or len(self.padding) == self.axes

    @property
    def arguments(self) -> tuple:
        """What follows the tensors, as the dispatcher takes it, less the algorithm."""

        def listed(value):
            return [value] * self.axes if isinstance(value, int) else list(value)

        return listed(self.stride), listed(self.padding), listed(self.dilation), self.groups

    @property
    def geometry(self) -> tuple:
        """Stride, padding, dilation and groups as they were given."""
        return self.stride, self.padding, self.dilation, self.groups

    def tensors(self, dtype=torch.float64, requires_grad=False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias, random."""
        input = lay_out(torch.randn(self.N, self.C, *self.size, dtype=dtype), self.layout)
        weight = torch.randn(self.K, self.C // self.groups, *self.filter, dtype=dtype)
        bias = torch.randn(self.K, dtype=dtype) if self.bias else None
        if requires_grad:
            for tensor in (input, weight, bias):
                if tensor is not None:
                    tensor.requires_grad_()
        return input, weight, bias

    def torch(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same by torch. Asymmetric padding is written out for it."""
        padding = self.padding
        if not self.symmetric:
            input, padding = torch.nn.functional.pad(input, padding), 0
        return TORCH[self.axes](input, weight, bias, self.stride, padding, self.dilation, self.groups)


def lay_out(input: Tensor, layout: str) -> Tensor:
    """The same values, differently in memory."""
    if layout == "channels_last":
        return input.contiguous(memory_format=torch.channels_last)
    if layout == "channels_last_3d":
        return input.contiguous(memory_format=torch.channels_last_3d)
    if layout == "sliced":  # a window of a larger tensor, every second cell of its last axis
        larger = input.new_zeros(*(n + 2 for n in input.shape[:-1]), 2 * input.shape[-1] + 3)
        view = larger[(slice(1, -1),) * (input.dim() - 1) + (slice(2, -1, 2),)]
        return view.copy_(input)
    if layout == "transposed":  # width outside height
        return input.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":  # one image, seen N times
        return input[:1].expand_as(input)
    if layout == "overlapping":  # each row starts one cell after the row before
        return input.as_strided(input.shape, (*input.stride()[:-2], 1, 1))
    assert layout == "contiguous", layout
    return input


SAMPLES = [
    Sample("one cell", 1, 1, 1, (1, 1), (1, 1)),
    Sample("lenet c1", 3, 1, 6, (32, 32), (5, 5)),
    Sample("lenet c3", 3, 6, 16, (14, 14), (5, 5)),
    Sample("lenet c5", 5, 16, 20, (5, 5), (5, 5)),
    Sample("alexnet 1", 2, 3, 24, (35, 35), (11, 11), stride=4, padding=2),
    Sample("vgg", 1, 64, 70, (13, 15), (3, 3), padding=1, bias=False),
    Sample("pointwise", 2, 33, 17, (7, 9), (1, 1)),
    Sample("pointwise strided", 2, 9, 5, (7, 8), (1, 1), stride=2),
    Sample("row filter", 2, 5, 7, (9, 40), (1, 7), padding=(0, 3)),
    Sample("column filter", 2, 5, 7, (40, 9), (7, 1), padding=(3, 0), stride=(3, 1)),
    Sample("wider than a tile", 1, 3, 37, (3, 130), (3, 3), padding=1),
    Sample("wide, every second cell", 1, 3, 5, (5, 130), (3, 3), stride=2, padding=1),
    Sample("wide, every fourth cell", 2, 3, 20, (9, 150), (3, 5), stride=(1, 4), padding=2),
    Sample("long reduction", 2, 67, 15, (6, 5), (3, 3), padding=2),
    Sample("stride beyond filter", 2, 3, 4, (11, 13), (2, 2), stride=(3, 4)),
    Sample("patches", 3, 3, 20, (12, 20), (4, 5), stride=(4, 5)),
    Sample("patches and a border", 2, 5, 6, (13, 11), (4, 2), stride=(4, 2)),
    Sample("patches beyond the end", 2, 3, 4, (5, 7), (2, 2), stride=2, padding=(0, 1, 0, 1)),
    Sample("dilated, mostly padding", 2, 5, 18, (28, 27), (3, 3), padding=12, dilation=12),
    Sample("dilated, all taps but one in padding", 2, 5, 18, (30, 40), (3, 3), 1, 45, 45),
    Sample("dilated, padding behind", 1, 3, 5, (40, 30), (3, 2), (2, 1), (2, 9, 16, 0), (16, 9)),
    Sample("pointwise, long rows", 2, 33, 20, (3, 121), (1, 1), stride=2),
    Sample("pointwise, two blocks", 1, 300, 45, (2, 60), (1, 1), stride=(2, 1)),
    Sample("patches of many channels", 2, 35, 6, (8, 6), (2, 2), stride=2),
    Sample("patches of many channels and a border", 2, 35, 6, (9, 7), (2, 2), stride=2),
    Sample("tubelets of many channels", 2, 33, 3, (5, 4, 6), (2, 2, 3), stride=(2, 2, 3)),
    Sample("tubelets", 2, 3, 6, (4, 7, 5), (2, 3, 1), stride=(2, 3, 1)),
    Sample("dilated", 2, 4, 6, (12, 11), (3, 2), padding=2, dilation=(2, 3)),
    Sample("dilated strided", 2, 4, 6, (17, 16), (3, 3), stride=(2, 3), padding=3, dilation=(4, 2)),
    Sample("grouped", 3, 6, 9, (8, 7), (3, 3), padding=1, groups=3),
    Sample("depthwise", 2, 5, 10, (9, 9), (3, 3), stride=2, padding=1, groups=5),
    Sample("depthwise plain", 2, 19, 19, (9, 21), (3, 3), padding=1, groups=19),
    Sample("depthwise strided", 2, 5, 5, (9, 10), (5, 3), (2, 3), (2, 0), (1, 2), groups=5),
    Sample("depthwise volume", 2, 3, 3, (4, 5, 6), (3, 2, 3), (1, 2, 1), 1, groups=3),
    Sample("padding beyond input", 2, 2, 3, (2, 3), (3, 3), padding=4),
    Sample("asymmetric", 2, 3, 4, (6, 7), (4, 3), padding=(0, 2, 3, 1)),
    Sample("signal", 3, 4, 5, (50,), (9,), stride=2, padding=4),
    Sample("signal dilated", 2, 3, 8, (31,), (3,), dilation=5, groups=1),
    Sample("volume", 2, 3, 4, (5, 6, 7), (3, 2, 3), stride=(2, 1, 2), padding=1),
    Sample("volume, large", 2, 5, 20, (6, 29, 28), (3, 3, 3), padding=(2, 1, 1)),
    Sample("small maps", 3, 18, 20, (14, 13), (3, 3), stride=2, padding=1),
    Sample("small maps, volume", 2, 17, 16, (3, 5, 4), (2, 3, 1), padding=(1, 1, 0)),
    Sample("empty batch", 0, 3, 4, (6, 6), (3, 3), padding=1),
]
VOLUMES = ("volume", "volume, large", "tubelets", "tubelets of many channels")
LAYOUTS = [
    replace(sample, layout=layout)
    for sample in SAMPLES
    if sample.name
    in (
        "lenet c3",
        "vgg",
        "grouped",
        "dilated strided",
        "pointwise",
        "lenet c5",
        "depthwise plain",
        "patches",
        "patches of many channels",
        "patches of many channels and a border",
        "dilated, mostly padding",
        "dilated, all taps but one in padding",
        "dilated, padding behind",
        "pointwise, long rows",
        "pointwise, two blocks",
        "stride beyond filter",
    )
    for layout in ("channels_last", "sliced", "transposed", "expanded", "overlapping")
] + [replace(s, layout="channels_last_3d") for s in SAMPLES if s.name in VOLUMES]
# Read where they lie, or not, where the cache would hold few of them.
LAYOUTS += [
    Sample(f"pointwise, {C} to {K}", 1, C, K, (9, 8), (1, 1), layout="channels_last")
    for C, K in ((512, 20), (1024, 20), (1100, 16), (1100, 32))
]
LAYOUTS += [  # few filters, or in the gradient few channels: along the cells
    replace(s, layout="channels_last")
    for s in (
        Sample("few filters", 2, 34, 5, (9, 40), (2, 2), padding=1),
        Sample("few filters, one row", 2, 17, 3, (7, 19), (1, 3)),
        Sample("first layer", 1, 3, 37, (20, 70), (3, 3), padding=1),
        Sample("first layer, strided", 2, 3, 35, (33, 31), (3, 3), stride=2, padding=1),
        Sample("first layer, large filters", 1, 2, 33, (23, 37), (7, 7), stride=2, padding=3),
    )
]
ALL = SAMPLES + LAYOUTS

# Some images at a time: turned to channels_last, paired, or in float32.
IN_PARTS = [
    Sample("small maps, many", 420, 34, 33, (14, 15), (1, 1)),
    Sample("large maps of odd channels", 5, 17, 8, (150, 160), (3, 3), padding=1),
    Sample("uncovered", 5, 5, 41, (310, 301), (2, 3), stride=3),
    Sample("odd channels", 14, 15, 3, (99, 100), (3, 3), padding=1, layout="channels_last"),
]

# Few pixels and so many filters that they are read where they lie: dense layers.
DENSE = [
    Sample("dense, one input", 1, 2051, 67, (1,), (1,)),
    Sample("dense", 5, 1031, 131, (1, 1), (1, 1)),
    Sample("dense, 64 inputs", 64, 519, 269, (1,), (1,), bias=False),
    Sample("dense, many weights", 70, 2101, 2050, (1, 1), (1, 1)),
    Sample("a large filter that covers its input", 3, 60, 131, (5, 7), (5, 7)),
    Sample("few pixels of one image", 1, 1040, 130, (3, 5), (1, 1), layout="channels_last"),
]
# Almost: there are pixels that are no cells of the input, or its cells are not all of them.
DENSE += [
    replace(s, layout="channels_last")
    for s in (
        Sample("few pixels and more behind", 1, 1024, 256, (1, 8), (1, 1), padding=(0, 2, 0, 0)),
        Sample("few pixels, all of padding", 1, 1024, 256, (1, 4), (1, 1), (3, 1), (1, 0)),
        Sample("few pixels between padding", 1, 1024, 256, (1, 4), (1, 1), padding=(1, 0)),
        Sample("few pixels, strided", 1, 1024, 256, (2, 9), (1, 1), stride=2),
        Sample("few pixels, uncovered phases", 1, 512, 512, (3, 8), (3, 3), stride=2),
    )
]

DEPTHWISE = [
    s for s in [*ALL, *(replace(s, layout="channels_last") for s in SAMPLES if s.axes == 2)]
    if s.C == s.K == s.groups > 1
]  # fmt: skip

# Whole vectors of groups in channels_last are read where they lie; edges have taps of their own.
DEPTHWISE += [
    replace(s, layout="channels_last" if s.axes == 2 else "channels_last_3d")
    for s in (
        Sample("vectors", 2, 16, 16, (13, 19), (3, 3), padding=1, groups=16),
        Sample("vectors, valid", 1, 32, 32, (9, 21), (3, 5), groups=32),
        Sample("vectors, two and one", 2, 48, 48, (9, 14), (3, 3), padding=1, groups=48),
        Sample("vectors, two by two, stride 2", 2, 64, 64, (11, 9), (5, 3), 2, 2, groups=64),
        Sample("vectors, five, strides apart", 1, 80, 80, (13, 12), (3, 3), (2, 3), 1, 1, 80),
        Sample("vectors of a volume", 1, 48, 48, (4, 5, 6), (3, 2, 3), (1, 2, 1), 1, groups=48),
        Sample("vectors, stride 2", 3, 16, 16, (14, 17), (3, 3), stride=2, padding=1, groups=16),
        Sample("vectors, uneven", 2, 16, 16, (15, 12), (5, 3), (2, 3), (0, 3, 2, 1), (1, 2), 16),
        Sample("vectors, all edges", 2, 16, 16, (4, 3), (7, 7), padding=3, groups=16),
        Sample("vectors, beyond all", 1, 16, 16, (3, 4), (2, 3), padding=5, groups=16),
        Sample("vectors, apart", 1, 16, 16, (9, 8), (2, 2), stride=3, groups=16),
        Sample("vectors, wide", 1, 16, 16, (3, 1100), (1, 9), padding=(0, 4), groups=16),
        Sample("vectors, deep", 2, 16, 16, (5, 6, 7), (3, 2, 3), (2, 1, 2), 1, (1, 2, 1), 16),
    )
]

# Groups of a few channels and as many filters: their kernels, in place in whole vectors of
# channels_last and by rows otherwise.
NARROW = [
    Sample("groups of 2", 2, 32, 32, (9, 21), (3, 3), padding=1, groups=16),
    Sample("groups of 2, uneven", 2, 10, 10, (9, 12), (2, 5), (2, 1), (1, 2), groups=5),
    Sample("groups of 4", 2, 48, 48, (9, 20), (3, 3), padding=1, groups=12, bias=False),
    Sample("groups of 4, strided", 2, 32, 32, (11, 13), (3, 4), (2, 3), 1, groups=8),
    Sample("groups of 4, seven of them", 1, 28, 28, (8, 7), (3, 3), 2, (1, 0, 0, 2), groups=7),
    Sample("groups of 4, dilated", 2, 16, 16, (14, 16), (3, 3), 1, 2, 2, groups=4),
    Sample("groups of 4, dilated strided", 2, 16, 16, (17, 18), (3, 5), 2, 3, 2, groups=4),
    Sample("groups of 4, full padding", 2, 16, 16, (9, 12), (3, 5), 1, (2, 4), groups=4),
    Sample("groups of 32, rows strided", 1, 64, 64, (12, 9), (3, 5), (2, 1), (0, 2), groups=2),
    Sample("groups of 8", 3, 64, 64, (7, 19), (3, 3), padding=1, groups=8),
    Sample("groups of 8, 7 x 7", 1, 24, 24, (14, 12), (7, 7), padding=3, groups=3),
    Sample("groups of 8, pointwise", 2, 32, 32, (5, 9), (1, 1), groups=4),
    Sample("groups of 8, strides apart", 1, 16, 16, (9, 11), (2, 2), stride=3, groups=2),
    Sample("groups of 8, all edges", 2, 16, 16, (4, 3), (5, 5), padding=2, groups=2),
    Sample("groups of 16", 2, 80, 80, (7, 12), (3, 3), padding=1, groups=5),
    Sample("groups of 16, strided", 2, 32, 32, (10, 9), (3, 3), 2, 1, groups=2),
    Sample("groups of 16, in blocks", 2, 512, 512, (5, 6), (3, 3), padding=1, groups=32),
    Sample("groups of 32", 2, 96, 96, (6, 9), (3, 3), padding=1, groups=3),
    Sample("groups of 32, in blocks", 1, 256, 256, (5, 4), (3, 5), 2, 2, groups=8),
    Sample("groups of 4 of a signal", 3, 16, 16, (40,), (9,), 1, 4, groups=4),
    Sample("groups of 8 of a signal, strided", 2, 24, 24, (31,), (5,), 2, 2, groups=3),
    Sample("groups of 4 of a volume", 2, 16, 16, (4, 5, 6), (3, 2, 3), (1, 2, 1), 1, groups=4),
    Sample("groups of 16 of a volume", 1, 32, 32, (3, 6, 5), (2, 3, 3), (2, 1, 1), 1, groups=2),
]
NARROW += [replace(s, layout="channels_last") for s in NARROW if s.axes == 2]
NARROW += [replace(s, layout="channels_last_3d") for s in NARROW if s.axes == 3]
NARROW += [
    replace(s, layout=layout)
    for s in NARROW
    if s.name in ("groups of 4", "groups of 16, strided") and s.layout == "contiguous"
    for layout in ("sliced", "transposed", "expanded", "overlapping")
]

# Over every way in which bands, their blocks of channels and panels of filters can be ragged.
DIRECT = [
    Sample("blocks of channels", 2, 70, 20, (30, 29), (3, 3), padding=1),
    Sample("blocks of channels, few filters", 2, 150, 3, (23, 25), (3, 3), padding=1),
    Sample("blocks of rows", 1, 3, 9, (50, 61), (3, 3), padding=1),
    Sample("blocks of rows, strided", 2, 3, 17, (70, 61), (7, 5), stride=(3, 2), padding=3),
    Sample("one filter", 1, 5, 1, (20, 200), (3, 3)),
    *(Sample(f"{K} filters", 1, 2, K, (9, 70), (3, 3), padding=1) for K in (2, 4, 7, 8, 11)),
    *(  # panels that a half fills; pixels that are evenly spaced five by five, and not
        Sample(f"{K} filters, rows of {Q}", 2, 6, K, (11, Q + 2), (3, 3))
        for K in (8, 16, 48)
        for Q in (7, 10)
    ),
    Sample("groups of few", 3, 12, 20, (9, 10), (3, 3), padding=1, groups=4),
    Sample("large filter", 1, 2, 3, (35, 34), (31, 33)),
    Sample("wide dilation", 2, 3, 5, (9, 40), (2, 3), dilation=(5, 13)),
    Sample("deep", 1, 4, 18, (6, 9, 10), (3, 3, 3), stride=(2, 1, 1), padding=1, dilation=(1, 2, 1)),
]
DIRECT += [replace(s, layout="channels_last") for s in DIRECT if s.axes == 2]

# 3 x 3 and 5 x 5 filters at stride 1, over every way in which tiles and channels can be ragged.
WINOGRAD = [
    *(s for s in ALL if s.filter in ((3, 3), (5, 5)) and s.stride == s.dilation == 1),
    Sample("one tile", 1, 1, 1, (3, 3), (3, 3)),
    Sample("whole tiles", 2, 16, 32, (8, 12), (3, 3), padding=1),
    Sample("joined images", 7, 18, 33, (13, 13), (3, 3), padding=1),
    Sample("joined images, valid", 5, 17, 20, (7, 6), (3, 3)),
    Sample("joined images, one way", 3, 16, 16, (14, 56), (3, 3), padding=1),
    Sample("five", 5, 20, 35, (9, 11), (5, 5), padding=2),
    Sample("five, full", 2, 3, 4, (5, 6), (5, 5), padding=4),
    Sample("groups of many", 3, 36, 40, (9, 10), (3, 3), padding=1, groups=2),
    Sample("uneven padding", 4, 5, 6, (6, 7), (3, 3), padding=(0, 2, 1, 0)),
    Sample("padding beyond the filter", 2, 4, 5, (4, 5), (3, 3), padding=5),
    Sample("many tiles", 1, 6, 7, (70, 75), (3, 3), padding=1),
    Sample("channels in blocks", 1, 150, 40, (6, 9), (3, 3), padding=1),
]
WINOGRAD += [replace(s, layout="channels_last") for s in WINOGRAD if s.layout == "contiguous"]

# Filters of 3 x 3 or 5 x 5 cells in each phase of their stride.
WINOGRAD_STRIDED = [
    Sample("alexnet 1", 3, 3, 24, (35, 39), (11, 11), stride=4, padding=2),
    Sample("all cells", 2, 3, 5, (32, 32), (12, 12), stride=4),
    Sample("strides apart", 2, 5, 6, (20, 31), (5, 8), stride=(2, 3), padding=(1, 4)),
    Sample("one axis strided", 2, 5, 6, (20, 31), (3, 6), stride=(1, 2)),
    Sample("five in each phase", 1, 4, 20, (25, 27), (9, 10), stride=2, padding=5),
    Sample("cells beyond the last window", 2, 2, 3, (16, 17), (5, 5), stride=2),
    Sample("groups by phases", 2, 8, 6, (15, 17), (5, 6), stride=2, padding=2, groups=2),
]
WINOGRAD_STRIDED += [replace(s, layout="channels_last") for s in WINOGRAD_STRIDED]

# Small enough for finite differences in every direction.
SMALL = [
    Sample("plain", 2, 2, 3, (4, 5), (3, 2)),
    Sample("everything", 2, 4, 6, (5, 6), (2, 3), (2, 1), (1, 2), (2, 1), groups=2),
    Sample("asymmetric small", 1, 2, 2, (3, 4), (2, 2), padding=(1, 0, 0, 2)),
    Sample("stride beyond filter small", 1, 2, 2, (5, 5), (1, 1), stride=3, bias=False),
    Sample("channels last small", 2, 3, 2, (4, 4), (3, 3), padding=1, layout="channels_last"),
    Sample("signal small", 2, 2, 3, (7,), (3,), stride=2, padding=1),
    Sample("volume small", 1, 2, 2, (3, 3, 3), (2, 2, 2), padding=1),
]

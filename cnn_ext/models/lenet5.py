"""LeNet-5, as published in 1998 and as it is read today.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86 (1998), 2278-2324; section II.B and figure 2. Equation, table
and figure numbers below are that paper's.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor, nn

from cnn_ext import nn as ours

# Table I: which maps of S2 each of the sixteen maps of C3 sees.
C3_CONNECTIONS = (
    (0, 1, 2),
    (1, 2, 3),
    (2, 3, 4),
    (3, 4, 5),
    (0, 4, 5),
    (0, 1, 5),
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (0, 3, 4, 5),
    (0, 1, 4, 5),
    (0, 1, 2, 5),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)

# The ten digits as 7 x 12 bitmaps: the centres of the output units. The paper draws its own in
# figure 3; these are redrawn in their spirit, not copied pixel by pixel.
DIGITS = """
..###.. ...#... .#####. .#####. .....#. ####### ..####. ####### .#####. .#####.
.#...#. ..##... #.....# #.....# ....##. #...... .#..... ......# #.....# #.....#
#.....# .###... ......# ......# ...#.#. #...... #...... ......# #.....# #.....#
#.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
#.....# ...#... ......# ......# .#...#. ######. #...... .....#. .#...#. #.....#
#.....# ...#... .....#. ..####. #....#. ......# ######. ....#.. ..###.. .######
#.....# ...#... ....#.. ......# ####### ......# #.....# ....#.. .#...#. ......#
#.....# ...#... ...#... ......# .....#. ......# #.....# ...#... #.....# ......#
#.....# ...#... ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#
#.....# ...#... .#..... ......# .....#. ......# #.....# ..#.... #.....# ......#
.#...#. ...#... #...... #.....# .....#. #.....# #.....# ..#.... #.....# .....#.
..###.. .#####. ####### .#####. .....#. .#####. .#####. ..#.... .#####. .####..
"""


def digit_bitmaps() -> Tensor:
    """The centres of the output units: (10, 84), ink 1 and background -1, row by row.

    Example:
        >>> bitmaps = digit_bitmaps()
        >>> for row in bitmaps[7].view(12, 7)[:4]:
        ...     print("".join("#" if cell > 0 else "." for cell in row))
        #######
        ......#
        ......#
        .....#.
    """
    columns = zip(*(line.split() for line in DIGITS.split("\n") if line), strict=True)
    cells = [[1.0 if cell == "#" else -1.0 for cell in "".join(rows)] for rows in columns]
    return torch.tensor(cells)


class ScaledTanh(nn.Module):
    """The squashing function 1.7159 tanh(2 x / 3): f(1) = 1 and f(-1) = -1 (appendix A)."""

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return 1.7159 * torch.tanh(2 / 3 * input)


class Subsampling(nn.Module):
    """S2 and S4: the sum of every 2 x 2 window, times one coefficient a map, plus one bias a map.

    Shape:
        (N, maps, H, W) to (N, maps, H / 2, W / 2).
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps))
        self.bias = nn.Parameter(torch.empty(maps))

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        sums = 4 * nn.functional.avg_pool2d(input, 2)
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


class TableConv2d(nn.Module):
    """A convolution whose filters see the input maps that a table names: LeNet-5's C3.

    Only the kernels of the table are stored, as ``weight`` (connections, 1, R, S). Each call lays them
    out as a dense filter bank, zero where there is no connection, and convolves once.

    Args:
        in_channels: input maps.
        table: for each filter, the input maps it sees.
        kernel_size: of the square kernels.
        layers: :mod:`cnn_ext.nn` or ``torch.nn``, whose ``conv2d`` is called.

    Example:
        >>> layer = TableConv2d(6, C3_CONNECTIONS, 5)
        >>> layer.weight.shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([60, 1, 5, 5]), 1516)
    """

    filters: Tensor
    maps: Tensor

    def __init__(
        self,
        in_channels: int,
        table: tuple[tuple[int, ...], ...],
        kernel_size: int,
        layers: ModuleType = ours,
    ) -> None:
        super().__init__()
        pairs = [(k, c) for k, maps in enumerate(table) for c in maps]
        self.in_channels, self.out_channels = in_channels, len(table)
        self.weight = nn.Parameter(torch.empty(len(pairs), 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(len(table)))
        filters, maps = torch.tensor(pairs).T
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("maps", maps, persistent=False)
        self.layers = layers.__name__
        self.convolve = layers.functional.conv2d

    def dense_weight(self) -> Tensor:
        """The filter bank, (K, C, R, S), with zeros where the table has no connection."""
        size = (self.out_channels, self.in_channels, *self.weight.shape[2:])
        dense = self.weight.new_zeros(size)
        return dense.index_put((self.filters, self.maps), self.weight.squeeze(1))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, P, Q)."""
        return self.convolve(input, self.dense_weight(), self.bias)

    def extra_repr(self) -> str:
        """What the table comes to."""
        return (
            f"{self.in_channels}, {self.out_channels}, connections={len(self.weight)}, "
            f"kernel_size={tuple(self.weight.shape[2:])}, layers={self.layers}"
        )


class EuclideanRBF(nn.Module):
    """The output layer: minus the squared distance of its input from fixed centres (equation 7).

    Shape:
        (N, 84) to (N, 10): -sum_j (x_j - w_ij)^2, so that the largest output is the nearest centre.
    """

    centres: Tensor

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("centres", centres)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return -(input.unsqueeze(-2) - self.centres).square().sum(-1)


class LeNet5(nn.Module):
    """LeNet-5 as it is read today: dense C3, max-pooling, ReLU, linear outputs. See :func:`lenet5`."""

    def __init__(self, num_classes: int = 10, layers: ModuleType = ours) -> None:
        super().__init__()
        self.c1 = layers.Conv2d(1, 6, 5)
        self.s2 = layers.MaxPool2d(2)
        self.c3 = layers.Conv2d(6, 16, 5)
        self.s4 = layers.MaxPool2d(2)
        self.c5 = layers.Conv2d(16, 120, 5)
        self.f6 = layers.Linear(120, 84)
        self.output = layers.Linear(84, num_classes)
        self.relu = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        """(N, 1, 32, 32) to (N, classes) logits."""
        maps = self.s2(self.relu(self.c1(input)))  # (N, 6, 14, 14)
        maps = self.s4(self.relu(self.c3(maps)))  # (N, 16, 5, 5)
        features = self.relu(self.c5(maps)).flatten(1)  # (N, 120)
        return self.output(self.relu(self.f6(features)))


class LeNet51998(nn.Module):
    """LeNet-5 as published. See :func:`lenet5`."""

    def __init__(self, num_classes: int = 10, layers: ModuleType = ours) -> None:
        super().__init__()
        centres = digit_bitmaps()
        if not 1 <= num_classes <= len(centres):
            raise ValueError(
                f"num_classes: expected 1 to {len(centres)} in the 1998 variant, whose classes are "
                f"bitmaps of digits, got {num_classes}"
            )
        self.c1 = layers.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = TableConv2d(6, C3_CONNECTIONS, 5, layers)
        self.s4 = Subsampling(16)
        self.c5 = layers.Conv2d(16, 120, 5)
        self.f6 = layers.Linear(120, 84)
        self.output = EuclideanRBF(centres[:num_classes])
        self.squash = ScaledTanh()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-2.4 / fan-in, as in appendix A; the coefficients of S2 and S4 start at 1/4.

        A map's sum of four cells then begins as their mean.
        """
        fan_in = {
            self.c1: [25] * 6,
            self.c3: [25 * len(maps) for maps in C3_CONNECTIONS],
            self.c5: [400] * 120,
            self.f6: [120] * 84,
        }
        for layer, fans in fan_in.items():
            bound = torch.tensor([2.4 / fan for fan in fans])
            of_kernel = bound[self.c3.filters] if layer is self.c3 else bound
            with torch.no_grad():
                layer.weight.uniform_(-1, 1)
                layer.weight.mul_(of_kernel.view(-1, *[1] * (layer.weight.dim() - 1)))
                layer.bias.uniform_(-1, 1).mul_(bound)
        for layer in (self.s2, self.s4):
            nn.init.constant_(layer.weight, 0.25)
            nn.init.zeros_(layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, 1, 32, 32) to (N, classes): minus the penalties, so that argmax classifies."""
        maps = self.squash(self.s2(self.squash(self.c1(input))))  # (N, 6, 14, 14)
        maps = self.squash(self.s4(self.squash(self.c3(maps))))  # (N, 16, 5, 5)
        features = self.squash(self.c5(maps)).flatten(1)  # (N, 120)
        return self.output(self.squash(self.f6(features)))


class LeNet5Loss(nn.Module):
    """The paper's maximum a posteriori criterion (equation 9), for the 1998 variant.

    The mean over the batch of y_d + log(exp(-j) + sum_i exp(-y_i)), with y_i = -output_i the penalty
    of class i and d the right class: lower the right penalty, raise the wrong ones.

    Args:
        j: the penalty of an implicit class "none of these". A wrong class whose penalty is well above
            ``j`` is not pushed further away. The paper asks for a positive constant and does not give
            it; penalties are squared distances between points whose 84 coordinates are about +-1, and
            the nearest two centres here are 36 apart.

    Shape:
        output (N, classes) of ``lenet5("1998")``, target (N,) integers; returns a scalar.

    Example:
        >>> output = torch.tensor([[0.0, -50.0, -50.0]])  # right on the centre of class 0
        >>> LeNet5Loss(j=20.0)(output, torch.tensor([0])).item() < 1e-6
        True
        >>> LeNet5Loss(j=20.0)(output, torch.tensor([1])).item()
        50.0
    """

    def __init__(self, j: float = 20.0) -> None:
        super().__init__()
        if not (j > 0 and math.isfinite(j)):
            raise ValueError(f"j: expected a positive number, got {j}")
        self.j = j

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        none_of_these = output.new_full((len(output), 1), -self.j)
        competition = torch.cat([output, none_of_these], dim=1).logsumexp(dim=1)
        right = -output.gather(1, target.unsqueeze(1)).squeeze(1)
        return (right + competition).mean()

    def extra_repr(self) -> str:
        """The constant."""
        return f"j={self.j}"


def lenet5(
    variant: str = "relu", *, num_classes: int = 10, layers: ModuleType = ours
) -> LeNet5 | LeNet51998:
    """LeNet-5.

    Args:
        variant: ``"relu"``, the modern reading: max-pooling, ReLU, dense C3, linear outputs, 61,706
            parameters. ``"1998"``, as published: trainable subsampling, the connection table of C3,
            scaled tanh, ten Euclidean RBF outputs with fixed centres, 60,000 parameters; train it with
            :class:`LeNet5Loss`.
        num_classes: of the output layer.
        layers: :mod:`cnn_ext.nn`, or ``torch.nn`` for the same network, with the same keys, on
            torch's own convolution.

    Returns:
        A module with the layers ``c1 s2 c3 s4 c5 f6 output``, for inputs (N, 1, 32, 32) in which the
        background is -0.1 and the ink 1.175, so that mean and variance are about 0 and 1.

    Example:
        >>> model = lenet5("1998")
        >>> sum(p.numel() for p in model.parameters())
        60000
        >>> model(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """
    variants: dict[str, type[LeNet5] | type[LeNet51998]] = {"relu": LeNet5, "1998": LeNet51998}
    if variant not in variants:
        raise ValueError(f"variant: expected one of {sorted(variants)}, got {variant!r}")
    return variants[variant](num_classes, layers)

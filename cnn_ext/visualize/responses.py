"""Local response normalisation in pictures: its arithmetic, competition, slopes, and what it reaches.

Also what such pictures need: oriented filters for a first layer, and times side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from torch import Tensor

from cnn_ext import functional
from cnn_ext._inspection import preserved

INSIDE, OUTSIDE, EDGE = "#cfe3f3", "#f4f4f4", "#08519c"


def lrn_windows(
    activations: Tensor, size: int, alpha: float = 1.0, beta: float = 0.75, k: float = 0.0
) -> Figure:
    """The arithmetic of LRN at one pixel: whose square enters which sum, and what comes out.

    Args:
        activations: (K,), one for each filter.
        size: filters in a window; 2 K - 1 and more are all of them.
        alpha, beta, k: the constants, in the paper's convention (``alpha_scaling="sum"``).

    Returns:
        A row for each filter i: a_i; the squares, those of its window coloured, its own framed; the
        sum s_i = k + alpha Σ; and b_i.

    Example:
        >>> figure = lrn_windows(torch.tensor([3.0, 4.0, 12.0]), size=3)
        >>> len(figure.axes[0].patches)
        9
    """
    K = len(activations)
    figure = Figure(figsize=(min(8.5, 4.2 + 0.75 * K), 0.9 + 0.36 * K), layout="constrained")
    ax = figure.subplots()
    normalised = functional.local_response_norm(
        activations.double().view(1, K), size, alpha, beta, k, alpha_scaling="sum"
    )[0]
    for i in range(K):
        window = range(max(0, i - size // 2), min(K - 1, i + (size - 1) // 2) + 1)
        for j in range(K):
            inside = j in window
            colour = INSIDE if inside else OUTSIDE
            edge = (
                {"edgecolor": EDGE, "linewidth": 2, "zorder": 2} if i == j else {"edgecolor": "white"}
            )
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, **edge))
            if inside:
                _write(ax, j + 0.5, i, f"{activations[j] ** 2:g}")
        total = k + alpha * sum(float(activations[j]) ** 2 for j in window)
        _write(ax, -0.8, i, f"{activations[i]:g}")
        _write(ax, K + 0.9, i, f"{total:g}")
        _write(ax, K + 2.5, i, f"{normalised[i]:.3f}")
    for x, heading in (
        (-0.8, "$a_i$"), (K / 2, "$a_j^2$"), (K + 0.9, "$s_i$"), (K + 2.5, "$b_i = a_i\\,/\\,s_i^β$")
    ):  # fmt: skip
        _write(ax, x, -1, heading)
    ax.set(xlim=(-1.5, K + 3.5), ylim=(K + 0.1, -1.1))
    ax.axis("off")
    return figure


def _write(ax: Axes, x: float, row: float, text: str) -> None:
    ax.text(x, row + 0.5, text, ha="center", va="center", fontsize=10)


def competition(ax: Axes, before: Tensor, after: Tensor, title: str = "") -> None:
    """Bars of the activations of neighbouring filters, and inside them what LRN makes of them.

    Args:
        ax: where.
        before, after: (K,).
        title: above.
    """
    filters = range(len(before))
    ax.bar(filters, before.tolist(), width=0.85, color="0.85", label="$a_i$, before")
    ax.bar(filters, after.tolist(), width=0.5, color="C0", label="$b_i$, after")
    ax.set_xticks(filters)
    ax.set_xlabel("filter $i$")
    ax.set_title(title, fontsize=10)
    ax.legend(fontsize=8)


def response_curves(
    ax: Axes, neighbours: Sequence[float], alpha: float, beta: float, k: float, reach: float
) -> None:
    """What a unit puts out against what it takes in, for neighbours of different strengths.

    Where β > 1/2 each curve has a highest point, at a² = (k + alpha e²) / (alpha (2 β - 1)), e² being
    the sum of the neighbours' squares; it is marked.

    Args:
        ax: where.
        neighbours: for each curve e, the root of the sum of the neighbours' squares.
        alpha, beta, k: as in the paper.
        reach: the curves go from 0 to this.
    """
    a = torch.linspace(0, reach, 400, dtype=torch.double)
    colours = [f"C{i}" for i in range(len(neighbours))]
    for e, colour in zip(neighbours, colours, strict=True):

        def unit(a: Tensor, e: float = e) -> Tensor:
            pair = torch.stack([a, torch.full_like(a, e)], 1)
            return functional.local_response_norm(pair, 3, alpha, beta, k, alpha_scaling="sum")[:, 0]

        ax.plot(a, unit(a), color=colour, label=f"e = {e:g}")
        if beta > 0.5:
            turn = math.sqrt((k + alpha * e * e) / (alpha * (2 * beta - 1)))
            if turn <= reach:
                top = unit(torch.tensor([turn], dtype=torch.double)).item()
                ax.plot(turn, top, "o", color=colour)
    ax.set(xlabel="$a_i$", ylabel="$b_i$", xlim=(0, reach))
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)


def jacobian(ax: Axes, function: Callable[[Tensor], Tensor], at: Tensor, title: str = "") -> None:
    """The derivative of every output in every input, by autograd: orange pushes up, purple down.

    Args:
        ax: where.
        function: of (K,), to (L,).
        at: (K,), where to differentiate.
        title: above.
    """
    with preserved(function):
        slopes = torch.func.jacrev(function)(at).detach()
    limit = slopes.abs().max().item()
    ax.imshow(slopes.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit)
    for i, j in slopes.abs().gt(0.005).nonzero().tolist():
        strong = abs(slopes[i, j]) > 0.6 * limit
        ax.text(j, i, f"{slopes[i, j]:.2f}", ha="center", va="center", fontsize=8,
                color="white" if strong else "black")  # fmt: skip
    ax.set_xticks(range(slopes.shape[1]))
    ax.set_yticks(range(slopes.shape[0]))
    ax.set(xlabel="input $c$", ylabel="output $i$")
    ax.set_title(title, fontsize=10)


def oriented_filters(count: int = 96, size: int = 11) -> Tensor:
    """Filters for a first layer, made by hand: Gabor waves in grey and in colours.

    A quarter each in grey, red against green, blue against yellow, and grey of half the wavelength;
    in each quarter the angle grows from filter to filter, first for even waves, then for odd ones.
    They look like what first layers learn; they are not learned.

    Args:
        count: divisible by 8.
        size: of a side.

    Returns:
        (count, 3, size, size), each of mean 0 and norm 1.

    Raises:
        ValueError: a count that is not divisible by 8.

    Example:
        >>> filters = oriented_filters()
        >>> filters.shape
        torch.Size([96, 3, 11, 11])
        >>> torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(96))
    """
    if count % 8:
        raise ValueError(f"count: expected one divisible by 8, got {count}")
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    waves = []
    kinds = (((1.0, 1.0, 1.0), 1.2), ((1.0, -1.0, 0.0), 1.2), ((-0.5, -0.5, 1.0), 1.2),
             ((1.0, 1.0, 1.0), 0.6))  # fmt: skip
    for colour, wavelength in kinds:
        for phase in (0.0, math.pi / 2):
            for angle in torch.arange(count // 8) * math.pi / (count // 8):
                along = x * angle.cos() + y * angle.sin()
                wave = torch.cos(2 * math.pi * along / wavelength + phase)
                envelope = torch.exp(-(x**2 + y**2) / 0.3)
                waves.append(torch.tensor(colour).view(3, 1, 1) * wave * envelope)
    filters = torch.stack(waves)
    filters = filters - filters.mean((1, 2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def response_maps(treatments: Mapping[str, Tensor], filters: Sequence[int]) -> Figure:
    """The same feature maps after several treatments, a row for each, a column for each filter.

    Args:
        treatments: by name, maps (K, P, Q), none negative.
        filters: which maps to show.

    Returns:
        Maps from black, 0, to white, the largest value of the row, which stands beside it.
    """
    rows, columns = len(treatments), len(filters)
    figure = Figure(figsize=(1.45 * columns + 1.3, 1.45 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, i in zip(axes[0], filters, strict=True):
        ax.set_title(f"filter {i}", fontsize=9)
    for row, (name, maps) in zip(axes, treatments.items(), strict=True):
        shown = maps[list(filters)].detach()
        for ax, map in zip(row, shown, strict=True):
            ax.imshow(map.numpy(), cmap="gray", vmin=0, vmax=shown.max().item())
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name}\nlargest {shown.max().item():.3g}", fontsize=9)
    return figure


def normalising_cells(
    ax: Axes,
    layer: Callable[[Tensor], Tensor],
    size: Sequence[int],
    cell: Sequence[int],
    title: str = "",
) -> None:
    """Which cells of a batch have a say in one output cell, found by its gradient.

    Args:
        ax: where; a row for each image, a column for each channel.
        layer: whose output has the size of its input.
        size: of the input, (N, C, H, W).
        cell: (n, c, h, w), the output cell: dark where it is its own input, coloured where others act.
        title: above.
    """
    N, C, H, W = size
    input = torch.randn(N, C, H, W, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    with preserved(layer):
        output = layer(input.requires_grad_())[tuple(cell)]
        (slope,) = torch.autograd.grad(output, input)
    for n in range(N):
        for c in range(C):
            for h in range(H):
                for w in range(W):
                    acts = slope[n, c, h, w] != 0
                    colour = EDGE if (n, c, h, w) == tuple(cell) else "#6baed6" if acts else "#ececec"
                    corner = c * (W + 1) + w, n * (H + 1) + h
                    ax.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white"))
    ax.set(xlim=(-0.2, C * (W + 1) - 0.8), ylim=(N * (H + 1) - 0.8, -0.2), aspect="equal")
    ax.set_xticks([c * (W + 1) + W / 2 for c in range(C)], [str(c) for c in range(C)], fontsize=8)
    ax.set_yticks([n * (H + 1) + H / 2 for n in range(N)], [str(n) for n in range(N)], fontsize=8)
    ax.set_xlabel("channel", fontsize=9)
    ax.set_ylabel("image", fontsize=9)
    ax.set_title(title, fontsize=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def timings(ax: Axes, milliseconds: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """Times side by side on a logarithmic axis, with the ratio of the slowest to the fastest.

    Args:
        ax: where.
        milliseconds: for each thing measured, by contender.
        title: above.
    """
    contenders = list(dict.fromkeys(name for times in milliseconds.values() for name in times))
    for row, times in enumerate(milliseconds.values()):
        low, high = min(times.values()), max(times.values())
        ax.plot([low, high], [row, row], color="0.8", linewidth=3, zorder=1)
        ax.annotate(f"{high / low:.3g} ×", (math.sqrt(low * high), row), (0, 5),
                    textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
    for i, name in enumerate(contenders):
        rows = [row for row, times in enumerate(milliseconds.values()) if name in times]
        values = [times[name] for times in milliseconds.values() if name in times]
        ax.scatter(values, rows, s=60, color=f"C{i}", marker="osD^v"[i % 5], label=name, zorder=2)
    ax.set_yticks(range(len(milliseconds)), list(milliseconds))
    ax.set(xscale="log", xlabel="milliseconds", ylim=(len(milliseconds) - 0.5, -0.6))
    ax.set_title(title, fontsize=10)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))

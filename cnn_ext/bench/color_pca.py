"""Colour PCA against torch's operations and albumentations; fitting against memory.

``eager`` is the same written in torch's operations: for uint8 to float, add, round, clamp, and back.
FancyPCA fits each image anew, and takes one image of bytes, (H, W, C). It is left out where
albumentations is missing, and has no turn among the others: NumPy's threads spin on for a while after
each call, and would be billed to whoever comes next. Fitting only reads, and ``read`` is torch's sum of
as many bytes of float32, which only reads too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cnn_ext.bench.options import Options, shapes
from cnn_ext.bench.timing import Row, ratio, turns
from cnn_ext.functional import color_pca
from cnn_ext.transforms import ColorPCA


def names(options: Options) -> list[str]:
    """The tensors that can be asked for."""
    return ["x".join(map(str, shape)) for shape in shapes("color_pca")]


def rows(options: Options) -> Iterator[Row]:
    """Two rows, shift and fit, for each tensor, dtype and format."""
    wanted = options.wanted(names(options))
    for shape in shapes("color_pca"):
        if "x".join(map(str, shape)) not in wanted:
            continue
        for dtype in (torch.uint8, torch.float32):
            for memory_format in ("NCHW", "channels_last"):
                yield from tensor_rows(shape, dtype, memory_format, options)


def tensor_rows(
    shape: Sequence[int], dtype: torch.dtype, memory_format: str, options: Options
) -> Iterator[Row]:
    """The rows of one tensor."""
    pca = ColorPCA.imagenet()
    axes, eigenvalues = pca.eigenvectors.float(), pca.eigenvalues.float()
    generator = torch.Generator().manual_seed(0)
    input = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if memory_format == "channels_last":
        input = input.movedim(-3, -1).contiguous().movedim(-1, -3)
    if dtype != torch.uint8:
        input = input.to(dtype) / 255
    alphas = 0.1 * torch.randn(*shape[:-3], 3, generator=generator)
    shift = {
        "ours": lambda: color_pca(input, axes, eigenvalues, alphas),
        "eager": lambda: composed(input, axes, eigenvalues, alphas),
        "clone": lambda: input.clone(),
    }
    floats = torch.rand(input.nbytes // 4)
    fit = {"ours": lambda: torch.ops.cnn_ext.color_moments(input), "read": lambda: floats.sum()}
    facts = {"operation": "color_pca", "shape": list(shape), "format": memory_format,
             "dtype": str(dtype).removeprefix("torch.")}  # fmt: skip
    timed = turns(shift, options.turns(15), options.seconds())
    times = timed.milliseconds
    if (fancy := fancy_pca(input)) is not None:
        times |= turns({"albumentations": fancy}, options.turns(15), options.seconds()).milliseconds
    row = {**facts, "pass": "shift", "milliseconds": times, "ratio": ratio(times)}
    yield {**row, "spread": timed.spread}
    timed = turns(fit, options.turns(15), options.seconds())
    speed = input.nbytes / 2**30 / timed.milliseconds["ours"] * 1e3
    row = {**facts, "pass": "fitting", "milliseconds": timed.milliseconds}
    yield {**row, "gigabytes_per_second": speed, "spread": timed.spread}


def composed(input: Tensor, eigenvectors: Tensor, eigenvalues: Tensor, alphas: Tensor) -> Tensor:
    """The formula in torch's operations."""
    shift = ((alphas * eigenvalues) @ eigenvectors.mT)[..., None, None]
    if input.dtype == torch.uint8:
        return (input + 255 * shift).round_().clamp_(0, 255).to(torch.uint8)
    return input + shift


def fancy_pca(input: Tensor) -> Callable[[], object] | None:
    """Albumentations' transform of one image of bytes, or None where there is none."""
    try:
        import albumentations
    except ImportError:
        return None
    if input.dim() > 3 or input.dtype != torch.uint8:
        return None
    image = input.movedim(0, -1).contiguous().numpy()
    transform = albumentations.FancyPCA(alpha=0.1, p=1.0)
    return lambda: transform(image=image)

"""Colour PCA against torch and albumentations; fitting against memory.

    python -m benchmarks.color_pca [--out FILE.json]

Every row is one interleaved run, and its medians are compared (see timing.py). `torch` is the same
written in torch's operations: for uint8 to float, add, round, clamp, and back. `clone` allocates its
output, as any operation must. FancyPCA fits each image anew, and takes one image, (H, W, C). It is
left out where albumentations is missing, and has no turn among the others: NumPy's threads spin on for
a while after each call, and would be billed to whoever comes next. Fitting (`moments`) only reads:
`sum` is torch's sum of the same tensor in its own dtype or, of uint8, in int64.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.timing import machine, medians
from cnn_ext.functional import color_pca
from cnn_ext.transforms import ColorPCA

SHAPES = json.loads(Path(__file__).with_name("color_pca.json").read_text())
PCA = ColorPCA.imagenet()
P, EIGENVALUES = PCA.eigenvectors.float(), PCA.eigenvalues.float()


def composed(input, alphas):
    """The formula in torch's operations."""
    shift = ((alphas * EIGENVALUES) @ P.mT)[..., None, None]
    if input.dtype == torch.uint8:
        return (input + 255 * shift).round_().clamp_(0, 255).to(torch.uint8)
    return input + shift


def fancy_pca(input):
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


def row(shape: list[int], dtype: torch.dtype, layout: str) -> dict:
    """The figures of one tensor."""
    input = torch.randint(0, 256, shape, dtype=torch.uint8)
    if layout == "channels_last":
        input = input.movedim(-3, -1).contiguous().movedim(-1, -3)
    if dtype != torch.uint8:
        input = input.to(dtype) / 255
    alphas = 0.1 * torch.randn(*shape[:-3], 3)
    contenders = {
        "ours": lambda: color_pca(input, P, EIGENVALUES, alphas),
        "torch": lambda: composed(input, alphas),
        "clone": lambda: input.clone(),
        "moments": lambda: torch.ops.cnn_ext.color_moments(input),
        "sum": lambda: input.sum(),
    }
    times = medians(contenders, 15 if input.numel() > 2**22 else 100)
    if (fancy := fancy_pca(input)) is not None:
        times |= medians({"albumentations": fancy}, 30)
    gigabytes = input.numel() * input.element_size() / 2**30
    return {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "layout": layout,
        "milliseconds": times,
        "gigabytes_per_second_fitting": gigabytes / times["moments"] * 1e3,
        "gigabytes_per_second_sum": gigabytes / times["sum"] * 1e3,
    }


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    print(
        f"{'':40}{'ms':>9}{'x clone':>9}   faster than {'torch':>6}{'FancyPCA':>10}   fit, GiB/s (sum)"
    )
    for shape in SHAPES:
        for dtype in (torch.uint8, torch.float32):
            for layout in ("contiguous", "channels_last"):
                rows.append(row(shape, dtype, layout))
                t, r = rows[-1]["milliseconds"], rows[-1]
                fancy = (
                    f"{t['albumentations'] / t['ours']:10.0f}" if "albumentations" in t else f"{'':10}"
                )
                name = f"{'x'.join(map(str, shape)):15}{r['dtype']:9}{layout:16}"
                print(
                    f"{name}{t['ours']:9.4f}{t['ours'] / t['clone']:9.2f}{t['torch'] / t['ours']:21.1f}"
                    f"{fancy}{r['gigabytes_per_second_fitting']:10.1f}"
                    f" ({r['gigabytes_per_second_sum']:.1f})",
                    flush=True,
                )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Colour PCA beside eager torch and one copy."""

from collections.abc import Iterator

import torch

from benchmarks.cuda.timing import medians

SHAPES = [[1, 3, 256, 256], [256, 3, 256, 256]]
ops = torch.ops.cnn_ext


def rows(device: str, quick: bool, rounds: int) -> Iterator[tuple[str, dict]]:
    """A row for each batch of images and dtype."""
    for shape in [[2, 3, 8, 8]] if quick else SHAPES:
        for dtype in (torch.uint8, torch.float32, torch.bfloat16):
            yield f"colour {shape} {dtype}", shape_figures(shape, dtype, device, rounds)


def shape_figures(shape: list[int], dtype: torch.dtype, device: str, rounds: int) -> dict:
    """The shift, beside eager torch and one copy."""
    image = torch.randint(0, 256, shape, device=device, dtype=torch.uint8)
    image = image if dtype == torch.uint8 else image.to(dtype) / 255
    P = torch.linalg.qr(torch.randn(3, 3))[0].to(device)
    eigenvalues = torch.tensor([0.2, 0.02, 0.004], device=device)
    alphas, target = 0.1 * torch.randn(shape[0], 3, device=device), torch.empty_like(image)

    def eager():
        shift = ((alphas * eigenvalues) @ P.mT)[..., None, None]
        if dtype == torch.uint8:
            return (image + 255 * shift).round_().clamp_(0, 255).to(torch.uint8)
        return image + shift.to(dtype)

    runs = {"ours": lambda: ops.color_pca(image, P, eigenvalues, alphas), "torch": eager,
            "copy": lambda: target.copy_(image)}  # fmt: skip
    return {"forward": medians(runs, device, rounds)}

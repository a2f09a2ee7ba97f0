"""Local response normalisation beside eager torch and one copy."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cuda.timing import medians

SHAPES = [[16, 64, 55, 55], [128, 96, 55, 55], [128, 256, 27, 27]]
ops = torch.ops.cnn_ext


def rows(device: str, quick: bool, rounds: int) -> Iterator[tuple[str, dict]]:
    """A row for each tensor and dtype."""
    for shape in [[2, 8, 4, 4]] if quick else SHAPES:
        for dtype in (torch.float32, torch.bfloat16)[: 1 if device == "cpu" else None]:
            yield f"norm {shape} {dtype}", shape_figures(shape, dtype, device, rounds)


def shape_figures(shape: list[int], dtype: torch.dtype, device: str, rounds: int) -> dict:
    """Forward and backward, beside eager torch and one copy."""
    input = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(input)
    constants = (5, 1e-4, 0.75, 2.0)
    arguments = (*constants, "mean", "channels", 1)
    output, target = F.local_response_norm(input, *constants), torch.empty_like(input)
    copy = {"copy": lambda: target.copy_(grad)}
    forward = {
        "ours": lambda: ops.local_response_norm(input.detach(), *arguments),
        "torch": lambda: F.local_response_norm(input.detach(), *constants),
    }
    backward = {
        "ours": lambda: ops.local_response_norm_backward(grad, input.detach(), *arguments),
        "torch": lambda: torch.autograd.grad(output, input, grad, retain_graph=True),
    }
    return {
        "forward": medians(forward | copy, device, rounds),
        "gradients": medians(backward | copy, device, rounds),
    }

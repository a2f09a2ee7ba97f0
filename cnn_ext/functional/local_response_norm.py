"""Local response normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import _autocast_is_on, integer, number, tensor
from cnn_ext.ops import local_response_norm as lrn
from cnn_ext.ops._transforms import transformed

__all__ = ["local_response_norm"]


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    alpha_scaling: str = "mean",
    region: str = "channels",
    channel_dim: int = 1,
) -> Tensor:
    """Local response normalisation, as :func:`torch.nn.functional.local_response_norm`, and beyond.

    y = x / (k + a Σ x²)^β, the sum over ``size`` neighbouring filters at the same place, clipped at the
    first and last filter; or over a window of the same map.

    Args:
        input: (N, C, ...) by default; float32, float64, bfloat16 or float16.
        size: of the window. An even one reaches size / 2 filters before and size / 2 - 1 after, as
            torch's does.
        alpha, beta, k: the constants; numbers, or tensors of one, which may require a gradient.
        alpha_scaling: ``"mean"``, a = alpha / cells of the window, borders included (torch, Caffe,
            cuDNN, ONNX); ``"sum"``, a = alpha (the AlexNet paper, TensorFlow).
        region: ``"channels"``, or ``"spatial"``: inside each map, size cells along every spatial axis
            (Caffe's WITHIN_CHANNEL; odd sizes only).
        channel_dim: the axis of the filters. Axis 0 is the batch, unless it is this: an unbatched
            image (C, H, W), which torch normalises over H, is ``channel_dim=0`` here.

    Returns:
        As the input. Where k + a Σ x² is zero, x / 0 as IEEE 754 has it: NaN for x = 0. Under autocast
        computed in float32.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 3.3.

    Example:
        One pixel of four maps, the sum of squares over three:

        >>> import torch
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        >>> y = local_response_norm(x, 3, alpha=1.0, beta=1.0, k=0.0, alpha_scaling="sum")
        >>> y.flatten()  # 1 / 5, 2 / 14, 3 / 29, 4 / 25
        tensor([0.2000, 0.1429, 0.1034, 0.1600])
    """
    if has_torch_function((input,)):
        return handle_torch_function(
            local_response_norm, (input,), input, size, alpha, beta, k, alpha_scaling=alpha_scaling,
            region=region, channel_dim=channel_dim,
        )  # fmt: skip
    tensor("local_response_norm: input", input, AttributeError)
    size = integer("local_response_norm: size", size)
    constants: tuple[Any, ...] = alpha, beta, k
    tensors = [value for value in constants if isinstance(value, Tensor)]
    if any(value.requires_grad for value in tensors) or (tensors and transformed()):
        return _with_learned_constants(input, size, alpha, beta, k, alpha_scaling, region, channel_dim)
    alpha, beta, k = (
        number(f"local_response_norm: {label}", value)
        for label, value in (("alpha", alpha), ("beta", beta), ("k", k))
    )
    if _autocast_is_on(input.device.type) and input.dtype != torch.float64:
        input = input.float()
    return lrn.local_response_norm(input, size, alpha, beta, k, alpha_scaling, region, channel_dim)


def _with_learned_constants(input, size, alpha, beta, k, alpha_scaling, region, channel_dim) -> Tensor:
    """In torch's operations, for the operation has no derivative in its constants."""
    numbers = (1.0 if isinstance(value, Tensor) else value for value in (alpha, beta, k))
    # For its checks alone: on meta it computes nothing.
    torch.ops.cnn_ext.local_response_norm(
        input.detach().to("meta"), size, *numbers, alpha_scaling, region, channel_dim
    )
    axes = lrn.window_axes(input, region, channel_dim)
    cells = size ** len(axes) if alpha_scaling == "mean" else 1
    return input / (k + alpha / cells * lrn.window_sum(input * input, size, axes)) ** beta

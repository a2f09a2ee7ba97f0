"""Local response normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import _autocast_is_on, integer, number, tensor
from cnn_ext.ops import local_response_norm as lrn


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
        alpha, beta, k: the constants.
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
    alpha, beta, k = (
        number(f"local_response_norm: {label}", value)
        for label, value in (("alpha", alpha), ("beta", beta), ("k", k))
    )
    if _autocast_is_on(input.device.type) and input.dtype != torch.float64:
        input = input.float()
    return lrn.local_response_norm(input, size, alpha, beta, k, alpha_scaling, region, channel_dim)

"""The operations as loops that a student can read: slow, obvious, the oracle of the tests.

Plain Python over plain PyTorch indexing. Nothing here is fast, and nothing here shares a line with the
code that it checks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Cross-correlation, cell by cell.

    Output cell (p, q) of filter k is the sum, over the channels c of its group and the filter cells
    (r, s), of w[k, c, r, s] times the input cell at row p stride - padding + r dilation and the
    column alike; a cell outside the input counts as zero.

    Args:
        input: (N, C, H, W).
        weight: (K, C / groups, R, S).
        bias: (K,) or None.
        stride, padding, dilation: (vertical, horizontal).
        groups: divides C and K.

    Returns:
        (N, K, P, Q).

    Example:
        A 3 x 3 image and a 2 x 2 filter, small enough for paper:

        >>> image = torch.tensor([[1., 2, 3], [4, 5, 6], [7, 8, 9]])
        >>> filter = torch.tensor([[1., 0], [0, -1]])
        >>> conv2d(image.view(1, 1, 3, 3), filter.view(1, 1, 2, 2))  # 1 - 5, 2 - 6, ...
        tensor([[[[-4., -4.],
                  [-4., -4.]]]])
    """
    N, _, H, W = input.shape
    K, channels, R, S = weight.shape
    P = (H + 2 * padding[0] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + 2 * padding[1] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    output = torch.zeros(N, K, P, Q, dtype=input.dtype)
    for n in range(N):
        for k in range(K):
            first_channel = k // (K // groups) * channels
            for p in range(P):
                for q in range(Q):
                    total = bias[k] if bias is not None else torch.zeros((), dtype=input.dtype)
                    for c in range(channels):
                        for r in range(R):
                            for s in range(S):
                                h = p * stride[0] - padding[0] + r * dilation[0]
                                w = q * stride[1] - padding[1] + s * dilation[1]
                                if 0 <= h < H and 0 <= w < W:
                                    cell = input[n, first_channel + c, h, w]
                                    total = total + weight[k, c, r, s] * cell
                    output[n, k, p, q] = total
    return output


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    alpha_scaling: str = "sum",
) -> Tensor:
    """Local response normalisation over neighbouring filters, cell by cell.

    b_i = a_i / (k + alpha sum_j a_j^2)^beta, with j from max(0, i - n / 2) to min(K - 1, i + n / 2):
    the paper's formula, for odd n (Krizhevsky et al. 2012, section 3.3). An even window reaches one
    filter less after than before. ``"mean"`` divides alpha by n.

    Args:
        input: (N, K, H, W).
        size, alpha, beta, k: the paper's n and constants.
        alpha_scaling: ``"sum"`` as in the paper, or ``"mean"``.

    Returns:
        (N, K, H, W).

    Example:
        >>> local_response_norm(torch.tensor([[[[3.0]], [[4.0]]]]), 3, 1.0, 0.5, 0.0).flatten()
        tensor([0.6000, 0.8000])
    """
    if alpha_scaling == "mean":
        alpha = alpha / size
    N, K, H, W = input.shape
    output = torch.zeros_like(input)
    for n in range(N):
        for i in range(K):
            for h in range(H):
                for w in range(W):
                    total = torch.zeros((), dtype=input.dtype)
                    for j in range(max(0, i - size // 2), min(K - 1, i + (size - 1) // 2) + 1):
                        total = total + input[n, j, h, w] ** 2
                    output[n, i, h, w] = input[n, i, h, w] / (k + alpha * total) ** beta
    return output


def color_pca(input: Tensor, eigenvectors: Tensor, eigenvalues: Tensor, alphas: Tensor) -> Tensor:
    """Colour PCA of one image, pixel by pixel (Krizhevsky et al. 2012, section 4.1).

    Args:
        input: (C, H, W), colours on [0, 1].
        eigenvectors: (C, C), one in each column.
        eigenvalues, alphas: (C,).

    Example:
        >>> grey, values = torch.full((3, 1, 1), 0.5), torch.tensor([0.2, 0.1, 0.0])
        >>> color_pca(grey, torch.eye(3), values, torch.tensor([1.0, 0, 0])).flatten()
        tensor([0.7000, 0.5000, 0.5000])
    """
    C, H, W = input.shape
    output = input.clone()
    for k in range(C):  # along the k-th principal axis
        for c in range(C):
            for h in range(H):
                for w in range(W):
                    output[c, h, w] += eigenvectors[c, k] * alphas[k] * eigenvalues[k]
    return output


def color_covariance(images: Sequence[Tensor]) -> Tensor:
    """The covariance of the colours of all pixels of all images, pixel by pixel.

    Args:
        images: each (C, H, W).

    Example:
        >>> color_covariance([torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])])
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])
    """
    pixels = [image[:, h, w] for image in images
              for h in range(image.shape[1]) for w in range(image.shape[2])]  # fmt: skip
    mean = torch.stack(pixels).mean(0)
    return torch.stack([torch.outer(pixel - mean, pixel - mean) for pixel in pixels]).mean(0)

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

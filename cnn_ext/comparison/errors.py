"""How far a result is from the exact one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_error(value: Tensor, exact: Tensor) -> float:
    """The root mean square of the error over that of the exact values.

    Where the exact value is infinite or no number, the value must be the same: infinity if it is not.

    Example:
        >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        0.1
    """
    exact = exact.to(torch.complex128 if exact.is_complex() else torch.double)
    value = value.to(exact.dtype)
    if not (finite := exact.isfinite()).all():
        if not torch.equal(value[~finite].nan_to_num(), exact[~finite].nan_to_num()):
            return math.inf
        value, exact = value[finite], exact[finite]
    error = (value - exact).norm() / exact.norm()
    return 0.0 if not exact.any() and not value.any() else error.item()

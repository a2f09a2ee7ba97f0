"""How far a result is from the exact one."""

from __future__ import annotations

from torch import Tensor


def relative_error(value: Tensor, exact: Tensor) -> float:
    """The root mean square of the error over that of the exact values.

    Example:
        >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        0.1
    """
    exact = exact.double()
    error = (value.double() - exact).norm() / exact.norm()
    return 0.0 if not exact.any() and not value.any() else error.item()

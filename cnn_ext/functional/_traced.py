"""What :func:`torch.jit.trace` records of a function that computes with sizes.

It cannot follow such arithmetic, nor a choice that depends on a size. So the function is recorded as
one operation, which does both when the trace is run, on whatever sizes it meets then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("cnn_ext", "FRAGMENT")


def operation(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Defines an operation; the function that is decorated computes it, and the result calls it."""

    def define(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema)
        name = schema.partition("(")[0]
        _library.impl(name, function, "CompositeImplicitAutograd")
        return getattr(torch.ops.cnn_ext, name)

    return define

"""What every module here has: :mod:`torch.fx` records it as its ``torch.nn`` twin; tools ask it.

``revert``, ``compare`` and the arithmetic of receptive fields know no module by name. What they must
know of one, it says itself: the methods with one underscore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy, Tracer


class Layer(torch.nn.Module):
    """Listed before the twin among the bases of a module.

    A tracer of :mod:`torch.fx` records a module as one call, a leaf, if its class is of ``torch.nn``,
    and traces through any other, with its hooks and parametrizations. Ours are to be recorded where
    the twin would be, so that names of nodes, hooks and the class of the layer are those of the model.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any module's; under a tracer, one call of this module."""
        tracer = _tracer(args, kwargs)
        # A subclass from elsewhere may compute something else: traced through, as the twin's.
        if tracer is None or not type(self).__module__.startswith("cnn_ext."):
            return super().__call__(*args, **kwargs)
        is_leaf = tracer.is_leaf_module

        def is_leaf_here(module: torch.nn.Module, name: str) -> bool:
            return is_leaf(module, name) or (module is self and is_leaf(_as_twin(self), name))

        tracer.is_leaf_module = is_leaf_here  # type: ignore[method-assign, assignment]
        try:
            return super().__call__(*args, **kwargs)
        finally:
            tracer.is_leaf_module = is_leaf  # type: ignore[method-assign]

    def _say_as_torch(self) -> str | None:
        """Puts the arguments in words that the twin has; the reason, where there are none."""
        return None

    def _kind_on_torch(self) -> type[torch.nn.Module] | None:
        """A class that computes the same of torch's operations, where the twin cannot."""
        return None

    def _kernel_for(self, input: Tensor) -> str | None:
        """What computes this input, in a word; None where the layer leaves it to torch."""
        return "fused"

    # The window of an output cell over an input of some sizes (cnn_ext.receptive_field); None here:
    # the twin's.
    _receptive_window: Callable[..., Any] | None = None


def _tracer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tracer | None:
    """The tracer that follows the arguments, if one does."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Proxy):
            return value.tracer if isinstance(value.tracer, Tracer) else None
    return None


def _as_twin(layer: Layer) -> torch.nn.Module:
    """The same layer as an instance of torch's class, to ask a tracer about."""
    twin = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn"))
    stand_in: torch.nn.Module = object.__new__(twin)  # type: ignore[call-overload]
    stand_in.__dict__ = layer.__dict__
    return stand_in

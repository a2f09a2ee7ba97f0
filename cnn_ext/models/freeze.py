"""A copy of a network for inference: what follows a layer folded into it, filters transformed once.

Like :mod:`cnn_ext.models.convert`, it changes the classes of modules where they stand. Code, hooks and
names stay; a batch norm or a ReLU that became part of the layer before it is an ``Identity``.
:mod:`cnn_ext.models.dataflow` finds which these are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from cnn_ext import functional, nn
from cnn_ext.functional import Ints
from cnn_ext.models.convert import _become, convert
from cnn_ext.models.dataflow import followers
from cnn_ext.nn.convolution import _Convolution

MOST_KEPT = 2**22  # numbers: from beyond the cache more of them are read no faster than transformed


def freeze(model: torch.nn.Module, *, fuse: bool = True) -> torch.nn.Module:
    """A copy of the model for inference on our layers, in evaluation mode.

    Its convolutions keep their filters transformed where ``"auto"`` may choose Winograd, if these are
    at most 2²² numbers: some four times the memory of the weights, which are kept too. Parametrized
    weights become plain ones.

    Args:
        model: any module, of torch's layers or of ours; it is not changed.
        fuse: fold every batch norm that directly follows a convolution or a linear layer into it, and
            make every ReLU module that directly follows a convolution part of it. A layer whose output
            is used elsewhere too, or seen by a hook, is not fused.

    Returns:
        The copy. To train it, to load a ``state_dict`` into it, to change its dtype or to move it
        raises: freeze the changed model again. It can be copied, pickled and compiled; filters are not
        pickled but transformed anew.

    Raises:
        TypeError: the model is a TorchScript module.
        ValueError: a lazy layer has seen no input yet.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        ... ).eval()
        >>> frozen = freeze(model)
        >>> frozen
        FrozenSequential(
          (0): FrozenConv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), batch norm folded, relu)
          (1): Identity()
          (2): Identity()
        )
        >>> x = torch.randn(1, 3, 8, 8)
        >>> torch.testing.assert_close(frozen(x), model(x))
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("freeze: model: freeze it before it is compiled by TorchScript")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"freeze: {name} has no values yet: call the lazy model once")
    frozen = convert(model).eval()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for module in tuple(frozen.modules()):
        if parametrize.type_before_parametrizations(module) in (*FROZEN, nn.Linear):
            _materialise(module)
    relus = _fuse(frozen) if fuse else set()
    for module in tuple(frozen.modules()):
        if type(module) in FROZEN and module._parameters.get("weight") is not None:
            _freeze_layer(module, module in relus or isinstance(module, nn.ConvReLU2d))
    whole = type(frozen)
    if not issubclass(whole, _Frozen) and whole.__reduce__ is object.__reduce__:
        frozen.__class__ = _sealed(whole)
    return frozen


# ---------------------------------------------------------------------------------------------
# Frozen modules
# ---------------------------------------------------------------------------------------------


class _Frozen(torch.nn.Module):
    """Refuses whatever would part a frozen module from the model it was made of."""

    def _refuse(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}: {what}: it was made by cnn_ext.freeze, for inference alone; "
            "do this to the model that was frozen, and freeze that again"
        )

    def train(self, mode: bool = True):
        """Raises, but for ``train(False)``."""
        if mode:
            raise self._refuse("cannot be trained")
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True):
        """Raises, but for ``requires_grad_(False)``."""
        if requires_grad:
            raise self._refuse("cannot require gradients")
        return super().requires_grad_(requires_grad)

    def load_state_dict(self, *_: Any, **__: Any):
        """Raises."""
        raise self._refuse("cannot load a state_dict")

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:  # as a part of a larger model
        raise self._refuse("cannot load a state_dict")

    def to_empty(self, *_: Any, **__: Any):
        """Raises."""
        raise self._refuse("cannot lose its values")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        for dtype, device in {(t.dtype, t.device) for t in (*self.parameters(), *self.buffers())}:
            result = fn(torch.empty(0, dtype=dtype, device=device))
            if result.dtype != dtype or result.device != device:
                raise self._refuse(f"cannot go from {dtype} on {device} to {result.dtype} on "
                                   f"{result.device}")  # fmt: skip
        return super()._apply(fn, recurse)


class _FrozenConvolution(_Frozen, _Convolution):
    """What frozen convolutions share; they come from :func:`freeze`, not from a constructor."""

    relu: bool
    folded: bool = False
    filters: Tensor | None

    def _transform(self) -> None:
        """Transforms the filters, if the algorithm may be Winograd for some input, and they are few."""
        ones = self.stride == self.dilation == (1, 1)  # what winograd_filters transforms
        if self.kernel_size not in ((3, 3), (5, 5)) or not ones:
            return
        if self.weight.device.type != "cpu" or self.weight.is_complex():
            return
        algorithm = self.algorithm
        if algorithm == "auto":
            size = (1, self.in_channels, *(100 + extent for extent in self.weight.shape[2:]))
            algorithm = functional.convolution_algorithm(
                size, self.weight.shape, self.stride, 0, self.dilation, self.groups,
                dtype=self.weight.dtype,
            )  # fmt: skip
        if algorithm == "winograd":
            transform, weight = torch.ops.cnn_ext.winograd_filters, self.weight.detach()
            if transform(weight.to("meta"), self.groups).numel() <= MOST_KEPT:
                self.filters = transform(weight, self.groups)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        super()._apply(fn, recurse)
        if self.filters is not None:  # which have a layout of their own, whatever the weight's
            self.filters = self.filters.contiguous()
        return self

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Ints | str
    ) -> Tensor:
        if self.folded and input.dim() != self.axes + 2:
            raise RuntimeError(
                f"{type(self).__name__}: input: expected {self.axes + 2} dimensions, those of the "
                f"batch norm that is folded into it, got shape {list(input.shape)}"
            )
        return functional._conv(
            self.axes, input, weight, bias, self.stride, padding, self.dilation, self.groups,
            self.algorithm, self._operation,
        )  # fmt: skip

    def _operation(self, input, weight, bias, stride, padding, dilation, groups, algorithm):
        filters = self.filters if weight.dtype == self.weight.dtype else None  # not so in autocast
        return torch.ops.cnn_ext.convolution_frozen(
            input, weight, bias, filters, stride, padding, dilation, groups, self.relu, algorithm
        )

    def extra_repr(self) -> str:
        """As the layer's, and what became part of it."""
        return super().extra_repr() + ", batch norm folded" * self.folded + ", relu" * self.relu

    # Transformed filters lie as the processor at hand wants them, and so stay here.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": {**self._buffers, "filters": None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._transform()


class FrozenConv1d(_FrozenConvolution, nn.Conv1d):
    """A :class:`cnn_ext.nn.Conv1d` in a frozen model."""


class FrozenConv2d(_FrozenConvolution, nn.Conv2d):
    """A :class:`cnn_ext.nn.Conv2d` in a frozen model."""


class FrozenConv3d(_FrozenConvolution, nn.Conv3d):
    """A :class:`cnn_ext.nn.Conv3d` in a frozen model."""


class FrozenLinear(_Frozen, nn.Linear):
    """A linear layer in a frozen model, with a batch norm folded into it."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        if input.dim() != 2:  # of three dimensions, batch norm takes the second
            raise RuntimeError(
                f"FrozenLinear: input: expected 2 dimensions, those of the batch norm that is folded "
                f"into it, got shape {list(input.shape)}"
            )
        return super().forward(input)


FROZEN: dict[type[torch.nn.Module], type[_FrozenConvolution]] = {
    nn.Conv1d: FrozenConv1d,
    nn.Conv2d: FrozenConv2d,
    nn.ConvReLU2d: FrozenConv2d,
    nn.Conv3d: FrozenConv3d,
}


def _freeze_layer(layer: Any, relu: bool) -> None:
    layer.__class__ = FROZEN[type(layer)]
    layer.relu = relu
    layer.register_buffer("filters", None, persistent=False)
    layer._transform()


_SEALED: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}


def _sealed(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class of a frozen model of this class."""
    if kind not in _SEALED:
        members = {"__doc__": kind.__doc__, "__module__": __name__}
        _SEALED[kind] = type(f"Frozen{kind.__name__}", (_Sealed, kind), members)
    return _SEALED[kind]


class _Sealed(_Frozen):
    """The whole of a frozen model, of a class that :func:`_sealed` makes, and so pickled by it."""

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _unsealed, (type(self).__bases__[1],), self.__getstate__()


def _unsealed(kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A frozen model of this class that still lacks its state."""
    kind = _sealed(kind)
    return kind.__new__(kind)


def _materialise(module: torch.nn.Module) -> None:
    """Plain parameters in the place of parametrized ones."""
    if parametrize.is_parametrized(module):
        # Removing one takes it from the class, which the model that was copied may share.
        _become(module, parametrize.type_before_parametrizations(module))
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            value = getattr(module, name).detach().clone()
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


def _fuse(model: torch.nn.Module) -> set[torch.nn.Module]:
    """Folds what can be folded, and returns the convolutions that shall rectify."""
    norms, relus = followers(model, _can_fold, _can_rectify)
    for layer, norm in norms.items():
        _fold(layer, norm)
        if isinstance(layer, nn.Linear):
            layer.__class__ = FrozenLinear
    for module in {*norms.values(), *relus.values()}:
        module.__class__ = torch.nn.Identity
        module._parameters.clear()
        module._buffers.clear()
    return set(relus)


NORMS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    nn.Conv1d: torch.nn.BatchNorm1d,
    nn.Conv2d: torch.nn.BatchNorm2d,
    nn.Conv3d: torch.nn.BatchNorm3d,
    nn.Linear: torch.nn.BatchNorm1d,
}


def _has_real_weight(layer: Any) -> bool:
    """Real, and a parameter: what a hook computes from other parameters is not to be changed."""
    weight = layer._parameters.get("weight")
    return weight is not None and not torch.is_complex(weight)


def _can_fold(layer: Any, norm: Any) -> bool:
    return bool(
        type(layer) in NORMS
        and type(norm) is NORMS[type(layer)]
        and _has_real_weight(layer)
        and norm.running_mean is not None
        and norm.num_features == len(layer.weight)
    )


def _can_rectify(layer: Any, relu: Any) -> bool:
    plain = type(layer) in FROZEN and type(layer) in NORMS  # not one that rectifies already
    return plain and type(relu) is torch.nn.ReLU and _has_real_weight(layer)


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """Scales each filter and shifts its bias as batch norm does its output; computed in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    dtype = layer.weight.dtype
    layer.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = torch.nn.Parameter(shift.to(dtype), requires_grad=False)
    layer.folded = True

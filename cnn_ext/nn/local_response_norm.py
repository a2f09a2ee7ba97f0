"""``LocalResponseNorm``: a drop-in subclass of its ``torch.nn`` twin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_ext import functional
from cnn_ext.nn._layer import Layer

__all__ = ["LocalResponseNorm"]


class LocalResponseNorm(Layer, torch.nn.LocalResponseNorm):
    """:class:`torch.nn.LocalResponseNorm`, computed by :func:`cnn_ext.functional.local_response_norm`.

    Args:
        size, alpha, beta, k: as for the twin.
        alpha_scaling, region, channel_dim: see :func:`cnn_ext.functional.local_response_norm`.

    Example:
        >>> LocalResponseNorm(5)
        LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=1.0)
        >>> LocalResponseNorm.alexnet()
        LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2.0, alpha_scaling='sum')
    """

    alpha_scaling = "mean"
    region = "channels"
    channel_dim = 1

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        alpha_scaling: str = "mean",
        region: str = "channels",
        channel_dim: int = 1,
    ) -> None:
        super().__init__(size, alpha, beta, k)
        for name, value, words in (
            ("alpha_scaling", alpha_scaling, ("mean", "sum")),
            ("region", region, ("channels", "spatial")),
        ):
            if value not in words:
                raise ValueError(f"{name}: expected one of {words}, got {value!r}")
        # Kept on the instance only where it is not the default, so that it pickles as its twin does.
        if alpha_scaling != "mean":
            self.alpha_scaling = alpha_scaling
        if region != "channels":
            self.region = region
        if channel_dim != 1:
            self.channel_dim = channel_dim

    @classmethod
    def alexnet(cls) -> LocalResponseNorm:
        """The paper's constants: n = 5, k = 2, alpha = 1e-4 (of the sum), beta = 0.75."""
        return cls(5, 1e-4, 0.75, 2.0, alpha_scaling="sum")

    def forward(self, input: Tensor) -> Tensor:
        """Of the input's shape."""
        return functional.local_response_norm(
            input,
            self.size,
            self.alpha,
            self.beta,
            self.k,
            alpha_scaling=self.alpha_scaling,
            region=self.region,
            channel_dim=self.channel_dim,
        )

    def extra_repr(self) -> str:
        """As the twin's, and what it has no argument for."""
        own = [f"{name}={value!r}" for name, value in sorted(self.__dict__.items())
               if name in ("alpha_scaling", "region", "channel_dim")]  # fmt: skip
        return ", ".join([super().extra_repr(), *own])

    def _say_as_torch(self) -> str | None:
        if self.region != "channels" or self.channel_dim != 1:
            return f"torch has no region={self.region!r}, channel_dim={self.channel_dim}"
        if self.alpha_scaling == "sum":
            self.alpha = self.alpha * self.size
            del self.alpha_scaling
        return None

    def _kind_on_torch(self) -> type[torch.nn.Module]:
        return _OnTorch

    def _receptive_window(self, size: Sequence[int]):
        ones, zeros = (1,) * len(size), (0,) * len(size)
        if self.region == "spatial":
            return (self.size,) * len(size), ones, ones, (self.size // 2,) * len(size)
        return (ones, ones, ones, zeros) if self.channel_dim == 1 else None


class _OnTorch(LocalResponseNorm):
    """Local response normalisation of any kind, of torch's own operations."""

    def forward(self, input: Tensor) -> Tensor:
        x = input.movedim(self.channel_dim, 1) if self.region == "channels" else input
        axes = input.dim() - 2 if self.region == "spatial" else 0
        scale = self.size ** (axes or 1) if self.alpha_scaling == "sum" else 1
        if self.region == "channels":
            y = F.local_response_norm(x, self.size, scale * self.alpha, self.beta, self.k)
            return y.movedim(1, self.channel_dim)
        mean = getattr(F, f"avg_pool{axes}d")(x.square(), self.size, 1, self.size // 2)
        return x / (self.k + scale * self.alpha * mean) ** self.beta

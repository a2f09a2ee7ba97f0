"""Networks by name, for the command line: ours first, then torchvision's."""

from __future__ import annotations

import copy
import inspect

import torch

from cnn_ext import models


def build(name: str, **arguments) -> tuple[torch.nn.Module, int]:
    """A network with random weights, and how many channels its images have.

    Args:
        name: of :mod:`cnn_ext.models`, with a variant after a colon (``"alexnet:caffenet"``,
            ``"lenet5:1998"``), or of torchvision's registry.
        arguments: of its builder; those that it does not take (``image_size``, ``width``, ``init``)
            are dropped where they mean nothing.

    Raises:
        ValueError: nobody has such a network.

    Example:
        >>> model, channels = build("lenet5:1998", num_classes=10, image_size=32)
        >>> type(model).__name__, channels
        ('LeNet51998', 1)
    """
    plain, _, variant = name.partition(":")
    if plain in models.__all__ and plain.startswith(("lenet", "alexnet", "vgg")):
        builder = getattr(models, plain)
        if variant:
            arguments["variant"] = variant
        return builder(**_taken(builder, arguments)), 1 if plain.startswith("lenet") else 3
    import torchvision.models as theirs

    if name not in theirs.list_models(module=theirs):
        known = sorted(n for n in models.__all__ if n.startswith(("lenet", "alexnet", "vgg")))
        raise ValueError(f"model: expected one of {', '.join(known)}, or torchvision's; got {name!r}")
    wanted = {"num_classes": arguments["num_classes"]} if "num_classes" in arguments else {}
    if name in ("googlenet", "inception_v3"):
        wanted |= {"init_weights": True, "aux_logits": False}
    return theirs.get_model(name, **wanted), 3


def check(model: torch.nn.Module, name: str, channels: int, size: int, batch: int = 2) -> None:
    """Tries a network in training mode on black images, without leaving a trace in it.

    Args:
        model: of :func:`build`.
        name: that was asked for.
        channels, size, batch: of the images.

    Raises:
        ValueError: it cannot take them.

    Example:
        >>> check(*build("lenet5", num_classes=10)[:1], "lenet5", channels=1, size=28)
        Traceback (most recent call last):
        ...
        ValueError: image_size: lenet5 cannot take images of 28 x 28...
    """
    trial = copy.deepcopy(model).train()
    parameter = next(trial.parameters())
    images = torch.zeros(batch, channels, size, size, dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = tuple(trial(images).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        many = f" in batches of {batch}" if batch < 2 else ""
        images_of = f"images of {size} x {size}{many}{_hint(name, size)}"
        raise ValueError(f"image_size: {name} cannot take {images_of}: {reason}") from error
    if len(shape) != 2:
        raise ValueError(
            f"image_size: of images of {size} x {size}, {name} makes {shape} instead of (N, classes)"
        )


def _hint(name: str, size: int) -> str:
    """What is known of the sizes that a network takes, for a sentence on one that it does not."""
    if name.startswith("lenet5"):
        return ", only of 32 x 32"
    import torchvision.models as theirs

    if name not in theirs.list_models(module=theirs):
        return ""
    meta = theirs.get_model_weights(name).DEFAULT.meta  # type: ignore[attr-defined]
    smallest = max(meta.get("min_size", (0,)))
    return f" (torchvision names {smallest} x {smallest} as its smallest)" if size < smallest else ""


def _taken(builder, arguments: dict) -> dict:
    """VGG's builders hand everything on; the others say what they take."""
    taken = inspect.signature(builder).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return {key: value for key, value in arguments.items() if key != "variant"}
    return {key: value for key, value in arguments.items() if key in taken}

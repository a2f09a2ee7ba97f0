"""Networks by name, for the command line: ours first, then torchvision's."""

from __future__ import annotations

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


def _taken(builder, arguments: dict) -> dict:
    """VGG's builders hand everything on; the others say what they take."""
    taken = inspect.signature(builder).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return {key: value for key, value in arguments.items() if key != "variant"}
    return {key: value for key, value in arguments.items() if key in taken}

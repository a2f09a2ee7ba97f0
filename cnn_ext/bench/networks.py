"""Whole networks of our layers against the same of torch's: inference, and a step of training.

Contenders of one run: ours and torch's in NCHW and in channels_last, and ``torch.compile`` of torch's,
which chooses its layouts itself. Frozen copies of ours (``cnn_ext.freeze``) have rows of their own,
and so has ``torch.compile`` of ours, which keeps the layout that it is given: channels_last. A step
of training is forward, cross-entropy, backward, and plain SGD with so small a rate that the weights
stay as they are. Builds of one format share their weights; the others have the same ones. Batch
normalisation has seen the images once, so that activations are of the size that they have in use.
ONNX Runtime and OpenVINO run inference apart, where they are installed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cnn_ext
from cnn_ext import nn
from cnn_ext.bench.options import DTYPES, Options, shapes
from cnn_ext.bench.rivals import NEEDED, available, rival
from cnn_ext.bench.timing import LAYOUTS, OPPONENTS, Row, Timed, by_format, ratio, turns
from cnn_ext.comparison import relative_error
from cnn_ext.training.networks import build

QUICK = ("LeNet-5", "AlexNet 2012", "AlexNet one_weird_trick")
RATE = 1e-9
COMPILED = "compiled ours"  # among contenders


def names(options: Options) -> list[str]:
    """The networks that can be asked for."""
    return [name for name in shapes("networks") if options.names or not options.quick or name in QUICK]


def rows(options: Options) -> Iterator[Row]:
    """A row for each network, pass and format."""
    entries = shapes("networks")
    for name in options.wanted(names(options)):
        yield from network_rows(name, entries[name], options)
        gc.collect()


def network_rows(name: str, entry: dict[str, Any], options: Options) -> Iterator[Row]:
    """The rows of one network: an entry of ``shapes/networks.json``."""
    dtype = DTYPES[options.dtype]
    torch.manual_seed(0)
    images = torch.randn(entry["input"]).to(dtype)
    labels = torch.randint(0, 10, (len(images),))
    model = build(entry["model"], layers=torch.nn)[0].to(dtype)
    see(model, images)
    builds = {
        "NCHW": (ours_like(model, entry["model"]), model),
        "channels_last": _in_channels_last(model, entry["model"]),
    }
    inputs = {f: images.contiguous(memory_format=layout) for f, layout in LAYOUTS.items()}
    yield from _inference(name, builds, inputs, options)
    yield from _training(name, builds, inputs, labels, options)


def see(model: torch.nn.Module, images: Tensor) -> None:
    """Takes what batch normalisation knows of its inputs from these images alone."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def ours_like(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The network on our layers, with the weights of the one on torch's: the same memory."""
    ours = build(name, layers=nn)[0].to(next(model.parameters()).dtype)
    ours = cnn_ext.convert(ours, inplace=True)  # torchvision's has torch's layers
    ours.load_state_dict(model.state_dict(), assign=True)
    return ours


def _in_channels_last(model: torch.nn.Module, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    theirs = build(name, layers=torch.nn)[0].to(next(model.parameters()).dtype)
    theirs.load_state_dict(model.state_dict())
    theirs = theirs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ours_like(theirs, name), theirs


Builds = dict[str, tuple[torch.nn.Module, torch.nn.Module]]


def _inference(name: str, builds: Builds, inputs: dict[str, Tensor], options: Options) -> Iterator[Row]:
    freeze = getattr(cnn_ext, "freeze", None)
    models: dict[str, Callable[[Tensor], Tensor]] = {}
    for memory_format, (ours, theirs) in builds.items():
        models[f"ours {memory_format}"], models[f"eager {memory_format}"] = ours.eval(), theirs.eval()
        if freeze is not None:
            models[f"frozen {memory_format}"] = freeze(ours)
    if options.compiles(True):
        torch._dynamo.reset()
        models["compiled NCHW"] = torch.compile(builds["NCHW"][1], dynamic=False)
        models[f"{COMPILED} channels_last"] = torch.compile(builds["channels_last"][0], dynamic=False)

    def run(key: str) -> Tensor:
        with torch.inference_mode():
            return models[key](inputs[key.rsplit(" ", 1)[1]])

    right = run("eager NCHW")
    differences = {key: relative_error(run(key), right.double()) for key in models}
    timed = turns({key: partial(run, key) for key in models}, options.turns(5), options.seconds())
    if options.dtype == "float32":
        others = {
            f"{name} NCHW": rival(name, builds["NCHW"][1], inputs["NCHW"]) for name in available()
        }
        differences |= {key: relative_error(call(), right.double()) for key, call in others.items()}
        timed.milliseconds.update(turns(others, options.turns(5), options.seconds()).milliseconds)
    yield from _rows(name, "inference", "ours", timed, differences, options)
    if freeze is not None:
        yield from _rows(name, "inference, frozen", "frozen", timed, differences, options)
    if options.compiles(True):
        yield from _rows(name, "inference, compiled", COMPILED, timed, differences, options)


def _training(
    name: str, builds: Builds, inputs: dict[str, Tensor], labels: Tensor, options: Options
) -> Iterator[Row]:
    steps: dict[str, Callable[[], float]] = {}
    for memory_format, (ours, theirs) in builds.items():
        x = inputs[memory_format]
        steps[f"ours {memory_format}"] = step(ours.train(), ours, x, labels)
        steps[f"eager {memory_format}"] = step(theirs.train(), theirs, x, labels)
    if options.compiles(True):
        torch._dynamo.reset()
        theirs = builds["NCHW"][1]
        compiled = torch.compile(theirs, dynamic=False)
        steps["compiled NCHW"] = step(compiled, theirs, inputs["NCHW"], labels)
        ours = builds["channels_last"][0]
        compiled = torch.compile(ours, dynamic=False)
        steps[f"{COMPILED} channels_last"] = step(compiled, ours, inputs["channels_last"], labels)
    timed = turns(steps, options.turns(5), options.seconds())
    yield from _rows(name, "training", "ours", timed, {}, options)
    if options.compiles(True):
        yield from _rows(name, "training, compiled", COMPILED, timed, {}, options)


def step(
    model: Callable[[Tensor], Tensor], weights: torch.nn.Module, images: Tensor, labels: Tensor
) -> Callable[[], float]:
    """A step of training, to be called again and again; it returns the loss."""
    optimizer = torch.optim.SGD(weights.parameters(), RATE)

    def run() -> float:
        loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return run


def _rows(
    name: str, what: str, who: str, timed: Timed, differences: dict[str, float], options: Options
) -> Iterator[Row]:
    """The rows in which one of our builds stands against torch's."""
    wanted = {
        key.replace(who, "ours"): milliseconds
        for key, milliseconds in timed.milliseconds.items()
        if key.rsplit(" ", 1)[0] in (who, *OPPONENTS, *NEEDED)
    }
    for memory_format, (times, any_format) in by_format(Timed(wanted, timed.spread)).items():
        row = {
            "operation": "networks",
            "network": name,
            "pass": what,
            "format": memory_format,
            "dtype": options.dtype,
            "milliseconds": times,
            "ratio": ratio(times),
            "ratio_any_format": any_format,
            "spread": timed.spread,
        }
        if differences:
            row["difference"] = differences[f"{who} {memory_format}"]  # from torch's, relative rms
        yield row

"""ONNX Runtime and OpenVINO, for whole networks: not torch, and so no part of a ratio.

They are there where they are installed. They have no turn among the others: their threads spin on for a
while after each call, and would be billed to whoever comes next.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

# ONNX Runtime reads what torch exports with onnxscript.
NEEDED = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino",)}


def available() -> list[str]:
    """Those that are installed."""
    return [name for name, needs in NEEDED.items() if all(map(importlib.util.find_spec, needs))]


def rival(name: str, model: torch.nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A network on torch's layers as ONNX Runtime or OpenVINO runs it, on as many threads as torch.

    Args:
        name: of :func:`available`.
        model: in evaluation mode.
        images: what each call computes with, float32.
    """
    with _silence(), torch.no_grad():
        return {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](model, images)


def _onnxruntime(model: torch.nn.Module, images: Tensor) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:  # weights lie beside the network, in a file
        file = Path(folder) / "network.onnx"
        torch.onnx.export(model, (images,), file, dynamo=True)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def _openvino(model: torch.nn.Module, images: Tensor) -> Callable[[], Tensor]:
    import openvino

    converted = openvino.convert_model(model, example_input=images)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    inputs = images.numpy()
    return lambda: torch.from_numpy(compiled(inputs)[0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Exporters write of their progress to the terminal; of failures they raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

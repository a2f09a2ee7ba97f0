"""A record of every call of our operations: which route it took, and how long.

``CNN_EXT_VERBOSE=1`` in the environment prints the same, one line for each call, on stderr.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cnn_ext._native import _C


class Record(NamedTuple):
    """One call of an operation on the CPU."""

    op: str  #: ``"convolution"``, ``"max_pool2d"``, ...
    pass_: str  #: ``"forward"``, ``"input_gradient"`` or ``"weight_gradient"``
    route: str  #: adapters and kernel, such as ``"transposed > implicit_gemm"``
    sizes: str  #: of the input and, of a convolution, weight, stride, padding, dilation and groups
    dtype: str  #: of the operand, such as ``"float32"``
    layout: str  #: ``"contiguous"``, ``"channels_last"`` or ``"strided"``
    threads: int  #: at most
    workspace_bytes: int  #: allocated beside operands and result
    milliseconds: float  #: from the choice of the route to the finished result


@contextmanager
def trace() -> Iterator[list[Record]]:
    """Records the calls of all threads; the list is filled when the block ends.

    Traces may be nested. While none is open, a call pays for the question alone.

    Yields:
        A list of :class:`Record`, one for each call, in the order in which calls ended.

    Example:
        >>> import torch, cnn_ext
        >>> with cnn_ext.trace() as records:
        ...     y = cnn_ext.functional.conv2d(torch.ones(1, 16, 32, 32), torch.ones(16, 16, 3, 3))
        >>> [(record.pass_, record.route) for record in records]
        [('forward', 'winograd')]
    """
    records: list[Record] = []
    name = _C.begin_trace()
    try:
        yield records
    finally:
        records += [Record(*facts) for facts in _C.end_trace(name)]

"""Where notebooks of version 0.1 look for ``check``: it is in :mod:`cnn_ext.examples.exercises`."""

from cnn_ext.examples.exercises import check

__all__ = ["check"]

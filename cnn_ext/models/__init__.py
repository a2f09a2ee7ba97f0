"""Reference networks, built of :mod:`cnn_ext.nn` or of ``torch.nn`` with the same keys."""

from cnn_ext.models.lenet5 import LeNet5Loss, lenet5

__all__ = ["LeNet5Loss", "lenet5"]

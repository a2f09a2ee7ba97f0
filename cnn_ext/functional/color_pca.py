"""Colour PCA."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from cnn_ext.functional._arguments import tensor
from cnn_ext.ops import color_pca as pca

__all__ = ["color_pca"]


def color_pca(input: Tensor, eigenvectors: Tensor, eigenvalues: Tensor, alphas: Tensor) -> Tensor:
    """Colour PCA: adds ``eigenvectors @ (alphas * eigenvalues)`` to every pixel.

    What it adds is one colour for a whole image, along the directions in which the colours of a
    training set vary. It draws nothing: ``alphas`` are drawn outside, normally distributed with
    standard deviation 0.1 in the paper (:class:`cnn_ext.transforms.RandomColorPCA` does).

    Args:
        input: (..., C, H, W), any number of leading axes. uint8, whose colours are 0 to 255, or
            floating point, whose colours are 0 to 1.
        eigenvectors: (C, C), one in each column. Floating point, as the next two; the shift is
            computed in float64 whatever their dtype.
        eigenvalues: (C,), of the covariance of colours on [0, 1], whatever the dtype of ``input``.
            Those of colours on 0 to 255 are 65025 times as large.
        alphas: (C,), one shift for all images, or (..., C), one row for each.

    Returns:
        Of the shape, dtype and memory format of ``input``. Floats are not clamped. uint8 gets 255 times
        the shift, rounded to nearest, ties to even, and saturates; where the shift is no number, 0.

    Raises:
        RuntimeError: a shape, dtype or device does not fit; the message names the argument.

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 4.1.

    Example:
        Two grey levels more along the first axis:

        >>> import torch
        >>> image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
        >>> eigenvalues = torch.tensor([0.2, 0.1, 0.1])
        >>> alphas = torch.tensor([2 / 255 / 0.2, 0.0, 0.0])
        >>> color_pca(image, torch.eye(3), eigenvalues, alphas).tolist()
        [[[102, 102]], [[100, 100]], [[100, 100]]]
    """
    tensors = input, eigenvectors, eigenvalues, alphas
    if has_torch_function(tensors):
        return handle_torch_function(color_pca, tensors, *tensors)
    for name, value in zip(("input", "eigenvectors", "eigenvalues", "alphas"), tensors, strict=True):
        tensor(f"color_pca: {name}", value)
    return pca.color_pca(*tensors)

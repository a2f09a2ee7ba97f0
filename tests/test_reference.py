"""The oracle itself, against numbers worked by hand and against torch."""

import torch
import torch.nn.functional as F

from cnn_ext import reference


def test_seven_by_seven_with_three_by_three_by_hand():
    image = torch.arange(49.0).view(1, 1, 7, 7)
    filter = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).view(1, 1, 3, 3)
    output = reference.conv2d(image, filter)
    # Neighbouring columns differ by one: every cell is (1 + 2 + 1) * (-2).
    assert torch.equal(output, torch.full((1, 1, 5, 5), -8.0))


def test_it_is_cross_correlation_not_convolution():
    image = torch.tensor([[[[1.0, 0, 0]]]])
    assert reference.conv2d(image, torch.tensor([[[[5.0, 7.0]]]])).flatten().tolist() == [5.0, 0.0]


def test_it_is_what_torch_computes():
    x, w, b = (
        torch.randn(2, 4, 6, 5).double(),
        torch.randn(6, 2, 2, 3).double(),
        torch.randn(6).double(),
    )
    arguments = ((2, 1), (1, 2), (2, 1), 2)
    torch.testing.assert_close(reference.conv2d(x, w, b, *arguments), F.conv2d(x, w, b, *arguments))

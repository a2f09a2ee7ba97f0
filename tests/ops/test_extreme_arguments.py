"""Numbers near the end of what 64 bits hold: a right answer or an error that names the argument."""

import pytest
import torch

from cnn_ext import functional as F

OPS = torch.ops.cnn_ext
HUGE = (2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)
MOST = 2**31 - 1  # that a stride, a padding or a dilation may be


@pytest.mark.parametrize("size", [9, MOST, 2**62 + 1, 2**63 - 1])
@pytest.mark.parametrize("region", ["channels", "spatial"])
def test_a_window_beyond_the_map_holds_the_whole_map(size, region):
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    y = F.local_response_norm(x, size, 0.3, 0.75, 1.0, alpha_scaling="sum", region=region)
    total = x.square().sum(1 if region == "channels" else (2, 3), keepdim=True)
    expected = x / (1 + 0.3 * total) ** 0.75
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(one, x, g)[0] for one in (y, expected)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_mean_over_a_huge_window_is_nothing(layout):
    x = torch.randn(1, 4, 2, 2).contiguous(memory_format=layout)
    assert torch.equal(F.local_response_norm(x, 2**63 - 1), x)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("argument", ["stride", "padding", "dilation", "groups"])
def test_a_huge_geometry_of_convolution_is_refused_by_name(argument, value):
    x, w = torch.ones(1, 4, 6, 6), torch.ones(4, 4, 3, 3)
    geometry = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    geometry[argument] = value if argument == "groups" else [value]
    for call in (
        lambda: OPS.convolution(x, w, None, *geometry.values(), "auto"),
        lambda: OPS.convolution_input_gradient(x, w, [1, 4, 8, 8], *geometry.values(), "auto"),
        lambda: OPS.convolution_weight_gradient(x, x, [4, 4, 1, 1], *geometry.values(), "auto"),
    ):
        with pytest.raises(RuntimeError, match=f"{argument}: expected .* less than 2\\^31"):
            call()


@pytest.mark.parametrize("algorithm", ["auto", "im2col", "implicit_gemm", "direct"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_stride_beyond_the_map_takes_one_window(axes, algorithm):
    """However long the stride, no loop runs over it."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 4, *[5] * axes), torch.randn(6, 4, *[3] * axes)
    g = torch.randn(2, 6, *[1] * axes)
    for stride in ([5] * axes, [MOST] * axes):
        geometry = stride, [0], [1], 1, algorithm
        results = (
            OPS.convolution(x, w, None, *geometry),
            OPS.convolution_input_gradient(g, w, x.shape, *geometry),
            OPS.convolution_weight_gradient(g, x, w.shape, *geometry),
        )
        if stride[0] == 5:
            expected = results
    for ours, one in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, one)


def test_padding_that_no_window_leaves_is_zero():
    x, w = torch.ones(1, 1, 4), torch.ones(1, 1, 3)
    far = 2**30
    y = F.conv1d(x, w, stride=far, padding=far)
    assert y.flatten().tolist() == [0, 3, 0]


def test_filters_may_reach_over_a_map_of_two_to_the_forty():
    x, w = torch.ones(1).expand(1, 1, 2**40), torch.ones(1, 1, 3)
    y = F.conv1d(x, w, stride=MOST, dilation=2**20)
    assert y.shape == (1, 1, (2**40 - 2**21 - 1) // MOST + 1)
    assert (y == 3).all()


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("argument", range(4))
def test_a_huge_window_of_pooling_is_refused_by_name(argument, value):
    geometry = [[2, 2], [2, 2], [0, 0], [1, 1]]
    geometry[argument] = [value, 1]
    name = ("kernel_size", "stride", "padding", "dilation")[argument]
    with pytest.raises(RuntimeError, match=f"max_pool2d: {name}: expected"):
        OPS.max_pool2d(torch.ones(1, 1, 6, 6), *geometry, False)


@pytest.mark.parametrize("value", HUGE)
def test_sizes_of_gradients_that_no_convolution_has_are_refused(value):
    g, w = torch.ones(1, 4, 4, 4), torch.ones(4, 4, 3, 3)
    with pytest.raises(RuntimeError, match="convolution_input_gradient: "):
        OPS.convolution_input_gradient(g, w, [1, 4, value, 6], [1], [0], [1], 1, "auto")
    with pytest.raises(RuntimeError, match="convolution_weight_gradient: "):
        OPS.convolution_weight_gradient(g, g, [4, 4, value, 3], [1], [0], [1], 1, "auto")

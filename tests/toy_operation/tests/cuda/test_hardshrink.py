"""Hard shrinkage on CUDA: torch's results to the bit."""

import pytest
import torch
import torch.nn.functional as F

from tests.cuda.parity import EMULATED, agreed, launches
from tests.ops.convolution_samples import lay_out

ops = torch.ops.cnn_ext
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "channels_last"])
def test_output_and_gradient_are_torchs(layout, dtype, device):
    input = lay_out(torch.randn(2, 3, 9, 33).to(device, dtype), layout)
    grad = torch.randn_like(input)
    before = launches()
    output = agreed(lambda: ops.hardshrink(input, 0.5))
    gradient = agreed(lambda: ops.hardshrink_backward(grad, input, 0.5))
    if EMULATED:
        assert launches() > before  # it was our kernels that ran
    assert torch.equal(output, F.hardshrink(input, 0.5))
    assert torch.equal(gradient, grad.masked_fill(output == 0, 0))


def reduced(device):
    """Every kernel once (tests/cuda/reduced.py)."""
    for dtype in DTYPES:
        input = torch.randn(3, 100).to(device, dtype)
        ops.hardshrink_backward(ops.hardshrink(input, 0.5), input, 0.5)

"""Where the CUDA tests run: on a GPU, or on the emulation of one; or they say why they do not."""

import pytest

from tests.cuda import parity


@pytest.fixture
def device():
    if reason := parity.why_not():
        pytest.skip(reason)
    yield "cpu" if parity.EMULATED else "cuda"
    parity.set_emulation()

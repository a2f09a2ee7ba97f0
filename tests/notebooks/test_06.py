"""The exercises of 06_networks: right answers are accepted, wrong ones refused."""

import pytest

from tests.notebooks.exercises import run

NOTEBOOK = "06_networks"

STACK = """
conv, pool = torch.nn.Conv2d, torch.nn.MaxPool2d(2)
answer = torch.nn.Sequential(
    conv(1, 4, 3), torch.nn.ReLU(), conv(4, 4, 3), conv(4, 4, 3), pool, conv(4, 4, 3)
)
"""
AS_CONVOLUTION = """
def as_convolution(linear, channels):
    side = round((linear.in_features // channels) ** 0.5)
    convolution = torch.nn.Conv2d(channels, linear.out_features, side)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight.view_as(convolution.weight))
        convolution.bias.copy_(linear.bias)
    return convolution
"""
RIGHT = {1: "answer = 448 + 4640 + 81930", 2: STACK, 3: AS_CONVOLUTION}
WRONG = {
    "no biases": (1, "answer = 432 + 4608 + 81920"),
    "no pooling": (2, STACK.replace("pool, ", "")),
    "pooled too soon": (2, STACK.replace("conv(4, 4, 3), pool", "pool, conv(4, 4, 3)")),
    "one filter of 5 x 5": (2, STACK.replace("conv(4, 4, 3), conv(4, 4, 3)", "conv(4, 4, 5)")),
    "stride for pooling": (2, STACK.replace("pool, conv(4, 4, 3)", "conv(4, 4, 2, stride=2)")),
    "no bias": (3, AS_CONVOLUTION.replace("convolution.bias.copy_(linear.bias)", "pass")),
    "columns for rows": (3, AS_CONVOLUTION.replace("view_as(convolution.weight)", "view_as("
                         "convolution.weight).transpose(2, 3)")),
    "one window only": (3, AS_CONVOLUTION.replace("side)", "side, stride=side)")),
}  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_is_accepted(exercise):
    assert run(NOTEBOOK, exercise, RIGHT[exercise]) == "right"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused(name):
    exercise, answer = WRONG[name]
    assert answer != RIGHT[exercise]
    with pytest.raises(AssertionError, match="not right"):
        run(NOTEBOOK, exercise, answer)


@pytest.mark.parametrize("exercise", RIGHT)
def test_the_notebook_gives_no_answer_away(exercise):
    assert run(NOTEBOOK, exercise) == "not answered yet"

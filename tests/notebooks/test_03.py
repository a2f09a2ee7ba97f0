"""The exercises of the notebook on backpropagation take right answers and refuse wrong ones."""

import pytest

from tests.notebooks.exercises import run

NOTEBOOK = "03_backpropagation"

RIGHT = {
    1: "answer = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])",
    2: """
def weight_gradient(x, g, kernel, stride):
    sums = F.conv2d(x.transpose(0, 1), g.transpose(0, 1), dilation=stride)
    return sums.transpose(0, 1)[..., : kernel[0], : kernel[1]]
""",
    3: "answer = torch.tensor([[1.0, 2, 3], [4, 5, 4], [3, 2, 1]])",
}
WRONG = {
    "ones": (1, "answer = torch.ones(3, 3)"),
    "a zero among the weights": (1, "answer = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])"),
    "nothing at all": (1, "answer = torch.zeros(3, 3)"),
    "a strided convolution": (2, RIGHT[2].replace("dilation=", "stride=")),
    "batch and depth not exchanged": (2, RIGHT[2].replace("x.transpose(0, 1)", "x")),
    "a filter that is not symmetric": (3, "answer = torch.arange(9.0).view(3, 3)"),
    "its own mirror image": (3, "answer = torch.tensor([[1.0, 2, 1], [3, 4, 3], [1, 2, 1]])"),
}


@pytest.mark.parametrize("exercise", RIGHT)
def test_the_stub_is_not_answered_yet(exercise):
    assert run(NOTEBOOK, exercise) == "not answered yet"


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_is_taken(exercise):
    assert run(NOTEBOOK, exercise, RIGHT[exercise]) == "right"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused(name):
    exercise, answer = WRONG[name]
    with pytest.raises(AssertionError, match="not right"):
        run(NOTEBOOK, exercise, answer)

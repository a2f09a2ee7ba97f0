"""The exercises of the notebook on convolution accept right answers and no others."""

import pytest

from tests.notebooks.exercises import run

RIGHT = {
    1: "answer = 3",
    2: "answer = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0]])",
    3: """
def my_conv2d(x, w, b, stride):
    K, C, R, S = w.shape
    P, Q = (x.shape[1] - R) // stride + 1, (x.shape[2] - S) // stride + 1
    y = torch.empty(K, P, Q, dtype=x.dtype)
    for p in range(P):
        for q in range(Q):
            window = x[:, p * stride : p * stride + R, q * stride : q * stride + S]
            y[:, p, q] = (w * window).sum((1, 2, 3)) + b
    return y
""",
}
WRONG = {
    1: "answer = 2",
    2: "answer = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1]])",
    3: "def my_conv2d(x, w, b, stride):\n    return F.conv2d(x, w, stride=stride)",
}


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_no_answer_is_called_that(exercise):
    assert run("01_convolution", exercise) == "not answered yet"


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_a_right_answer_is_accepted(exercise):
    assert run("01_convolution", exercise, RIGHT[exercise]) == "right"


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_a_wrong_answer_is_refused(exercise):
    with pytest.raises(AssertionError, match="not right"):
        run("01_convolution", exercise, WRONG[exercise])


def test_the_layer_may_be_one_matrix_multiplication():
    answer = """
def my_conv2d(x, w, b, stride):
    P, Q = ((n - m) // stride + 1 for n, m in zip(x.shape[1:], w.shape[2:]))
    return (w.flatten(1) @ unfold(x, w.shape[2:], stride=stride) + b[:, None]).view(-1, P, Q)
"""
    assert run("01_convolution", 3, answer) == "right"

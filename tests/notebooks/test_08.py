"""The exercises of 08_your_own_op: right answers are accepted, wrong ones refused."""

import pytest

from tests.notebooks.exercises import run

NOTEBOOK = "08_your_own_op"

GRADIENT = """
def input_gradient(grad, weight, height, width, size):
    each = (weight[:, None, None] * grad).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return F.pad(each, [0, width - each.shape[3], 0, height - each.shape[2]])
"""
TANGENT = """
def tangent(input, weight, bias, d_input, d_weight, d_bias, size):
    return composed(d_input, weight, d_bias, size) + composed(input, d_weight, 0 * bias, size)
"""
FAKE = """
def fake_ceil(input, weight, bias, size):
    N, C, H, W = input.shape
    return input.new_empty(N, C, -(-H // size), -(-W // size))
"""
RIGHT = {1: GRADIENT, 2: TANGENT, 3: FAKE}
WRONG = {
    "no border": (1, GRADIENT.replace("F.pad(each, [", "(each, [").replace("]])", "]])[0]")),
    "border repeated": (1, GRADIENT.replace("]])", "]], mode='replicate')")),
    "weight forgotten": (1, GRADIENT.replace("weight[:, None, None] * ", "")),
    "bias twice": (2, TANGENT.replace("0 * bias", "d_bias")),
    "weight alone": (2, TANGENT.replace("composed(d_input, weight, d_bias, size) + ", "")),
    "rounded down": (3, FAKE.replace("-(-H // size)", "H // size")),
    "another dtype": (3, FAKE.replace("new_empty(", "double().new_empty(")),
    "on the CPU": (3, FAKE.replace("size))", "size), device='cpu')")),
}


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

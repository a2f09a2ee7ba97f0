"""The exercises of the notebook on matrix multiplication take right answers and refuse wrong ones."""

import pytest

from tests.notebooks.exercises import run

NOTEBOOK = "02_matrix_multiplication"

RIGHT = {
    1: """
def stored_entries(K, C, L, F):
    return K * C * (F * L - (F * F - 1) // 4) ** 2
""",
    2: """
def input_gradient(g, weight, size, stride):
    columns = weight.flatten(1).T @ g.flatten(2)
    return cnn_ext.functional.fold(columns, size, tuple(weight.shape[2:]), stride=stride)
""",
    3: """
def separable(u, v, size):
    rows = conv_matrix(u.view(1, 1, -1), size[0], layout=torch.strided)
    columns = conv_matrix(v.view(1, 1, -1), size[1], layout=torch.strided)
    return torch.kron(rows, columns)
""",
}
WRONG = {
    "borders forgotten": (1, RIGHT[1].replace(" - (F * F - 1) // 4", "")),
    "the formula of F = 3": (1, RIGHT[1].replace("(F * F - 1) // 4", "2")),
    "filters not transposed": (2, RIGHT[2].replace(".flatten(1).T", ".flip(2, 3).flatten(1).T")),
    "stride forgotten": (2, RIGHT[2].replace(", stride=stride", "")),
    "axes exchanged": (3, RIGHT[3].replace("(rows, columns)", "(columns, rows)")),
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

"""The exercises of the notebook on local response normalisation accept right answers and no others."""

import pytest

from tests.notebooks.exercises import run

RIGHT = {
    1: "answer = nn.LocalResponseNorm(5, alpha=5e-3, beta=0.5, k=1.0)",
    2: "answer = 0.5",
    3: """
def answer(a, t, n, alpha, beta, k):
    K = len(a)
    W = [list(range(max(0, i - n // 2), min(K - 1, i + (n - 1) // 2) + 1)) for i in range(K)]
    s = torch.stack([k + alpha * (a[w] ** 2).sum() for w in W])
    ds = torch.stack([2 * alpha * (a[w] * t[w]).sum() for w in W])
    return t * s**-beta - beta * a * s ** (-beta - 1) * ds
""",
}
WRONG = {
    1: [
        "answer = nn.LocalResponseNorm(5, alpha=1e-3, beta=0.5, k=1.0)",  # not times n
        "answer = nn.LocalResponseNorm(2, alpha=2e-3, beta=0.5, k=1.0)",  # the radius for n
        "answer = 5e-3",
    ],
    2: ["answer = 2", "answer = 0.51", "answer = 'half'"],
    3: [  # the gradient, whose window is the transposed one
        """
def answer(a, t, n, alpha, beta, k):
    x = a.clone().requires_grad_()
    y = local_response_norm(x[None], n, alpha, beta, k, alpha_scaling="sum")[0]
    return torch.autograd.grad(y, x, t)[0]
""",
        "def answer(a, t, n, alpha, beta, k):\n    return t",
    ],
}


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_no_answer_is_called_that(exercise):
    assert run("04_local_response_norm", exercise) == "not answered yet"


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_a_right_answer_is_accepted(exercise):
    assert run("04_local_response_norm", exercise, RIGHT[exercise]) == "right"


@pytest.mark.parametrize(
    ("exercise", "answer"), [(number, answer) for number in WRONG for answer in WRONG[number]]
)
def test_a_wrong_answer_is_refused(exercise, answer):
    with pytest.raises(AssertionError, match="not right"):
        run("04_local_response_norm", exercise, answer)

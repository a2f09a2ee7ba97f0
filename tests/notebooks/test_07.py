"""The exercises of the notebook on conversion accept right answers and no others."""

import pytest

from tests.notebooks.exercises import run

RIGHT = {
    1: 'answer = cnn_ext.convert(model, exclude=["stem"])',
    2: """
answer = next(
    C for C in range(1, 100)
    if convolution_algorithm((4, C, 32, 32), (C, C, 3, 3), padding=1) == "winograd"
)
""",
    3: """
def would_change(model):
    pairs = zip(model.named_modules(), cnn_ext.convert(model).named_modules())
    return [name for (name, before), (_, after) in pairs if type(before) is not type(after)]
""",
}
WRONG = {
    1: [
        "answer = cnn_ext.convert(model)",
        'answer = cnn_ext.convert(model, exclude=["stem"], inplace=True)',
    ],
    2: ["answer = 100", "answer = 1"],
    3: [
        """
def would_change(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
""",
        """
def would_change(model):
    before = {name: type(module) for name, module in model.named_modules()}
    cnn_ext.convert(model, inplace=True)
    return [name for name, module in model.named_modules() if type(module) is not before[name]]
""",
    ],
}


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_no_answer_is_called_that(exercise):
    assert run("07_drop_in", exercise) == "not answered yet"


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_a_right_answer_is_accepted(exercise):
    assert run("07_drop_in", exercise, RIGHT[exercise]) == "right"


@pytest.mark.parametrize(
    ("exercise", "answer"), [(n, answer) for n, answers in WRONG.items() for answer in answers]
)
def test_a_wrong_answer_is_refused(exercise, answer):
    with pytest.raises(AssertionError, match="not right"):
        run("07_drop_in", exercise, answer)

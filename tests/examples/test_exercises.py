"""The check under an exercise."""

import pytest
import torch

from cnn_ext.examples.exercises import check


def unwritten(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, unwritten])
def test_no_answer_is_not_a_wrong_one(answer, capsys):
    check(answer, lambda a: a(1) == 2)
    assert capsys.readouterr().out == "not answered yet\n"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (0, lambda a: a == 0),
        (False, lambda a: a is False),
        (lambda x: 2 * x, lambda a: a(3) == 6),
        (torch.ones(2), lambda a: (a == 1).all()),
    ],
)
def test_a_right_answer_is_called_right(answer, is_right, capsys):
    check(answer, is_right)
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (41, lambda a: a == 42),
        ("42", lambda a: a > 41),  # not even comparable
        (torch.ones(3), lambda a: (a @ torch.ones(2)) == 2),
        (torch.ones(3), lambda a: a == 1),  # no single truth value
        (lambda x: torch.randint(3, (2,)).to("meta").item(), lambda a: a(1) == 2),
    ],
)
def test_a_wrong_answer_raises_with_the_hint(answer, is_right, capsys):
    with pytest.raises(AssertionError, match=r"^not right: count again$"):
        check(answer, is_right, hint="count again")
    assert capsys.readouterr().out == ""


def test_the_reason_of_a_wrong_answer_is_kept():
    with pytest.raises(AssertionError, match=r"^not right$") as raised:
        check("42", lambda a: a > 41)
    assert isinstance(raised.value.__cause__, TypeError)


def test_notebooks_of_version_0_1_find_it_where_they_look():
    from cnn_ext import exercises

    assert exercises.check is check

"""The check under an exercise of a notebook: not answered yet, right, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def check(answer: Any, is_right: Callable[[Any], Any], hint: str = "") -> None:
    """Prints ``right`` for a right answer and ``not answered yet`` where there is none.

    Args:
        answer: a value, or a function that the reader has written. No answer is None, or a function
            whose body is still ``raise NotImplementedError``.
        is_right: takes the answer and says whether it is right, by something that has a truth value.
            An exception in it, of an answer that has not even the right type, is a wrong answer.
        hint: what a wrong answer is told.

    Raises:
        AssertionError: the answer is wrong.

    Example:
        >>> answer = None
        >>> check(answer, lambda a: a == 6 * 7)
        not answered yet
        >>> check(42, lambda a: a == 6 * 7)
        right
        >>> check(54, lambda a: a == 6 * 7, hint="in base ten")
        Traceback (most recent call last):
        ...
        AssertionError: not right: in base ten
    """
    if answer is None:
        print("not answered yet")
        return
    wrong = f"not right: {hint}" if hint else "not right"
    try:
        right = bool(is_right(answer))
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:  # torch's come with a message
            print("not answered yet")
            return
        raise AssertionError(wrong) from error
    if not right:
        raise AssertionError(wrong)
    print("right")

"""Runs an exercise of a notebook with an answer, as a reader would, without the notebook's other cells.

The cells are found by their tags: ``setup``; for exercise 1 ``given-1`` (what it hands out, if
anything), ``exercise-1`` (the answer) and ``check-1``. Notebooks are read as the JSON that they are.
IPython's magics, lines like ``%matplotlib inline``, are left out.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def cells(notebook: str) -> list[dict]:
    """The cells of a notebook, ``source`` as one string.

    Args:
        notebook: the name of its file, with or without ``.ipynb``.
    """
    text = (NOTEBOOKS / f"{notebook.removesuffix('.ipynb')}.ipynb").read_text()
    return [{**cell, "source": "".join(cell["source"])} for cell in json.loads(text)["cells"]]


def run(notebook: str, exercise: int, answer_code: str | None = None) -> str:
    """Puts an answer into an exercise, runs it, and returns what its check printed.

    Args:
        notebook: the name of its file, with or without ``.ipynb``.
        exercise: 1, 2 or 3.
        answer_code: replaces the whole answer cell; None leaves what the notebook has there.

    Raises:
        AssertionError: the answer is wrong.
        LookupError: the notebook has not exactly one answer cell and one check cell of that number.
    """
    answer, check = f"exercise-{exercise}", f"check-{exercise}"
    wanted = ("setup", f"given-{exercise}", answer, check)
    chosen = [
        (tag, cell["source"])
        for cell in cells(notebook)
        for tag in cell["metadata"].get("tags", ())
        if cell["cell_type"] == "code" and tag in wanted
    ]
    for tag in (answer, check):
        if [t for t, _ in chosen].count(tag) != 1:
            raise LookupError(f"{notebook}: expected one code cell with the tag {tag!r}")
    namespace: dict = {"__name__": "__main__"}
    printed = io.StringIO()
    for tag, source in chosen:
        if tag == answer and answer_code is not None:
            source = answer_code
        source = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
        with contextlib.redirect_stdout(printed if tag == check else io.StringIO()):
            exec(compile(source, f"{notebook}, {tag}", "exec"), namespace)
    return printed.getvalue().strip()

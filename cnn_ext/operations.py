"""The registry of operations. Whoever lists operations reads it.

An operation has one name, which is the name of its files and folders on every floor:
``cnn_ext/functional/NAME.py``, ``csrc/ops/NAME/``, ``docs/NAME.md`` and so on. What it offers, its own
files say: ``__all__`` in Python, the schemas in C++. So an entry here is a name and a title.

This file imports neither torch nor the library, so that tools read it before anything is built.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: of its files and folders.
        title: in headings of documentation.
    """

    name: str
    title: str

    def file(self, package: str) -> Path | None:
        """Its file in a package of ``cnn_ext``; None if it has none there.

        Example:
            >>> named("linear").file("nn").name, named("unfold").file("nn")
            ('linear.py', None)
        """
        file = _PACKAGE / package / f"{self.name}.py"
        return file if file.exists() else None

    def exported(self, package: str) -> list[str]:
        """The names that a package of ``cnn_ext`` has from it: ``__all__`` of its file there.

        Raises:
            ValueError: the file has no ``__all__``.

        Example:
            >>> named("unfold").exported("functional")
            ['fold', 'unfold']
        """
        file = self.file(package)
        if file is None:
            return []
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                return list(ast.literal_eval(statement.value))
        raise ValueError(f"cnn_ext/{package}/{file.name}: expected __all__, a list of what it exports")

    def dispatched(self) -> list[str]:
        """Its operations under ``torch.ops.cnn_ext``: those with a schema in ``csrc/ops/NAME/``.

        Example:
            >>> named("max_pool").dispatched()
            ['max_pool2d', 'max_pool2d_backward', 'max_pool2d_with_taps']
        """
        import torch

        import cnn_ext._native  # noqa: F401 - registers them

        names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("cnn_ext::"))
        folder = f"csrc/ops/{self.name}/"
        return sorted(
            name.removeprefix("cnn_ext::")
            for name in names
            if folder in torch._C._dispatch_dump(name).partition("\ndebug: ")[2].partition("\n")[0]
        )


OPERATIONS = (
    Operation("convolution", "convolution"),
    Operation("linear", "dense layers"),
    Operation("max_pool", "max-pooling"),
    Operation("local_response_norm", "local response normalisation"),
    Operation("color_pca", "colour PCA"),
    Operation("unfold", "im2col and col2im"),
)


# What `bench` measures: every operation that has a file in cnn_ext/bench/, and whole networks.
BENCHMARKS = (*(o.name for o in OPERATIONS if o.file("bench")), "networks")


def named(name: str) -> Operation:
    """The operation of this name.

    Raises:
        KeyError: there is none; the message lists those that there are.
    """
    for operation in OPERATIONS:
        if operation.name == name:
            return operation
    raise KeyError(f"operation: expected one of {[o.name for o in OPERATIONS]}, got {name!r}")

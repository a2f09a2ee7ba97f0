"""Writes what cnn_ext.ops, cnn_ext.functional and cnn_ext.nn export of each operation.

Run by `make format`. The names come from cnn_ext/operations.py and from __all__ in each operation's
file. They are written out, and not computed when the package is imported, because type checkers and
editors read the source.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ops", "functional", "nn")
MARK = "# The operations. `make format` writes what follows, from cnn_ext/operations.py.\n"
WIDTH = 104  # of a line, as in pyproject.toml


def block(package: str) -> str:
    """The imports and the names of every operation, as ruff formats them."""
    operations = runpy.run_path(str(ROOT / "cnn_ext" / "operations.py"))["OPERATIONS"]
    imports, names = [], []
    for operation in sorted(operations, key=lambda operation: operation.name):
        if exported := sorted(operation.exported(package)):
            line = f"from cnn_ext.{package}.{operation.name} import "
            one = line + ", ".join(exported)
            each = "".join(f"    {name},\n" for name in exported)
            imports.append(one if len(one) <= WIDTH else f"{line}(\n{each})")
            names += exported
    listed = "".join(f'    "{name}",\n' for name in sorted(names))
    return MARK + "\n".join(imports) + f"\n\n__all__ += [\n{listed}]\n"


def rewritten(package: str) -> str:
    """The text that the package's __init__.py should have."""
    file = ROOT / "cnn_ext" / package / "__init__.py"
    before, mark, _ = file.read_text().partition(MARK)
    if not mark:
        raise SystemExit(f"{file.relative_to(ROOT)}: expected the line {MARK.strip()!r}")
    return before + block(package)


if __name__ == "__main__":
    for package in PACKAGES:
        (ROOT / "cnn_ext" / package / "__init__.py").write_text(rewritten(package))

"""What ``algorithm="auto"`` means, row by row, as the library has it."""

from cnn_ext._native import _C


def markdown() -> str:
    """A table with a line for each row of ``kRule`` in ``csrc/cpu/convolution/route.h``."""
    lines = ["| row | algorithm | taken for | why |", "|---|---|---|---|"]
    for name, algorithm, when, reason in _C.convolution_rule():
        lines.append(f"| {name} | `{algorithm}` | {when} | {reason} |")
    return "\n".join(lines)

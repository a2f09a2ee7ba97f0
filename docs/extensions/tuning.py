"""The tuning constants, as the library has them."""

from cnn_ext._native import _C


def markdown() -> str:
    """The pages ``csrc/cpu/convolution/tuning.h`` and ``csrc/cpu/tuning.h``, each as a table."""
    lines = [
        "## On every instruction set",
        "",
        "| constant | value | unit | what it is, and why |",
        "|---|---:|---|---|",
    ]
    for name, unit, value, reason in _C.convolution_tuning():
        lines.append(f"| `{name}` | {_number(value)} | {unit} | {reason} |")
    lines += [
        "",
        "## In the kernels",
        "",
        "| constant | 16 registers | 32 registers | unit | what it is, and why |",
        "|---|---:|---:|---|---|",
    ]
    for name, unit, few, many, reason in _C.kernel_tuning():
        lines.append(f"| `{name}` | {_number(few)} | {_number(many)} | {unit} | {reason} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """With commas between thousands: 131,072."""
    return f"{value:,.2g}" if value < 1 else f"{value:,.0f}"

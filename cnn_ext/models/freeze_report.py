"""What :func:`cnn_ext.freeze` did to each layer, and what it left, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A convolution, a linear layer or a batch norm that was not folded."""

    name: str
    kind: str
    fused: str
    """The names of what became part of it."""
    left: str
    """What did not, and why."""


class Report:
    """A row for each layer, and for each batch norm that was left; printed, a table.

    Example:
        >>> import torch, cnn_ext
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> report = cnn_ext.freeze(model).report()
        >>> report.batch_norms, report.folded
        (1, 1)
        >>> print(report)
        1 of 1 batch norms folded, 0 ReLUs fused
        <BLANKLINE>
        layer  class   fused  not fused
        -----  ------  -----  ---------
        0      Conv2d  1
    """

    def __init__(self, rows: list[Row], batch_norms: int, folded: int, relus: int) -> None:
        self.rows, self.batch_norms, self.folded, self.relus = rows, batch_norms, folded, relus

    @property
    def left(self) -> dict[str, str]:
        """Why, for each layer of which something was not fused and each batch norm not folded."""
        return {row.name: row.left for row in self.rows if row.left}

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        head = f"{self.folded} of {self.batch_norms} batch norms folded, {self.relus} ReLUs fused"
        table = [("layer", "class", "fused", "not fused")]
        table += [(row.name or "(the model)", row.kind, row.fused, row.left) for row in self.rows]
        widths = [max(len(line[i]) for line in table) for i in range(4)]
        table.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
        lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table)
        return "\n".join([head, "", *(line.rstrip() for line in lines)])

    __repr__ = __str__

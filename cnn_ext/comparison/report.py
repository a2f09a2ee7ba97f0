"""What :func:`cnn_ext.compare` hands over: a table, as text, frame, page, picture, JSON."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any

from cnn_ext._json import strict_json

ERRORS = ("output_error", "input_gradient_error", "weight_gradient_error")


@dataclass(frozen=True)
class Measured:
    """One build of one layer, or of the whole network."""

    output_error: float | None  # relative rms against float64, of the worst tensor; gradients alike
    input_gradient_error: float | None  # None: nothing there has a gradient
    weight_gradient_error: float | None
    seconds: float  # forward and backward, median
    kept_bytes: int  # tensors kept for the backward pass, weights aside
    uncompared: str | None = None  # why there is no error of the outputs

    def errors(self) -> list[float]:
        """Those there are."""
        return [error for name in ERRORS if (error := getattr(self, name)) is not None]


@dataclass(frozen=True)
class Layer:
    """One layer of the table."""

    name: str
    kind: str
    algorithm: str | None  # what computes it here; None: torch does
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int  # those that no layer before it has
    flops: int  # of all its calls in a forward pass, two for a multiplication and an addition
    receptive_field: tuple[int, ...] | None
    ours: Measured
    torch: Measured
    parts: bool  # our error is beyond bounds

    @property
    def ratio(self) -> float | None:
        """How many times faster than torch's; None for a layer that is torch's own."""
        return self.torch.seconds / self.ours.seconds if self.algorithm else None


@dataclass(frozen=True)
class Report:
    """What :func:`compare` found. Prints as a table; also a data frame, a picture, HTML, JSON."""

    model: str
    device: str
    dtype: str
    threads: int
    tf32: str
    layers: list[Layer]
    ours: Measured
    torch: Measured
    parameters: int
    flops: int
    left_alone: dict[str, str] = field(default_factory=dict)
    share_left_alone: float = 0.0  # of the parameters

    @property
    def first_parting(self) -> str | None:
        """The name of the first layer whose error is beyond bounds; None if all are within."""
        return next((layer.name for layer in self.layers if layer.parts), None)

    @property
    def uncompared(self) -> str | None:
        """Why the outputs of the whole network could not be compared; None if they could."""
        return self.ours.uncompared or self.torch.uncompared

    def rows(self) -> list[dict[str, Any]]:
        """The table, flat: one dictionary for each layer and one for the total.

        Before the total, if there is something, one for what is in no layer: parameters of modules that
        call others or are not called, operations of their code.
        """
        facts = [name for name in Layer.__dataclass_fields__ if name not in ("ours", "torch")]
        rows = [
            {
                **{name: getattr(layer, name) for name in facts},
                **_flat(layer.ours, layer.torch),
                "ratio": layer.ratio,
            }
            for layer in self.layers
        ]
        parameters = self.parameters - sum(layer.parameters for layer in self.layers)
        flops = self.flops - sum(layer.flops for layer in self.layers)
        nothing = dict.fromkeys((*facts, *_flat(self.ours, self.torch), "ratio"))
        if parameters or flops:
            rows.append({**nothing, "name": "elsewhere", "kind": "", "parameters": parameters,
                         "flops": flops})  # fmt: skip
        total = {**nothing, "name": "total", "kind": self.model,
                 "parameters": self.parameters, "flops": self.flops,
                 **_flat(self.ours, self.torch),
                 "ratio": self.torch.seconds / self.ours.seconds}  # fmt: skip
        return [*rows, total]

    def to_dict(self) -> dict[str, Any]:
        """Everything, in what JSON has."""
        return {
            "model": self.model, "device": self.device, "dtype": self.dtype,
            "threads": self.threads, "tf32": self.tf32, "first_parting": self.first_parting,
            "uncompared": self.uncompared, "left_alone": self.left_alone,
            "share_left_alone": self.share_left_alone, "rows": self.rows(),
        }  # fmt: skip

    def to_json(self) -> str:
        """:meth:`to_dict` as text; an error that is not a number is null."""
        return strict_json(self.to_dict(), indent=1)

    def to_dataframe(self):
        """The rows as a pandas data frame."""
        import pandas

        return pandas.DataFrame(self.rows())

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=230, no_color=True, force_terminal=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()

    def __rich__(self):
        from rich import box
        from rich.table import Table

        table = Table(title=self._title(), caption=self._verdict(), box=box.SIMPLE, pad_edge=False)
        for i, head in enumerate(HEADS):
            table.add_column(head, justify="left" if i < 3 else "right")
        for row in self.rows():
            style = "bold red" if row["parts"] else "bold" if row["name"] == "total" else None
            table.add_row(*_cells(row), style=style)
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADS)
        body = "".join(
            f"<tr{' style=color:red' if row['parts'] else ''}>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))
            + "</tr>"
            for row in self.rows()
        )
        return (
            f"<table><caption>{html.escape(self._title())}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table><p>{html.escape(self._verdict())}</p>"
        )

    def plot(self):
        """Errors and times by layer: a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(7, 0.35 * len(self.layers)), 7), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        names = [layer.name for layer in self.layers]
        for build, mark in (("ours", "o"), ("torch", "x")):
            of_build = [getattr(layer, build) for layer in self.layers]
            above.plot(names, [max(m.errors(), default=0.0) for m in of_build], mark, label=build)
            below.plot(names, [1e3 * m.seconds for m in of_build], mark, label=build)
        above.set(yscale="log", ylabel="worst relative error", title=self._title())
        below.set(yscale="log", ylabel="forward and backward, ms")
        below.tick_params(axis="x", rotation=90)
        for ax in (above, below):
            ax.legend()
            ax.grid(alpha=0.3)
        return figure

    def _title(self) -> str:
        return f"{self.model}, {self.dtype}, {self.device}, {self.threads} threads, TF32 {self.tf32}"

    def _verdict(self) -> str:
        if self.first_parting is None:
            verdict = "Every layer is within bounds."
        else:
            verdict = f"The first layer beyond bounds is {self.first_parting}."
        if self.uncompared:
            verdict += f" The outputs could not be compared: {self.uncompared}."
        alone = "".join(f" Left alone: {name}: {why}." for name, why in self.left_alone.items())
        if alone:
            alone += f" That is {self.share_left_alone:.0%} of the parameters."
        return verdict + alone


HEADS = ("layer", "kind", "algorithm", "output", "field", "parameters", "MFLOP", "error, torch's",
         "input gradient", "weight gradient", "ms, torch's", "ratio", "kept MiB, torch's")  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    """One row as text; errors, times and memory as ours and torch's side by side."""

    def shape(value):
        return "" if value is None else "x".join(map(str, value))

    def pair(key, form, scale=1.0):
        values = row[key], row[f"torch_{key}"]
        return "" if None in values else " ".join(format(scale * v, form) for v in values)

    return [
        row["name"],
        row["kind"],
        row["algorithm"] or "",
        shape(row["output_shape"]),
        shape(row["receptive_field"]),
        f"{row['parameters']:,}",
        f"{row['flops'] / 1e6:,.1f}",
        *(pair(f"{what}_error", ".1e") for what in ("output", "input_gradient", "weight_gradient")),
        pair("seconds", ".2f", 1e3),
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        pair("kept_bytes", ".2f", 2**-20),
    ]


def _flat(ours: Measured, theirs: Measured) -> dict[str, Any]:
    return {**asdict(ours), **{f"torch_{key}": value for key, value in asdict(theirs).items()}}

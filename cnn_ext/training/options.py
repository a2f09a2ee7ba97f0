"""What a run is asked to do, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cnn_ext.training import recipes

LAYERS = ("cnn_ext", "torch")
PRECISIONS = (
    "32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "transformer-engine",
    "transformer-engine-float16",
)  # fmt: skip
SHORT = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # Lightning's too
# What may be otherwise when a run is continued: how it computes, and which images can be read.
FREE = ("accelerator", "downloads", "skip_broken", "ten_crop", "workers")
COUNTS = ("training_images", "test_images")  # fewer where broken images are left out from now on


@dataclass(frozen=True)
class Options:
    """Everything that a run depends on.

    Raises:
        ValueError: a value with which nothing can be learnt; the message names the option.

    Example:
        >>> Options("lenet5", "digits", learning_rate=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: learning_rate: expected a positive number, got -1.0
    """

    model: str
    data: str
    recipe: str | None = None  # by the model's name if None
    layers: str = "cnn_ext"
    width: float = 1.0
    image_size: int | None = None  # the data set's
    epochs: int | None = None  # the recipe's; the others too
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    ten_crop: bool = False
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    workers: int = 0
    downloads: str = "data"
    skip_broken: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "data", "accelerator", "downloads"):
            self._expect(name, "a word", lambda v: isinstance(v, str) and v)
        for name in ("image_size", "epochs", "batch_size", "devices", "nodes"):
            self._expect(name, "a positive integer", lambda v: isinstance(v, int) and v > 0)
        for name in ("learning_rate", "width"):
            self._expect(name, "a positive number", _positive)
        for name in ("compile", "skip_broken", "ten_crop"):
            self._expect(name, "true or false", lambda v: isinstance(v, bool))
        self._expect("workers", "no or some processes", lambda v: isinstance(v, int) and v >= 0)
        # what torch.manual_seed takes
        self._expect("seed", "an integer of 64 bits",
                     lambda v: isinstance(v, int) and -(2**63) <= v < 2**64)  # fmt: skip
        for name, known in (("layers", LAYERS), ("precision", (*PRECISIONS, *SHORT)),
                            ("recipe", tuple(recipes.RECIPES))):  # fmt: skip
            self._expect(name, f"one of {', '.join(known)}", known.__contains__)

    def _expect(self, name: str, expected: str, holds: Callable[[Any], object]) -> None:
        """None is right where it stands for what the recipe or the data set has."""
        value = getattr(self, name)
        optional = type(self).__dataclass_fields__[name].default is None
        if not (holds(value) or (value is None and optional)):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")

    @property
    def family(self) -> str | None:
        """Of the model, if it is one of ours with a recipe of its own."""
        ours = (name for name in ("lenet5", "alexnet", "vgg") if self.model.startswith(name))
        return next(ours, None)

    def full_recipe(self) -> recipes.Recipe:
        """The named recipe, with what was asked for instead of its own."""
        own = {"epochs": self.epochs, "batch_size": self.batch_size,
               "learning_rate": self.learning_rate}  # fmt: skip
        return replace(
            recipes.RECIPES[self.recipe or self.family or "adamw"],
            **{k: v for k, v in own.items() if v is not None},  # type: ignore[arg-type]
        )

    def resolved(self) -> Options:
        """The same, with the recipe's numbers where none was asked for: what a run is known by.

        Example:
            >>> Options("lenet5", "digits", precision="64").resolved().learning_rate
            0.004
        """
        recipe = self.full_recipe()
        return replace(
            self,
            recipe=self.recipe or self.family or "adamw",
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            precision=SHORT.get(self.precision, self.precision),
        )


def from_record(record: Mapping[str, Any]) -> Options:
    """The options that a run's record has.

    Raises:
        ValueError: they are not what this version knows.
    """
    known = [f.name for f in fields(Options)]
    try:
        return Options(**{name: record[name] for name in known if name in record})
    except (TypeError, ValueError) as error:
        raise ValueError(f"resume: options.json has what this version cannot use: {error}") from error


def continued(asked: Options, saved: Options) -> Options:
    """The options of a run that goes on: its own, but for those that change nothing of what it learns.

    Raises:
        ValueError: others were asked for; the message names each and both values.
    """
    given = {name: value for name, value in asdict(asked.resolved()).items() if value is not None}
    if others := changes(asdict(saved), given):
        raise ValueError(
            f"resume: the run has other options: {others}; leave them out, or begin another run with "
            "another --out"
        )
    return replace(saved, **{name: given[name] for name in FREE})


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Collection[str] | None = None
) -> str:
    """What was otherwise before, in words.

    Args:
        before, now: values by name.
        names: to compare; all in ``now`` but :data:`FREE` and :data:`COUNTS` if None.

    Example:
        >>> changes({"seed": 1, "workers": 0}, {"seed": 2, "workers": 4})
        'seed was 1 and is 2'
    """
    if names is None:
        names = [name for name in now if name not in FREE + COUNTS]
    return ", ".join(
        f"{name} was {before.get(name)!r} and is {now[name]!r}"
        for name in names
        if now[name] != before.get(name)
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf

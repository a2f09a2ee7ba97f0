"""``LabelSafe``: refuses a transform that can change the label of what it transforms.

A 6 turned by 180° is a 9, and a mirrored 2 is no digit at all; a mirrored cat is a cat. Which changes
leave the label alone is a property of the labels: their symmetries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

MIRROR, UPSIDE_DOWN, ROTATION = "mirror image", "upside down", "rotation"


@dataclass(frozen=True)
class Symmetries:
    """What leaves the labels of a data set alone, and why the rest does not.

    Args:
        name: of the kind of data, for messages.
        mirror: whether left and right may be exchanged.
        upside_down: whether top and bottom may be exchanged.
        rotation: the greatest turn either way, in degrees.
        reasons: for each of ``"mirror image"``, ``"upside down"`` and ``"rotation"`` what it would do.
    """

    name: str
    mirror: bool
    upside_down: bool
    rotation: float
    reasons: dict[str, str]

    def objection(self, change: str, degrees: float) -> str | None:
        """The rule that a change breaks, or None."""
        allowed = {MIRROR: self.mirror, UPSIDE_DOWN: self.upside_down,
                   ROTATION: degrees <= self.rotation}[change]  # fmt: skip
        if allowed:
            return None
        amount = f" by up to {degrees:g}°, more than {self.rotation:g}°" if change == ROTATION else ""
        return f"rule {self.name!r}, {change}{amount}: {self.reasons.get(change, 'changes the label')}"


SYMMETRIES = {
    "digits": Symmetries(
        "digits", False, False, 15.0,
        {
            MIRROR: "a mirrored 2 or 5 is no digit, or the other one",
            UPSIDE_DOWN: "a 6 upside down is near a 9, and most others are no digits",
            ROTATION: "a half turn makes 6 of 9, a smaller one 7 of 1",
        },
    ),
    "letters": Symmetries(
        "letters", False, False, 15.0,
        {
            MIRROR: "a mirrored b is a d, a mirrored p a q",
            UPSIDE_DOWN: "an M upside down is a W, a b a p",
            ROTATION: "an N turned is a Z, a u an n",
        },
    ),
    "photographs": Symmetries(
        "photographs", True, False, 30.0,
        {
            UPSIDE_DOWN: "the sky is above: no camera sees the labelled thing so",
            ROTATION: "cameras are held level within some 30°",
        },
    ),
    "aerial": Symmetries("aerial", True, True, 180.0, {}),
}  # fmt: skip


class LabelSafe(nn.Module):
    """A transform that was found to leave labels alone.

    Every transform inside is looked at when this is made. What is not known to be safe is refused,
    since nobody would notice in training.

    Args:
        transform: a v2 transform, or a composition of them.
        symmetries: ``"digits"``, ``"letters"``, ``"photographs"``, ``"aerial"``, or a
            :class:`Symmetries` of your own.
        trusted: classes of transforms, yours or torchvision's, that you vouch for.

    Raises:
        ValueError: a transform may change a label, or is unknown; the message names it and the rule.

    Example:
        >>> from torchvision.transforms import v2
        >>> _ = LabelSafe(v2.RandomHorizontalFlip(), "photographs")
        >>> LabelSafe(v2.RandomHorizontalFlip(), "digits")
        Traceback (most recent call last):
        ...
        ValueError: RandomHorizontalFlip: unsafe by rule 'digits', mirror image: a mirrored 2 or 5 is \
no digit, or the other one
    """

    def __init__(
        self, transform: Callable, symmetries: str | Symmetries, trusted: tuple[type, ...] = ()
    ) -> None:
        super().__init__()
        if isinstance(symmetries, str):
            if symmetries not in SYMMETRIES:
                raise ValueError(
                    f"symmetries: expected one of {', '.join(SYMMETRIES)}, or a Symmetries, "
                    f"got {symmetries!r}"
                )
            symmetries = SYMMETRIES[symmetries]
        for part in parts_of(transform, trusted):
            for change, degrees in _changes(part):
                objection = symmetries.objection(change, degrees)
                if objection is not None:
                    raise ValueError(f"{type(part).__name__}: unsafe by {objection}")
        self.transform, self.symmetries = transform, symmetries

    def forward(self, *inputs: Any) -> Any:
        """What the transform returns."""
        return self.transform(*inputs)

    def extra_repr(self) -> str:
        """The rules by name."""
        return repr(self.symmetries.name)


# Transforms that move no cell of an image far, or all of them alike.
HARMLESS = {
    "CenterCrop", "ColorJitter", "ConvertImageDtype", "ElasticTransform", "FiveCrop",
    "GaussianBlur", "GaussianNoise", "Grayscale", "Identity", "JPEG", "LinearTransformation",
    "Normalize", "Pad", "PILToTensor", "RGB", "RandomAdjustSharpness", "RandomAutocontrast",
    "RandomChannelPermutation", "RandomColorPCA", "RandomCrop", "RandomEqualize", "RandomErasing",
    "RandomGrayscale", "RandomInvert", "RandomPhotometricDistort", "RandomPosterize", "RandomResize",
    "RandomResizedCrop", "RandomShortestSize", "RandomSolarize", "RandomZoomOut", "Resize",
    "SanitizeBoundingBoxes", "ScaleJitter", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor",
    "ToTensor", "UniformTemporalSubsample", "_Stack",
}  # fmt: skip
CONTAINERS = {"Compose", "LabelSafe", "RandomApply", "RandomChoice", "RandomOrder", "Sequential"}


def parts_of(transform: Any, trusted: tuple[type, ...] = ()) -> Iterator[Any]:
    """The transforms that do something, from inside compositions."""
    if isinstance(transform, trusted):
        return
    if type(transform).__name__ in CONTAINERS:
        inner = getattr(transform, "transforms", None) or getattr(transform, "transform", None)
        parts = transform.children() if inner is None else inner
        for part in parts if hasattr(parts, "__iter__") else [parts]:
            yield from parts_of(part, trusted)
    else:
        yield transform


def _greatest(degrees: Any) -> float:
    return float(max(abs(d) for d in (degrees if hasattr(degrees, "__iter__") else [degrees])))


def _edge_turn(distortion: float) -> float:
    """Degrees by which an edge of a square turns where corners move inwards by half the distortion."""
    return math.degrees(math.atan(distortion / (2 - distortion)))


def _changes(part: Any) -> list[tuple[str, float]]:
    """What one transform may do, with degrees."""
    name = type(part).__name__
    own = type(part).__module__.startswith(("torchvision.transforms", "cnn_ext.transforms", "torch.nn"))
    if not own or (name not in HARMLESS and name not in _CHANGES):
        raise ValueError(
            f"{name}: unknown to LabelSafe; if it leaves labels alone, say so: trusted=({name},)"
        )
    return [] if name in HARMLESS or getattr(part, "p", 1) == 0 else _CHANGES[name](part)


_CHANGES: dict[str, Callable[[Any], list[tuple[str, float]]]] = {
    "RandomHorizontalFlip": lambda part: [(MIRROR, 0)],
    "RandomVerticalFlip": lambda part: [(UPSIDE_DOWN, 0)],
    "RandomRotation": lambda part: [(ROTATION, _greatest(part.degrees))],
    # A shear along both axes turns by up to its angle.
    "RandomAffine": lambda part: [(ROTATION, _greatest(part.degrees) + _greatest(part.shear or 0))],
    "RandomPerspective": lambda part: [(ROTATION, _edge_turn(part.distortion_scale))],
    "TenCrop": lambda part: [(UPSIDE_DOWN if part.vertical_flip else MIRROR, 0)],
    # Their largest magnitudes, in torchvision's tables.
    "AugMix": lambda part: [(ROTATION, 30.0)],
    "AutoAugment": lambda part: [(ROTATION, 30.0)],
    "RandAugment": lambda part: [(ROTATION, 30.0)],
    "TrivialAugmentWide": lambda part: [(ROTATION, 135.0)],
}

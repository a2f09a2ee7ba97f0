"""What counts as an image, and what its numbers mean: colours on [0, 1].

``ColorPCA.fit`` and ``RandomColorPCA`` both read images here, so that both take the same ones and mean
the same by them. PIL and NumPy are looked at, not imported, until an image of theirs comes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHITE_16 = 65535  # what 16 bits call 1, as torchvision's ToDtype(scale=True) has it
OPAQUE = ("RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


def is_pil(value: Any) -> bool:
    """A PIL image."""
    return hasattr(value, "getbands")


def is_array(value: Any) -> bool:
    """A NumPy array that can hold an image, (..., H, W, C)."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim >= 3


def is_image(value: Any) -> bool:
    """A tensor of at least three dimensions, such an array, or a PIL image."""
    return value.dim() >= 3 if isinstance(value, Tensor) else is_array(value) or is_pil(value)


def of(image: Any, name: str) -> Tensor:
    """An image as a tensor of one of :data:`DTYPES`, (..., C, H, W).

    Args:
        image: a tensor; a NumPy array, (..., H, W, C); or a PIL image, whose alpha is left out.
        name: begins messages.

    Raises:
        TypeError: other integers, whose range nothing tells.
        ValueError: a PIL image whose mode or values are no colours.
    """
    if is_pil(image):
        return of_pil(image, name)
    if not isinstance(image, Tensor):
        return of_array(image, name)
    if image.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {image.layout}")
    check_dtype(image.dtype, name)
    return image


def check_dtype(dtype: Any, name: str) -> None:
    """Refuses what is no colour without a word on its range."""
    if dtype not in DTYPES:
        raise TypeError(
            f"{name}: expected images of uint8, or floating point on [0, 1], or uint16, got {dtype}. "
            "Where they hold 0 to 255 or 0 to 65535, type .to(torch.uint8) or .to(torch.uint16) "
            '(NumPy: .astype("uint8") or .astype("uint16")); where they fill their dtype, '
            "torchvision.transforms.v2.ToDtype(torch.float32, scale=True)"
        )


def check_range(image: Tensor, name: str, slack: float | None = None, hint: str = "") -> None:
    """Every float lies on [0, 1].

    Args:
        image: integers pass.
        name: begins messages.
        slack: how far outside is let pass; None: what resizing may add by rounding.
        hint: how to divide this kind of image by a number, {}.

    Raises:
        ValueError: with the range that was found and what to do.
    """
    if not (image.is_floating_point() and image.numel()):
        return
    low, high = (value.item() for value in image.detach().aminmax())
    if slack is None:
        slack = 1e-5 + 4 * torch.finfo(image.dtype).eps
    if -slack <= low and high <= 1 + slack:
        return
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"{name}: expected finite colours on [0, 1], got NaN or infinite ones")
    raise ValueError(
        f"{name}: expected colours on [0, 1], got {low:.6g} to {high:.6g}. {_advice(low, high, hint)}"
    )


def _advice(low: float, high: float, hint: str) -> str:
    if low > -0.5 and 0.75 < high < 1.5:
        return "Overshot by a bicubic resize? Type image.clamp(0, 1)"
    if low < 0:
        return "Normalised? Leave v2.Normalize for later, or undo it: image * std + mean"
    if high <= 255:
        return "Of colours on 0 to 255? Divide images by 255" + hint.format(255)
    return f"Of 16 bits, 0 to {WHITE_16}? Divide images by {WHITE_16}" + hint.format(WHITE_16)


def of_array(array: Any, name: str) -> Tensor:
    """(..., H, W, C) as (..., C, H, W), in the machine's order of bytes."""
    import numpy

    native = array.dtype.newbyteorder("=")
    try:
        dtype = torch.from_numpy(numpy.empty(0, native)).dtype
    except TypeError:  # long doubles, text, objects: torch has no such dtype
        dtype = array.dtype
    check_dtype(dtype, name)
    return torch.from_numpy(numpy.array(array, native, order="C", subok=False)).movedim(-1, -3)


def of_pil(image: Any, name: str) -> Tensor:
    """(3, H, W) of a PIL image of any mode that has colours: uint8, uint16, or float32.

    PIL has grey images alone of 16 and 32 bits. I;16 becomes uint16. So does I, in which PIL opens
    16-bit files too (PGM): it has to hold 0 to 65535. F has to hold 0 to 1.
    """
    import numpy

    if image.mode in OPAQUE or image.mode in TRANSPARENT:
        return of_array(numpy.asarray(as_rgb(image).convert("RGB")), name)
    return of_grey(image, name).expand(3, -1, -1)


def of_grey(image: Any, name: str) -> Tensor:
    """(1, H, W), uint16 or float32, of a PIL image of mode I;16, I or F."""
    import numpy

    name = f"{name}: a PIL image of mode {image.mode}"
    if image.mode == "F":
        grey = of_array(numpy.asarray(image)[..., None], name)
        check_range(grey, name, hint=": PIL.Image.fromarray(numpy.asarray(image) / {})")
        return grey
    if not image.mode.startswith("I"):
        raise ValueError(f'{name}: its colours are not known. Type image.convert("RGB")')
    values = numpy.asarray(image)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high > WHITE_16:
        raise ValueError(
            f"{name}: expected 16 bits, 0 to {WHITE_16}, got {low} to {high}. Where white is "
            f"{2**31 - 1}, type "
            f"PIL.Image.fromarray((numpy.asarray(image) / {2**31 - 1}).astype(numpy.float32))"
        )
    return of_array(values.astype(numpy.uint16)[..., None], name)


def as_rgb(image: Any) -> Any:
    """A PIL image of bytes as RGB, or RGBA where it has an alpha channel or a transparent colour."""
    if image.mode == "La":  # PIL knows no other way
        image = image.convert("LA")
    if image.mode == "RGBa":
        return image.convert("RGBA")
    transparent = image.mode in TRANSPARENT or (image.mode != "RGB" and "transparency" in image.info)
    return image.convert("RGBA" if transparent else "RGB")


def to_16_bits(image: Tensor) -> Tensor:
    """Colours on [0, 1] as uint16: rounded, ties to even, and saturated, as colour PCA of bytes is."""
    return (WHITE_16 * image).round().clamp(0, WHITE_16).to(torch.uint16)


def to_bytes(image: Tensor) -> Tensor:
    """As torchvision's ToDtype(torch.uint8, scale=True): 16 bits lose the lower 8; floats saturate."""
    from torchvision.transforms.v2.functional import to_dtype

    return to_dtype(image.clamp(0, 1) if image.is_floating_point() else image, torch.uint8, scale=True)

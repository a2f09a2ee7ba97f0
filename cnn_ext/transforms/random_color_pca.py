"""``RandomColorPCA``: colour PCA as a ``torchvision.transforms.v2`` transform.

All that is random in colour PCA is drawn here; the operation itself is deterministic.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext import functional
from cnn_ext.transforms import pixels
from cnn_ext.transforms.color_pca import ColorPCA

SCALINGS = ("eigenvalue", "stdev")
NAME = "RandomColorPCA"
PIL_MODES = {"RGB": 3, "RGBA": 3, "L": 1, "LA": 1, "CMYK": 4}  # kept where pca has as many channels
# Earlier augmentation may have moved floats out of [0, 1]; not this far. 0 to 255 is.
FAR = 10.0


def _is_pure(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, tv_tensors.TVTensor)


class RandomColorPCA(v2.Transform):
    """Adds a random multiple of each principal component of colour to a whole image.

    To every pixel of an image, P (α ⊙ λ) with α drawn from N(0, std²) once for each image and use.
    What counts as one image: a PIL image; a tensor or ``tv_tensors.Image`` of (C, H, W); a NumPy array
    of (H, W, C); each of a batch, (..., C, H, W) or (..., H, W, C); a whole ``tv_tensors.Video`` clip,
    (..., T, C, H, W). All images of one sample (the two of a stereo pair, say) share the draw; boxes,
    masks and labels are left alone. As everywhere in torchvision's v2, a plain tensor or array is an
    image only where it is the first and there is no other image.

    What :meth:`ColorPCA.fit` takes is taken here and means the same: uint8, uint16, floats on [0, 1].
    uint16 rounds and saturates as uint8 does. A PIL image keeps its mode where ``pca`` has as many
    channels. With three, any other mode comes out as RGB (with an alpha channel, which stays as it is,
    as RGBA). PIL has no colour image of more than 8 bits, so I;16, I and F are rounded down to 8;
    ``v2.ToImage()`` and ``v2.RGB()`` before this transform keep 16.

    Args:
        pca: of the training set. ``ColorPCA.fit`` or ``ColorPCA.imagenet()``.
        std: standard deviation of α; 0.1 in the paper.
        p: probability with which an image is changed at all (drawn for each image of a batch).
        scaling: ``"eigenvalue"``, α λ as the paper has it, or ``"stdev"``, α √λ as its released code
            does, which is some two to fifteen times as much (docs/color_pca.md).
        generator: for reproducibility apart from torch's global generator. In a ``DataLoader``'s worker
            it starts anew from its seed, the worker and the epoch, so that workers draw differently.
            The loader's seed of the epoch is part of that: seed the loader too (``generator=``, or
            ``torch.manual_seed``).

    Raises:
        ValueError: at construction, an argument out of its range.
        RuntimeError: an image has another number of channels than ``pca``.
        TypeError: an image of other integers.
        ValueError: floats on 0 to 255 (looked for on the CPU, where it costs no waiting).

    Source: A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional
    neural networks" (2012), section 4.1.

    Example:
        >>> transform = RandomColorPCA(ColorPCA.imagenet(), p=1.0)
        >>> transform(torch.zeros(3, 224, 224, dtype=torch.uint8)).shape
        torch.Size([3, 224, 224])
    """

    _transformed_types = (
        _is_pure, pixels.is_array, PIL.Image.Image, tv_tensors.Image, tv_tensors.Video,
    )  # fmt: skip

    def __init__(
        self,
        pca: ColorPCA,
        std: float = 0.1,
        p: float = 0.5,
        scaling: str = "eigenvalue",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(pca, ColorPCA):
            raise TypeError(f"pca: expected a ColorPCA, got {type(pca).__name__}")
        if not (math.isfinite(std) and std >= 0):
            raise ValueError(f"std: expected a finite number of at least 0, got {std}")
        if not 0 <= p <= 1:
            raise ValueError(f"p: expected a probability, got {p}")
        if scaling not in SCALINGS:
            raise ValueError(f"scaling: expected one of {SCALINGS}, got {scaling!r}")
        self.std, self.p, self.scaling, self.generator = std, p, scaling, generator
        scale = pca.eigenvalues if scaling == "eigenvalue" else pca.eigenvalues.sqrt()
        self.register_buffer("eigenvectors", pca.eigenvectors.clone())
        self.register_buffer("scale", scale.clone())
        self._seeded_for: tuple[int, int] | None = None

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One draw for each image, by the shape of the batch: images of one sample share theirs."""
        shapes = dict.fromkeys(_batch_shape(image) for image in flat_inputs)
        return {"alphas": {shape: self._draw(shape) for shape in shapes}}

    def _needs_transform_list(self, flat_inputs: list[Any]) -> list[bool]:
        """v2's rule for plain tensors, for arrays too: the first alone, if there is no other image."""
        if len(flat_inputs) == 1 and isinstance(flat_inputs[0], numpy.ndarray):
            _batch_shape(flat_inputs[0])  # refuses a flat one, which v2 would pass through
        needed = super()._needs_transform_list(flat_inputs)
        plain = [i for i, value in enumerate(flat_inputs)
                 if needed[i] and (_is_pure(value) or pixels.is_array(value))]  # fmt: skip
        for i in plain[len(plain) == sum(needed) :]:
            needed[i] = False
        return needed

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image, of the same type."""
        alphas = params["alphas"][_batch_shape(inpt)]
        if isinstance(inpt, PIL.Image.Image):
            return self._transform_pil(inpt, alphas)
        if isinstance(inpt, numpy.ndarray):
            self._check_channels(inpt.shape[-1], f"an array of shape {inpt.shape}")
            shifted = self._shift(pixels.of_array(inpt, NAME), alphas).movedim(-3, -1)
            return shifted.contiguous().numpy().astype(inpt.dtype, copy=False)
        if isinstance(inpt, tv_tensors.Video):  # all frames of a clip
            alphas = alphas.unsqueeze(-2).expand(*inpt.shape[:-3], -1)
        image = inpt.as_subclass(Tensor)
        self._check_channels(image.shape[-3], f"a tensor of shape {tuple(image.shape)}")
        return tv_tensors.wrap(self._shift(image, alphas), like=inpt)

    def _transform_pil(self, image: PIL.Image.Image, alphas: Tensor) -> PIL.Image.Image:
        C = len(self.scale)
        if PIL_MODES.get(image.mode) == C:
            return self._transform_bytes(image, alphas)
        deep = image.mode == "F" or image.mode.startswith("I")
        if C == 1 and deep:
            grey = self._shift(pixels.of_grey(image, NAME), alphas)[0].numpy()
            return PIL.Image.fromarray(grey.astype(numpy.asarray(image).dtype))
        self._check_channels(3, f"a PIL image of mode {image.mode}, which is read as RGB")
        if deep:
            shifted = self._shift(pixels.of_pil(image, NAME).contiguous(), alphas)
            return v2.functional.to_pil_image(pixels.to_bytes(shifted))
        return self._transform_bytes(pixels.as_rgb(image), alphas)

    def _transform_bytes(self, image: PIL.Image.Image, alphas: Tensor) -> PIL.Image.Image:
        """Of a mode in PIL_MODES with as many colours as pca; alpha stays."""
        array = numpy.array(image)  # a copy, changed in place
        interleaved = array.reshape(*array.shape[:2], len(image.getbands()))
        bands = torch.from_numpy(interleaved).movedim(-1, -3)
        colours = bands[: len(self.scale)]
        colours.copy_(self._shift(colours, alphas))
        return PIL.Image.frombytes(image.mode, image.size, array.tobytes())

    def _shift(self, image: Tensor, alphas: Tensor) -> Tensor:
        pixels.check_dtype(image.dtype, NAME)
        if image.device.type == "cpu" and not torch.compiler.is_compiling():
            pixels.check_range(image, NAME, slack=FAR)
        vectors, scale, alphas = (t.to(image.device) for t in (self.eigenvectors, self.scale, alphas))
        if image.dtype == torch.uint16:
            colours = image.double() / pixels.WHITE_16
            return pixels.to_16_bits(functional.color_pca(colours, vectors, scale, alphas))
        return functional.color_pca(image, vectors, scale, alphas)

    def _check_channels(self, channels: int, what: str) -> None:
        if channels != len(self.scale):
            grey = ". Type torchvision.transforms.v2.RGB() before it" if channels == 1 else ""
            raise RuntimeError(
                f"{NAME}: expected {len(self.scale)} channels, those of pca, got {what}{grey}"
            )

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """(*shape, C) of α; zero where an image is to stay as it is."""
        generator = self._generator()
        device = "cpu" if generator is None else generator.device
        options: dict[str, Any] = {"generator": generator, "dtype": torch.double, "device": device}
        alphas = self.std * torch.randn(*shape, len(self.scale), **options)
        return torch.where(torch.rand(*shape, 1, **options) < self.p, alphas, 0.0)

    def _generator(self) -> torch.Generator | None:
        worker = get_worker_info()
        if self.generator is not None and worker is not None:
            life = (worker.id, worker.seed)  # the seed is another in every epoch
            if self._seeded_for != life:
                self._seeded_for = life
                text = f"{self.generator.initial_seed()} {worker.id} {worker.seed}"
                digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
                self.generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        return self.generator

    # A torch.Generator pickles its state as a tensor in shared memory, which is gone before a spawned
    # worker has opened it; so it travels as bytes.
    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.generator is not None:
            bits = self.generator.get_state().numpy().tobytes()
            state["generator"] = (str(self.generator.device), bits)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["generator"] is not None:
            device, bits = state["generator"]
            generator = torch.Generator(device)
            generator.set_state(torch.frombuffer(bytearray(bits), dtype=torch.uint8))
            state = {**state, "generator": generator}
        super().__setstate__(state)

    def extra_repr(self) -> str:
        """The arguments, eigenvalues (or their roots) first."""
        scale = ", ".join(f"{value:.4g}" for value in self.scale.tolist())
        return f"[{scale}], std={self.std}, p={self.p}, scaling={self.scaling!r}"


def _batch_shape(image: Any) -> tuple[int, ...]:
    """The axes along which images differ: none of a single image or clip."""
    if isinstance(image, PIL.Image.Image):
        return ()
    if image.ndim < 3:
        raise RuntimeError(
            f"{NAME}: expected an image of (..., C, H, W), an array of (..., H, W, C), first; "
            f"got shape {tuple(image.shape)}"
        )
    return tuple(image.shape[: -4 if isinstance(image, tv_tensors.Video) else -3])

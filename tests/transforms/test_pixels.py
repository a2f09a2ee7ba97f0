"""What is an image: fitting and applying take the same ones, and mean the same colours by them."""

import numpy
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext.transforms import ColorPCA, RandomColorPCA

RAMP = numpy.linspace(0, 65535, 4096).astype(numpy.uint16).reshape(64, 64)  # black to white
COLOURS = numpy.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=numpy.uint8)
IMAGENET = ColorPCA.imagenet()


def fit(*images):
    return ColorPCA.fit(images, progress=False)


def shifted(image, pca=IMAGENET, **keywords):
    draw = RandomColorPCA(pca, p=1.0, generator=torch.Generator().manual_seed(1), **keywords)
    return draw(image)


def premultiplied():
    return Image.fromarray(COLOURS).convert("LA").convert("La")


MODES = {
    mode: Image.fromarray(COLOURS).convert(mode)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "RGBX", "RGBa")
} | {
    "La": premultiplied(),
    "PA": Image.fromarray(COLOURS).convert("P").convert("PA"),
    "LAB": Image.frombytes("LAB", (9, 12), COLOURS.tobytes()),
    "I;16": Image.fromarray(RAMP),
    "I;16B": Image.fromarray(RAMP.astype(">u2")),
    "I": Image.fromarray(RAMP.astype(numpy.int32)),
    "F": Image.fromarray((RAMP / 65535).astype(numpy.float32)),
}
DEEP = ["I;16", "I;16B", "I", "F"]


# ------------------------------------------------------------------------------------ PIL's modes


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_is_fitted_is_also_shifted(mode):
    image = MODES[mode]
    assert image.mode == mode
    result = shifted(image, fit(image))
    alpha = mode.upper().endswith("A")
    assert (result.mode, result.size) == ("RGBA" if alpha else "RGB", image.size)


@pytest.mark.parametrize("mode", DEEP)
def test_a_ramp_of_16_bits_or_floats_is_fitted_from_black_to_white(mode):
    pca = fit(MODES[mode])
    exact = torch.from_numpy(RAMP.astype(float) / 65535).flatten()
    torch.testing.assert_close(pca.mean, exact.mean().expand(3), rtol=1e-6, atol=0)
    torch.testing.assert_close(pca.eigenvalues[0], 3 * exact.var(correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", DEEP)
def test_without_a_shift_a_deep_image_becomes_bytes_as_torchvision_converts_it(mode):
    tensor = v2.functional.pil_to_tensor(MODES["F" if mode == "F" else "I;16"])
    wanted = v2.functional.to_dtype(tensor, torch.uint8, scale=True).expand(3, -1, -1)
    assert torch.equal(v2.functional.pil_to_tensor(shifted(MODES[mode], std=0.0)), wanted)


@pytest.mark.parametrize("mode", sorted(set(MODES) - set(DEEP)))
def test_a_mode_of_bytes_is_shifted_as_rgb(mode):
    rgb = fit(MODES[mode])
    image = MODES[mode].convert("LA") if mode == "La" else MODES[mode]
    wanted = shifted(image.convert("RGB"))
    assert shifted(MODES[mode]).convert("RGB").tobytes() == wanted.tobytes()
    assert torch.equal(fit(image.convert("RGB")).eigenvectors, rgb.eigenvectors)


@pytest.mark.parametrize("mode", DEEP)
def test_a_deep_grey_image_stays_what_it_is_under_statistics_of_one_channel(mode):
    pca = ColorPCA([[1.0]], [0.2])
    result = shifted(MODES[mode], pca)
    assert result.mode == mode
    grey = torch.from_numpy(RAMP / 65535)[None]
    wanted = shifted(grey, pca)[0]
    if mode != "F":  # floats are not clamped
        wanted = (65535 * wanted).round().clamp(0, 65535)
    tolerance = 1e-6 if mode == "F" else 0
    got = torch.from_numpy(numpy.asarray(result).astype(float))
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance)


def test_a_transparent_colour_of_a_palette_stays_transparent():
    image = MODES["P"].copy()
    image.info["transparency"] = 3
    result = shifted(image)
    assert result.mode == "RGBA"
    assert result.getchannel("A").tobytes() == image.convert("RGBA").getchannel("A").tobytes()


def test_16_bits_in_a_file_are_read_like_the_array(tmp_path):
    for name in ("ramp.png", "ramp.tif", "ramp.pgm"):  # PIL opens the last as mode I
        Image.fromarray(RAMP).save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert torch.equal(fit(image).mean, fit(MODES["I;16"]).mean), image.mode


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (numpy.full((4, 4), 70000, numpy.int32), "mode I: expected 16 bits, .* got 70000 to 70000"),
        (numpy.full((4, 4), -1, numpy.int32), r"got -1 to -1.*type PIL.Image.fromarray\("),
        (numpy.full((4, 4), 128, numpy.float32), "mode F: expected colours .* got 128 to 128.*/ 255"),
        (numpy.full((4, 4), 4095, numpy.float32), "numpy.asarray.image. / 65535"),
        (numpy.full((4, 4), numpy.nan, numpy.float32), "NaN or infinite"),
    ],
    ids=["large", "negative", "bytes", "16 bits", "nan"],
)  # fmt: skip
def test_a_refused_pil_image_says_what_to_type(values, message):
    image = Image.fromarray(values)
    for use in (fit, shifted):
        with pytest.raises(ValueError, match=message):
            use(image)


# -------------------------------------------------------------------------------- tensors, arrays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", ">f4", "float64"])
def test_an_array_is_the_tensor_with_its_channels_last(dtype):
    scale = {"uint8": 255, "uint16": 65535, ">u2": 65535}.get(dtype, 1)
    array = (numpy.random.default_rng(1).random((2, 6, 5, 3)) * scale).astype(dtype)[:, ::-1]
    native = array.astype(array.dtype.newbyteorder("="))
    tensor = torch.from_numpy(native).movedim(-1, -3)
    assert torch.equal(fit(array).eigenvectors, fit(tensor).eigenvectors)
    before = array.copy()
    result = shifted(array)
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert torch.equal(torch.from_numpy(result.astype(native.dtype)), shifted(tensor).movedim(-3, -1))
    assert (array == before).all()
    assert (result != array).any()


def test_16_bits_and_bytes_of_the_same_colours_have_the_same_statistics():
    deep = COLOURS.astype(numpy.uint16) * 257  # 255 * 257 = 65535
    torch.testing.assert_close(fit(deep).eigenvalues, fit(COLOURS).eigenvalues, rtol=1e-6, atol=0)
    difference = shifted(deep) / 257 - shifted(COLOURS)
    assert abs(difference).max() <= 0.5 + 1 / 257


def test_16_bits_saturate_and_round_once():
    pca = ColorPCA(torch.eye(3), [0.2, 0.1, 0.1])
    image = torch.tensor([0, 30000, 65535]).to(torch.uint16).view(3, 1, 1).repeat(1, 2, 2)
    assert torch.equal(shifted(image, std=0.0), image)
    exact = shifted(image.double() / 65535, pca)
    wanted = (65535 * exact).round().clamp(0, 65535).long()
    assert torch.equal(shifted(image, pca).long(), wanted)


def test_labels_and_other_arrays_are_left_alone():
    mask = numpy.ones((12, 9, 3), dtype=numpy.uint8)
    for label in (3, numpy.int64(3), numpy.array([3]), torch.tensor(3), torch.zeros(3, 12, 9)):
        image, after = shifted((COLOURS, label))
        assert (image != COLOURS).any()
        assert after is label
    sample = shifted({"image": COLOURS, "mask": mask})
    assert sample["mask"] is mask
    sample = shifted({"tensor": mask, "image": tv_tensors.Image(torch.zeros(3, 4, 4))})
    assert sample["tensor"] is mask
    assert (sample["image"] != 0).any()


def test_an_image_of_a_batch_of_arrays_has_its_own_draw():
    batch = shifted(numpy.zeros((50, 2, 2, 3)))
    assert len(torch.from_numpy(batch).flatten(1).unique(dim=0)) == 50


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "bool", "longdouble", "complex64"]
)
def test_dtypes_whose_white_is_unknown_are_refused_alike(dtype):
    array = numpy.zeros((4, 4, 3), dtype)
    images = [array] if dtype == "longdouble" else [array, torch.from_numpy(array).movedim(-1, 0)]
    for image in images:
        for use in (fit, shifted):
            with pytest.raises(
                TypeError, match=r"expected images of uint8.*got .*type \.to\(torch\.uint8"
            ):
                use(image)


def test_an_array_of_other_channels_is_refused():
    with pytest.raises(RuntimeError, match=r"expected 3 channels.*an array of shape \(4, 4, 2\)"):
        shifted(numpy.zeros((4, 4, 2)))
    with pytest.raises(RuntimeError, match=r"Type torchvision\.transforms\.v2\.RGB"):
        shifted(torch.zeros(1, 4, 4))


# ----------------------------------------------------------------------------------------- range


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 8, 8), 128.0), "got 128 to 128. Of colours on 0 to 255"),
        (120 + torch.linspace(0, 1, 192).view(3, 8, 8), "got 120 to 121. Of colours on 0 to 255"),
        (torch.linspace(-0.6, 0.6, 192).view(3, 8, 8), "got -0.6 to 0.6. Normalised"),
        (torch.full((3, 8, 8), 4000.0), "Divide images by 65535"),
        (torch.full((3, 8, 8), 1.001), "got 1.001 to 1.001. Overshot"),
        (torch.full((3, 8, 8), -1e-3, dtype=torch.double), "got -0.001 to -0.001"),
        (torch.full((3, 8, 8), 200.0, dtype=torch.float16), "Of colours on 0 to 255"),
    ],
    ids=["flat", "soft", "normalised", "16 bits", "above", "below", "half"],
)
def test_colours_outside_are_refused_however_little_they_vary(image, message):
    for data in ([image], image[None], [image.float().movedim(0, -1).numpy()]):
        with pytest.raises(ValueError, match=message):
            fit(*data)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1000, -1])
def test_every_pixel_is_looked_at(value, place):
    image = torch.full((2, 3, 70, 71), 0.5)
    image.view(-1)[place] = value
    with pytest.raises(ValueError, match="sample 1: expected"):
        fit(torch.rand(3, 4, 4), image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_resizing_rounds_past_white_is_fitted(dtype):
    white = torch.ones(3, 971, 873)
    resized = v2.functional.resize(white, [37, 41], antialias=True)
    assert (resized > 1).any()
    assert fit(resized.to(dtype)).count == 37 * 41
    assert fit(torch.full((3, 4, 4), 1 + torch.finfo(dtype).eps, dtype=dtype)).count == 16


def test_floats_on_0_to_255_are_not_shifted_by_next_to_nothing():
    with pytest.raises(ValueError, match=r"RandomColorPCA: expected .* Divide images by 255"):
        shifted(torch.full((3, 8, 8), 128.0))
    assert shifted(torch.full((3, 8, 8), 1.5)).shape == (3, 8, 8)  # what came before may have added


# --------------------------------------------------------------------------------------- samples


def test_the_image_of_a_dict_is_found_behind_its_label():
    sample = {"label": torch.tensor(3), "x": torch.from_numpy(COLOURS).movedim(-1, 0)}
    assert torch.equal(fit(sample).mean, fit(COLOURS).mean)


def test_a_single_pil_image_is_a_data_set_of_one():
    assert torch.equal(ColorPCA.fit(MODES["RGB"], progress=False).mean, fit(COLOURS).mean)


def test_an_image_without_pixels_stays_without():
    for mode in ("RGB", "L", "I;16", "I", "F"):
        assert shifted(Image.new(mode, (0, 0))).size == (0, 0)


def test_flat_and_sparse_images_are_refused():
    for use in (fit, shifted):
        with pytest.raises((TypeError, RuntimeError), match=r"expected (an image|images)"):
            use(numpy.zeros((4, 4)))
    with pytest.raises(TypeError, match="sample 0: expected a dense tensor"):
        fit(torch.rand(3, 4, 4).to_sparse())


def test_what_is_no_data_set_is_named():
    with pytest.raises(TypeError, match="data: expected a data set or a loader of images, got int"):
        ColorPCA.fit(3, progress=False)

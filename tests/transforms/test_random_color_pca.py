"""RandomColorPCA: the distribution of its shifts, kinds of samples, workers; the classic mistakes."""

import copy
import math
import pickle

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext.transforms import ColorPCA, RandomColorPCA

IMAGENET = ColorPCA.imagenet()


def transform(p=1.0, seed=0, pca=IMAGENET, **keywords):
    return RandomColorPCA(pca, p=p, generator=torch.Generator().manual_seed(seed), **keywords)


def shifts(count=4000, pca=IMAGENET, **keywords):
    """Of black single pixels: what was added, (count, C)."""
    black = torch.zeros(count, pca.channels, 1, 1, dtype=torch.double)
    return transform(pca=pca, **keywords)(black).view(count, -1)


def alphas_of(shifts, scale=IMAGENET.eigenvalues, vectors=IMAGENET.eigenvectors):
    return torch.linalg.solve(vectors, shifts.mT).mT / scale


def skewed_basis():
    """Statistics whose P is far from its transpose."""
    a, b = math.cos(0.5), math.sin(0.5)
    return ColorPCA([[a, -b, 0.0], [b, a, 0.0], [0.0, 0.0, 1.0]], [0.2, 0.05, 0.01])


# ------------------------------------------------------------------------------- distribution


@pytest.mark.parametrize("scaling", ["eigenvalue", "stdev"])
@pytest.mark.parametrize("std", [0.1, 0.5])
def test_alphas_are_independent_and_normal(scaling, std):
    scale = IMAGENET.eigenvalues if scaling == "eigenvalue" else IMAGENET.eigenvalues.sqrt()
    alphas = alphas_of(shifts(scaling=scaling, std=std), scale) / std
    n = len(alphas)
    # Five standard errors of each estimate: of a mean, a variance, a correlation.
    assert alphas.mean(0).abs().max() < 5 / n**0.5
    assert (alphas.var(0) - 1).abs().max() < 5 * (2 / n) ** 0.5
    correlation = torch.corrcoef(alphas.mT) - torch.eye(3)
    assert correlation.abs().max() < 5 / n**0.5
    # Kolmogorov and Smirnov: the greatest distance of the distributions, exceeded once in 10^6.
    order = alphas.sort(0).values
    normal = torch.special.ndtr(order)
    steps = torch.arange(1, n + 1).double()[:, None] / n
    assert torch.maximum((steps - normal).abs(), (steps - 1 / n - normal).abs()).max() < 2.7 / n**0.5


def test_the_shift_is_the_papers():
    """Its covariance is P diag(0.1 λ)² Pᵀ."""
    pca, drawn = skewed_basis(), shifts(20000, skewed_basis())
    P, scale = pca.eigenvectors, 0.1 * pca.eigenvalues
    wanted = P @ scale.square().diag() @ P.mT
    error = (torch.cov(drawn.mT) - wanted).abs()
    bound = 5 * ((wanted.square() + torch.outer(wanted.diagonal(), wanted.diagonal())) / 20000).sqrt()
    assert (error <= bound + 1e-18).all()


def test_p_is_the_share_of_images_that_change():
    changed = (shifts(p=0.3) != 0).any(1).double()
    assert abs(changed.mean() - 0.3) < 5 * (0.3 * 0.7 / len(changed)) ** 0.5
    assert (shifts(p=0.0) == 0).all()
    assert (shifts(p=1.0) != 0).all()


# -------------------------------------------------------------------------- classic mistakes


def test_regression_transposed_eigenvectors():
    pca = skewed_basis()
    drawn = shifts(2000, pca)
    right = alphas_of(drawn, pca.eigenvalues, pca.eigenvectors)
    wrong = alphas_of(drawn, pca.eigenvalues, pca.eigenvectors.mT)
    assert (right.std(0) / 0.1 - 1).abs().max() < 5 / (2 * 2000) ** 0.5
    assert (wrong.std(0) / 0.1 - 1).abs().max() > 1


def test_regression_uniform_noise():
    """Uniform noise has no tails and, drawn from [0, 1), one sign only."""
    alphas = alphas_of(shifts()) / 0.1
    assert (alphas.abs() > 3).any()
    assert 0.4 < (alphas > 0).double().mean() < 0.6


def test_regression_noise_for_each_pixel():
    image = torch.zeros(3, 20, 30)
    shifted = transform()(image)
    assert torch.equal(shifted, shifted[:, :1, :1].expand_as(shifted))
    assert shifted.abs().max() > 0


def test_regression_eigenvalues_of_0_to_255():
    on_255 = IMAGENET.eigenvalues * 255**2
    with pytest.raises(ValueError, match="Divide eigenvalues by 65025"):
        ColorPCA(IMAGENET.eigenvectors, on_255)
    # The right ones move a photograph by a few grey levels.
    assert 255 * shifts().abs().max() < 20


def test_regression_identical_draws_across_a_batch():
    assert len(shifts(100).unique(dim=0)) == 100


# ------------------------------------------------------------------------- kinds of samples


def test_bytes_and_floats_get_the_same_shift():
    grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    as_bytes, as_floats = transform()(grey), transform()(grey / 255)
    assert as_bytes.dtype == torch.uint8
    assert (as_bytes.double() - 255 * as_floats.double()).abs().max() <= 0.5 + 1e-4


def test_a_pil_image_is_a_tensor():
    array = numpy.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=numpy.uint8)
    before = array.copy()
    result = transform()(Image.fromarray(array))
    tensor = transform()(torch.from_numpy(array).movedim(-1, 0))
    assert (result.mode, result.size) == ("RGB", (11, 9))
    assert torch.equal(v2.functional.pil_to_tensor(result), tensor)
    assert (array == before).all()


@pytest.mark.parametrize("alpha", [0, 7, 255])
def test_an_alpha_channel_stays_as_it_is(alpha):
    image = Image.new("RGB", (5, 4), (10, 200, 90))
    rgba = image.copy()
    rgba.putalpha(alpha)
    result = transform()(rgba)
    assert set(result.getchannel("A").get_flattened_data()) == {alpha}
    assert result.convert("RGB").tobytes() == transform()(image).tobytes()


def test_grey_images_of_one_channel():
    pca = ColorPCA([[1.0]], [0.2])
    for image in (Image.new("L", (5, 4), 100), Image.new("LA", (5, 4), (100, 9))):
        result = transform(pca=pca)(image)
        assert result.mode == image.mode
        assert result.getchannel(0).getextrema() == transform(pca=pca)(image.convert("L")).getextrema()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 5, 5), "expected 3 channels, those of pca, got a tensor of shape"),
        (torch.zeros(1, 5, 5), "expected 3 channels.*Type torchvision.transforms.v2.RGB"),
        (torch.zeros(5, 5), r"expected an image of \(..., C, H, W\).* first; got shape \(5, 5\)"),
    ],
    ids=["four", "grey", "flat"],
)
def test_other_channels_are_refused(image, message):
    with pytest.raises(RuntimeError, match=message):
        transform()(image)


def test_a_pil_image_of_other_channels_is_refused_where_rgb_does_not_help():
    with pytest.raises(RuntimeError, match=r"expected 4 channels.*mode L, which is read as RGB"):
        transform(pca=ColorPCA(torch.eye(4), [0.1] * 4))(Image.new("L", (3, 3)))


def test_an_image_of_a_batch_has_its_own_draw_and_a_clip_has_one():
    frames = torch.zeros(4, 6, 3, 2, 2)
    batch = transform()(frames)
    assert len(batch.flatten(0, 1).flatten(1).unique(dim=0)) == 24
    clips = transform()(tv_tensors.Video(frames))
    assert isinstance(clips, tv_tensors.Video)
    assert torch.equal(
        clips.as_subclass(torch.Tensor), clips[:, :1].expand(4, 6, 3, 2, 2).as_subclass(torch.Tensor)
    )
    assert len(clips[:, 0].flatten(1).unique(dim=0)) == 4


def test_of_a_nested_sample_the_images_alone_change():
    image = tv_tensors.Image(torch.full((3, 8, 8), 0.5))
    boxes = tv_tensors.BoundingBoxes(torch.ones(2, 4), format="XYXY", canvas_size=(8, 8))
    mask = tv_tensors.Mask(torch.ones(1, 8, 8, dtype=torch.uint8))
    sample = {"image": image, "target": [boxes, mask, {"label": torch.tensor(3), "name": "cat"}],
              "other view": tv_tensors.Image(image + 0), "tensor": torch.zeros(3, 8, 8)}  # fmt: skip
    result = transform()(sample)
    assert isinstance(result["image"], tv_tensors.Image)
    assert (result["image"] != image).any()
    assert torch.equal(result["image"], result["other view"])  # one scene, one draw
    assert result["target"][0] is boxes
    assert result["target"][1] is mask
    assert result["target"][2] == {"label": torch.tensor(3), "name": "cat"}
    assert result["tensor"] is sample["tensor"]


def test_an_image_and_its_label():
    image, label = transform()(torch.zeros(3, 4, 4), torch.tensor(7))
    assert image.abs().max() > 0
    assert label == 7


def test_the_memory_format_is_kept():
    image = torch.zeros(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    assert transform()(image).is_contiguous(memory_format=torch.channels_last)


def test_no_images_no_draws():
    assert transform()(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert transform()({"label": 3}) == {"label": 3}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_tensor_on_a_gpu_stays_there():
    if not torch._C._dispatch_has_kernel_for_dispatch_key("cnn_ext::color_pca", "CUDA"):
        pytest.skip("this build has no CUDA kernel of color_pca")
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(transform()(image.cuda()).cpu(), transform()(image))


# ----------------------------------------------------------------------------- reproducibility


def test_the_generator_alone_decides():
    image = torch.zeros(3, 2, 2)
    torch.manual_seed(1)
    first = transform(seed=5)(image)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(transform(seed=5)(image), first)
    assert not torch.equal(transform(seed=6)(image), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_torchs_global_one_decides():
    draw = RandomColorPCA(IMAGENET, p=1.0)
    torch.manual_seed(3)
    first = draw(torch.zeros(3, 2, 2))
    torch.manual_seed(3)
    assert torch.equal(draw(torch.zeros(3, 2, 2)), first)


@pytest.mark.parametrize("copy", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))],
                         ids=["deepcopy", "pickle"])  # fmt: skip
def test_a_copy_draws_what_the_original_will(copy):
    original, image = transform(seed=5), torch.zeros(3, 2, 2)
    original(image)
    twin = copy(original)
    assert torch.equal(twin(image), original(image))
    assert twin.generator.initial_seed() == 5


class Black(Dataset):
    def __init__(self, draw, size=(3, 1, 1)):
        self.draw, self.size = draw, size

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.draw(torch.zeros(self.size))


def epochs(context, generator, seed=0, persistent=False):
    own = torch.Generator().manual_seed(7) if generator else None
    loader = DataLoader(
        Black(RandomColorPCA(IMAGENET, p=1.0, generator=own)), batch_size=None, num_workers=2,
        multiprocessing_context=context, persistent_workers=persistent,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return [torch.stack(list(loader)).flatten(1) for _ in range(2)]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("generator", [True, False])
def test_workers_and_epochs_draw_differently_and_reproducibly(context, generator):
    first = epochs(context, generator)
    assert len(torch.cat(first).unique(dim=0)) == 24
    for a, b in zip(first, epochs(context, generator), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], epochs(context, generator, seed=1)[0])


def test_workers_that_stay_go_on_drawing():
    assert len(torch.cat(epochs("fork", True, persistent=True)).unique(dim=0)) == 24


def test_forked_workers_shift_large_images_after_the_parents_threads_have_run():
    """GNU OpenMP hangs in a forked child that starts threads; DataLoader's workers start none."""
    large = (3, 1500, 1500)
    RandomColorPCA(IMAGENET, p=1.0)(torch.zeros(large))
    loader = DataLoader(Black(RandomColorPCA(IMAGENET, p=1.0), large), batch_size=None, num_workers=2,
                        multiprocessing_context="fork", timeout=60)  # fmt: skip
    assert sum(1 for _ in loader) == 12


# -------------------------------------------------------------------------------------- module


def test_its_numbers_are_buffers_and_it_prints_them():
    draw = RandomColorPCA(IMAGENET, scaling="stdev")
    assert set(draw.state_dict()) == {"eigenvectors", "scale"}
    assert repr(draw) == "RandomColorPCA([0.4664, 0.1371, 0.06708], std=0.1, p=0.5, scaling='stdev')"


def test_it_works_inside_a_composition():
    pipeline = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(), transform(), v2.ToDtype(torch.float32, scale=True)]
    )
    assert pipeline(Image.new("RGB", (6, 5), (90, 90, 90))).shape == (3, 5, 6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"std": -0.1}, "std: expected a finite number of at least 0"),
        ({"std": float("nan")}, "std: expected"),
        ({"p": 1.5}, "p: expected a probability, got 1.5"),
        ({"scaling": "sqrt"}, "scaling: expected one of .* got 'sqrt'"),
    ],
    ids=["std", "nan", "p", "scaling"],
)
def test_bad_arguments_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        RandomColorPCA(IMAGENET, **keywords)


def test_eigenvalues_alone_are_no_statistics():
    with pytest.raises(TypeError, match="pca: expected a ColorPCA, got Tensor"):
        RandomColorPCA(IMAGENET.eigenvalues)

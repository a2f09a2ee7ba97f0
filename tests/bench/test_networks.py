"""Whole networks, LRN and colour PCA in the benchmark. No times."""

import pytest
import torch

import cnn_ext
from cnn_ext.bench import color_pca, linear, local_response_norm, max_pool, networks, rivals
from cnn_ext.bench.options import Options, shapes
from cnn_ext.functional import color_pca as shifted
from cnn_ext.models import lenet5

TINY = Options(quick=True, rounds=1)
SMALL = {"model": "lenet5", "input": [2, 1, 32, 32]}


def test_a_network_has_a_row_for_each_pass_and_format():
    rows = list(networks.network_rows("LeNet-5", SMALL, TINY))
    passes = ["inference", *["inference, frozen"] * hasattr(cnn_ext, "freeze"), "training"]
    assert [(row["pass"], row["format"]) for row in rows] == [
        (what, name) for what in passes for name in ("NCHW", "channels_last")
    ]
    for row in rows:
        assert row["ratio"] == row["milliseconds"]["eager"] / row["milliseconds"]["ours"]
        assert row.get("difference", 0) < 1e-5


def test_frozen_copies_have_rows_of_their_own(monkeypatch):
    monkeypatch.setattr(cnn_ext, "freeze", lambda model: model.eval(), raising=False)
    rows = list(networks.network_rows("LeNet-5", SMALL, TINY))
    frozen = [row for row in rows if row["pass"] == "inference, frozen"]
    plain = [row for row in rows if row["pass"] == "inference"]
    assert [row["format"] for row in frozen] == ["NCHW", "channels_last"]
    for a, b in zip(frozen, plain, strict=True):
        assert a["milliseconds"].keys() == b["milliseconds"].keys() == {"ours", "eager"}
        assert a["milliseconds"]["eager"] == b["milliseconds"]["eager"]  # of one run
        assert a["milliseconds"]["ours"] != b["milliseconds"]["ours"]


def test_ours_compiled_has_rows_in_channels_last(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    monkeypatch.setattr(networks, "available", list)
    rows = list(networks.network_rows("LeNet-5", SMALL, Options(quick=True, rounds=1, compile=True)))
    for what in ("inference", "training"):
        nchw, last = (row["milliseconds"] for row in rows if row["pass"] == what)
        assert nchw.keys() == {"ours", "eager", "compiled"}
        assert last.keys() == {"ours", "eager"}
        (row,) = (row for row in rows if row["pass"] == f"{what}, compiled")
        assert row["format"] == "channels_last"
        times = row["milliseconds"]
        assert times["eager"] == last["eager"]
        assert times["ours"] != last["ours"]
        best = min(nchw["eager"], nchw["compiled"], times["eager"])
        assert row["ratio_any_format"] == best / times["ours"]


def test_batch_normalisation_has_seen_the_images():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4, momentum=0.3))
    images = 7 + torch.randn(5, 1, 9, 9)
    networks.see(model, images)
    assert model[1].momentum == 0.3
    seen = model.eval()(images)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.var((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_other_runtimes_run_apart_and_no_ratio_is_to_them(monkeypatch):
    monkeypatch.setattr(networks, "available", lambda: ["openvino"])
    monkeypatch.setattr(networks, "rival", lambda name, model, images: lambda: model(images))
    rows = list(networks.network_rows("LeNet-5", SMALL, TINY))
    for row in rows:
        times = row["milliseconds"]
        beside = row["pass"].startswith("inference") and row["format"] == "NCHW"
        assert ("openvino" in times) == beside
        assert row["ratio"] == times["eager"] / times["ours"]


@pytest.mark.parametrize("name", rivals.NEEDED)
def test_another_runtime_computes_the_same_network(name):
    if name not in rivals.available():
        pytest.skip(f"{name} is not installed, or not what exports to it")
    model, images = lenet5(layers=torch.nn).eval(), torch.randn(2, 1, 32, 32)
    run = rivals.rival(name, model, images)
    with torch.no_grad():
        torch.testing.assert_close(run(), model(images), atol=1e-5, rtol=1e-4)


def test_a_runtime_that_is_not_installed_is_not_available(monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    assert rivals.available() == []


def test_builds_of_one_format_share_their_weights():
    theirs = lenet5(layers=torch.nn)
    ours = networks.ours_like(theirs, "lenet5")
    assert isinstance(ours.c1, cnn_ext.nn.Conv2d)
    assert ours.c1.weight.data_ptr() == theirs.c1.weight.data_ptr()
    ours(torch.randn(1, 1, 32, 32)).sum().backward()
    assert theirs.c1.weight.grad is None


def test_torchvisions_networks_are_converted():
    from torchvision.models import resnet18

    ours = networks.ours_like(resnet18(), "resnet18")
    convolutions = [m for m in ours.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 20
    assert all(isinstance(m, cnn_ext.nn.Conv2d) for m in convolutions)


def test_a_step_moves_every_weight_by_the_gradient():
    model, before = lenet5(), lenet5()
    before.load_state_dict(model.state_dict())
    images, labels = torch.randn(4, 1, 32, 32), torch.randint(0, 10, (4,))
    loss = networks.step(model, model, images, labels)()
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(before(images), labels).item())
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before.state_dict(), atol=1e-7, rtol=0)


def test_every_network_can_be_built():
    for name, entry in shapes("networks").items():
        with torch.device("meta"):
            model = networks.build(entry["model"], layers=torch.nn)[0].eval()
            output = model(torch.empty(1, *entry["input"][1:]))
        assert output.shape == (1, 10 if name == "LeNet-5" else 1000), name


def test_normalisation_has_a_row_for_each_direction():
    rows = list(local_response_norm.shape_rows([2, 8, 5, 5], TINY))
    assert [row["pass"] for row in rows] == ["forward", "backward"]
    for row in rows:
        times = row["milliseconds"]
        assert times.keys() == {"ours", "eager", "clone"}
        assert row["ratio"] == times["eager"] / times["ours"]
        assert row["memory"] == "in cache"
        assert row["error"] < 1e-6


def test_dense_layers_have_a_row_for_each_pass():
    rows = list(linear.layer_rows("dense", 3, 40, 30, TINY))
    assert [row["pass"] for row in rows] == ["forward", "input gradient", "weight gradient"]
    for row in rows:
        assert row["shape"] == [3, 40, 30]
        assert set(row["milliseconds"]) == {"ours", "eager"}
        assert row["ratio"] == row["milliseconds"]["eager"] / row["milliseconds"]["ours"]


def test_max_pooling_has_a_row_for_each_pass_and_format():
    layer = {"input": [2, 8, 5, 5], "kernel_size": 2, "stride": 2}
    rows = list(max_pool.layer_rows("pool", layer, TINY))
    assert [(row["pass"], row["format"]) for row in rows] == [
        (what, form)
        for what in ("forward", "forward and gradient")
        for form in ("NCHW", "channels_last")
    ]
    for row in rows:
        assert row["ratio"] == row["milliseconds"]["eager"] / row["milliseconds"]["ours"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", ["NCHW", "channels_last"])
def test_colour_pca_has_a_row_for_the_shift_and_one_for_fitting(dtype, memory_format):
    rows = list(color_pca.tensor_rows([2, 3, 8, 8], dtype, memory_format, TINY))
    assert [row["pass"] for row in rows] == ["shift", "fitting"]
    assert rows[0]["milliseconds"].keys() >= {"ours", "eager", "clone"}
    assert "ratio" not in rows[1]


def test_the_composition_that_colour_pca_races_is_the_same_operation():
    pca = cnn_ext.transforms.ColorPCA.imagenet()
    axes, eigenvalues = pca.eigenvectors.float(), pca.eigenvalues.float()
    images, alphas = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), 0.1 * torch.randn(2, 3)
    composed = color_pca.composed(images, axes, eigenvalues, alphas)
    torch.testing.assert_close(composed, shifted(images, axes, eigenvalues, alphas), atol=1, rtol=0)

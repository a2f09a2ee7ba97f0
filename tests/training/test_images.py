"""Data sets by name: what is bundled, what would be downloaded, folders of images."""

import gzip
import pickle
import struct

import pytest
import torch
from PIL import Image

from cnn_ext.training import images


def idx(path, values):
    """The format of MNIST: a magic number, the sizes, the bytes."""
    header = struct.pack(">HBB", 0, 8, values.dim()) + struct.pack(f">{values.dim()}I", *values.shape)
    content = header + values.byte().numpy().tobytes()
    path.write_bytes(content)
    path.with_suffix(".gz").write_bytes(gzip.compress(content))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_files_are_read(name, tmp_path, monkeypatch):
    kind = images.DOWNLOADED[name]
    raw = tmp_path / kind.__name__ / "raw"
    raw.mkdir(parents=True)
    pictures = torch.randint(0, 256, (5, 28, 28))
    for part in ("train", "t10k"):
        for what, values in (("images-idx3", pictures), ("labels-idx1", torch.arange(5))):
            idx(raw / f"{part}-{what}-ubyte", values)
    data = images.load(name, tmp_path)
    image, label = data.train[3]
    assert torch.equal(image[0].long(), pictures[3])
    assert (image.dtype, tuple(image.shape), label) == (torch.uint8, (1, 28, 28), 3)
    assert (len(data.train), len(data.test), len(data.classes), data.channels) == (5, 5, 10, 1)
    assert data.mirror is (name == "fashion_mnist")  # a mirrored digit is another, or none


@pytest.mark.parametrize(("name", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_files_are_read(name, count, tmp_path, monkeypatch):
    kind = images.DOWNLOADED[name]
    folder = tmp_path / kind.base_folder
    folder.mkdir(parents=True)
    pixels = torch.randint(0, 256, (2, 3, 32, 32)).byte()
    key = "labels" if name == "cifar10" else "fine_labels"
    for file, _ in (*kind.train_list, *kind.test_list):
        (folder / file).write_bytes(pickle.dumps({"data": pixels.flatten(1).numpy(), key: [1, 7]}))
    names = [f"class {i}" for i in range(count)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # the checksums are the originals'
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = images.load(name, tmp_path)
    image, label = data.test[1]
    assert torch.equal(image, pixels[1])
    assert (label, len(data.classes), data.channels) == (7, count, 3)


@pytest.mark.parametrize("name", list(images.DOWNLOADED))
def test_without_a_network_a_download_says_so_at_once(name, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Network is unreachable")

    for place in ("torchvision.datasets.mnist.download_and_extract_archive",
                  "torchvision.datasets.cifar.download_and_extract_archive"):  # fmt: skip
        monkeypatch.setattr(place, no_network)
    with pytest.raises(RuntimeError, match=f"data: {name} is not in .* or take --data digits"):
        images.load(name, tmp_path)


def test_a_folder_of_class_folders_is_a_data_set(tmp_path):
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.new("RGB", (300, 280), (10, 20, 30)).save(tmp_path / part / label / "1.png")
    data = images.load(str(tmp_path))
    image, label = data.test[1]
    assert (tuple(image.shape), label, data.classes) == ((3, 256, 256), 1, ("cat", "dog"))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="data: expected one of digits, photographs"):
        images.load("imagenet")
    with pytest.raises(ValueError, match="data: expected the folders train and test"):
        images.load(str(tmp_path))


def test_windows_for_training_and_for_testing_share_no_pixel():
    """Each pixel gets a number of its own, so that a window tells where it was cut."""
    photograph = torch.arange(300 * 400).view(1, 300, 400)
    generator = torch.Generator().manual_seed(0)
    train, test = (images._windows(photograph, 200, part, generator) for part in (False, True))
    assert not {int(v) for w in train for v in w.flatten()} & {
        int(v) for w in test for v in w.flatten()
    }
    assert train[0].shape == test[0].shape == (1, images.WINDOW, images.WINDOW)


def test_there_are_ten_photographs_in_colour():
    photographs = images.photographs()
    assert len(photographs) == 10
    for photograph in photographs.values():
        assert photograph.dtype == torch.uint8
        assert photograph.shape[0] == 3
        assert not torch.equal(photograph[0], photograph[2])

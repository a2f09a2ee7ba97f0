"""Data sets by name: what is bundled, what would be downloaded, folders of images."""

import gzip
import pickle
import shutil
import struct
import weakref

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

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


@pytest.fixture
def folder(tmp_path):
    """Two classes, two images of each in train and test."""
    for part in ("train", "test"):
        for label, colour in (("cat", "red"), ("dog", "blue")):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (30, 28), colour).save(tmp_path / part / label / f"{i}.png")
    return tmp_path


def test_16_bit_images_are_read_from_black_to_white(folder):
    ramp = numpy.linspace(0, 65535, 256 * 256).reshape(256, 256).astype(numpy.uint16)
    Image.fromarray(ramp).save(folder / "train" / "cat" / "0.png")
    image, _ = images.load(str(folder)).train[0]
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(ramp // 256).byte().expand(3, -1, -1))


def test_a_strip_is_cut_before_it_is_scaled(folder):
    strip = numpy.zeros((1, 20_001, 3), dtype=numpy.uint8)
    strip[:, 9_998:10_003] = 200  # the middle
    Image.fromarray(strip).save(folder / "train" / "cat" / "0.png")
    image, _ = images.load(str(folder)).train[0]
    assert image.shape == (3, 256, 256)
    assert (image == 200).all()
    assert images._middle(torch.zeros(3, 1, 20_001)).shape == (3, 1, 8)
    assert images._middle(torch.zeros(3, 30, 240)).shape == (3, 30, 240)


def test_a_broken_training_image_is_named_when_it_is_read_and_going_on_is_offered(folder):
    (folder / "train" / "cat" / "0.png").write_bytes(b"no image")
    data = images.load(str(folder))
    with pytest.raises(ValueError, match=r"^data: .*train/cat/0.png' cannot be read: .*--skip-broken$"):
        data.train[0]


def test_broken_test_images_are_named_before_the_training(folder):
    for label in ("cat", "dog"):
        (folder / "test" / label / "1.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^data: .*test/cat/1.png'.*; .*test/dog/1.png'.*--skip-broken$"
    ):
        images.load(str(folder))


def test_broken_images_are_left_out_where_that_is_asked_for(folder):
    (folder / "train" / "cat" / "0.png").write_bytes(b"no image")
    (folder / "test" / "dog" / "1.png").write_bytes(b"")
    data = images.load(str(folder), skip_broken=True)
    assert (len(data.train), len(data.test)) == (3, 3)
    assert [data.train[i][1] for i in range(3)] == [0, 1, 1]
    assert [data.test[i][1] for i in range(3)] == [0, 0, 1]
    assert [reason.partition("' cannot be read: ")[0][-11:] for reason in data.left_out] == [
        "n/cat/0.png", "t/dog/1.png",
    ]  # fmt: skip


def test_a_class_of_broken_images_alone_ends_the_run(folder):
    for i in range(2):
        (folder / "train" / "dog" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"^data: .* every class in train that can be read, got none of 'dog'"
    ):
        images.load(str(folder), skip_broken=True)


def test_folders_that_are_no_data_set_are_refused_in_one_sentence(folder):
    (folder / "train" / "emu").mkdir()
    with pytest.raises(
        ValueError, match=r"^data: expected images of every class in .*got none of 'emu'"
    ):
        images.load(str(folder))
    (folder / "train" / "emu" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^data: expected the same classes .*only train has 'emu'$"):
        images.load(str(folder))
    (folder / "test" / "cat").rename(folder / "cat")
    with pytest.raises(ValueError, match=r"only train has 'cat'; 'emu'$"):
        images.load(str(folder))
    shutil.rmtree(folder / "test" / "dog")
    with pytest.raises(
        ValueError, match=r"^data: expected a folder for each class in .*test', got none"
    ):
        images.load(str(folder))


def test_hidden_folders_are_no_classes(folder):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "test" / "dog" / "._0.png").write_bytes(b"what macOS keeps")
    data = images.load(str(folder))
    assert (data.classes, len(data.test)) == (("cat", "dog"), 4)


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.os, "scandir", refused)
    with pytest.raises(ValueError, match=r"^data: .*train' cannot be listed: Permission denied"):
        images.load(str(folder))


def test_statistics_are_those_of_all_pixels_and_hold_one_image_at_a_time():
    pictures = [torch.randint(0, 256, (3, 5 + i, 7), dtype=torch.uint8) for i in range(9)]
    alive: list[weakref.ref] = []

    class Counted(Dataset):
        def __len__(self):
            return len(pictures)

        def __getitem__(self, index):
            image = pictures[index].clone()
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(image))
            return image, 0

    mean, deviation = images.statistics(Counted())
    colours = torch.cat([picture.double().flatten(1) for picture in pictures], 1) / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.double), colours.mean(1))
    torch.testing.assert_close(torch.tensor(deviation, dtype=torch.double), colours.std(1))
    some, _ = images.statistics(Counted(), count=3)
    third = torch.cat([picture.double().flatten(1) for picture in pictures[::3]], 1) / 255
    torch.testing.assert_close(torch.tensor(some, dtype=torch.double), third.mean(1))


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

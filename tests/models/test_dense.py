"""Dense evaluation: every cell is the network's output for its window."""

import pytest
import torch
import torchvision

from cnn_ext.models import alexnet, fully_convolutional, lenet5, vgg11


@pytest.mark.parametrize(
    "model",
    [vgg11(width=1 / 8, num_classes=5), alexnet(width=1 / 8, num_classes=5, init="he"),
     alexnet("one_weird_trick", width=1 / 8, num_classes=5)],
    ids=["vgg11", "alexnet", "one_weird_trick"],
)  # fmt: skip
def test_on_the_networks_own_size_it_is_the_network(model):
    model = model.double().eval()
    image = torch.randn(2, 3, 224, 224, dtype=torch.double)
    dense = fully_convolutional(model)(image)
    assert dense.shape == (2, 5, 1, 1)
    torch.testing.assert_close(dense[:, :, 0, 0], model(image))


def test_each_cell_is_the_network_on_one_window():
    model = vgg11(width=1 / 8, num_classes=5, image_size=96).double().eval()
    for layer in model.features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding = (0, 0)  # else a window sees zeros where the image goes on
    window = 218  # pixels that 3 x 3 cells see without padding
    assert model.features(torch.zeros(1, 3, window, window).double()).shape[2:] == (3, 3)
    image = torch.randn(1, 3, window, window + 64, dtype=torch.double)
    dense = fully_convolutional(model)(image)
    assert dense.shape == (1, 5, 1, 3)
    for i in range(3):
        alone = model(image[..., 32 * i : 32 * i + window])
        torch.testing.assert_close(dense[:, :, 0, i], alone)


def test_torchvisions_networks_are_served_too():
    model = torchvision.models.vgg11(num_classes=5).eval()
    dense = fully_convolutional(model, layers=torch.nn)(torch.randn(1, 3, 224, 288))
    assert dense.shape == (1, 5, 1, 3)


def test_a_network_without_these_parts_is_refused():
    with pytest.raises(ValueError, match="model: expected one with the children features"):
        fully_convolutional(lenet5())

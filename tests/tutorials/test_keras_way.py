"""The Keras way: counts, geometry, layout, initial values, and the script."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import data, models, nn
from minires.nn import functional as F


@pytest.mark.slow
def test_script(tutorial, capsys):
    result = tutorial("keras_way").main(["--quick"])
    assert (result["total"], result["trained"]) == (23_600_006, 23_546_886)
    out = capsys.readouterr().out
    assert "total params: 23,600,006, trainable: 23,546,886\n" in out
    assert "running statistics: test loss" in out
    assert "settled statistics: test loss" in out


def test_the_same_network_as_in_the_zoo(tutorial, monkeypatch):
    """Parameters of the same shapes in the same order, and with the same values the same logits."""
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: None)
    by_hand = tutorial("keras_way").resnet50()
    zoo = models.keras_resnet50(input_shape=(3, 64, 64), classes=6, softmax=False)
    own = list(by_hand.state_dict().items())
    theirs = list(zoo.state_dict())
    assert len(own) == len(theirs)
    zoo.load_state_dict({name: value for name, (_, value) in zip(theirs, own)})
    x = mr.rand(2, 3, 64, 64)
    np.testing.assert_array_equal(by_hand(x).data, zoo(x).data)
    np.testing.assert_array_equal(by_hand.eval()(x).data, zoo.eval()(x).data)


def test_zero_padding_then_a_valid_convolution(tutorial):
    stem = tutorial("keras_way").conv(3, 4, 7, strides=2, padding=3)
    x = mr.rand(2, 3, 12, 12)
    padded = F.conv2d(F.pad(x, (3, 3, 3, 3)), stem.weight, stem.bias, stride=2)
    np.testing.assert_allclose(stem(x).data, padded.data, rtol=1e-6, atol=1e-6)


def test_blocks(tutorial):
    keras = tutorial("keras_way")
    x = mr.rand(2, 6, 8, 8)
    assert keras.identity_block((4, 4, 6))(x).shape == (2, 6, 8, 8)
    block = keras.convolutional_block(6, (4, 4, 16))
    assert block(x).shape == (2, 16, 4, 4)
    strides = [m.stride[0] for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [2, 1, 1, 2]  # the first 1x1 of the main path, and the shortcut
    expected = F.relu(block.main(x) + block.shortcut(x))
    np.testing.assert_allclose(block(x).data, expected.data, rtol=1e-6)


def test_initial_values_and_batch_norm(tutorial):
    keras = tutorial("keras_way")
    layer = keras.conv(16, 32, 3)
    bound = np.sqrt(6 / (9 * (16 + 32)))
    weight = np.abs(layer.weight.data)
    assert 0.99 * bound < weight.max() <= bound
    assert not layer.bias.data.any()
    norm = keras.batch_norm(2)
    norm(mr.ones(4, 2, 3, 3))
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.01, rtol=1e-6)
    assert norm.eps == 1e-3


def test_settle(tutorial):
    """Means of the batches, each as heavy as the others; momentum is as it was."""
    keras = tutorial("keras_way")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (250, 4, 4, 3), dtype=np.uint8)
    norm = keras.batch_norm(3)
    norm.running_mean.data[...] = 7
    net = nn.Sequential(norm).eval()
    keras.settle(net, pixels, np.zeros(250, np.int64), steps=2)
    expected = (pixels[:200] / 255).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.running_mean.data, expected, rtol=1e-5)
    assert norm.num_batches_tracked.item() == 2
    assert norm.momentum == 0.01


def test_batches_are_nhwc_images_seen_as_nchw(tutorial):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    labels = np.array([0, 5, 2, 3, 1])
    found = list(tutorial("keras_way").batches(pixels, labels, 3, np.array([4, 3, 2, 1, 0])))
    assert [x.shape for x, _ in found] == [(3, 3, 4, 6), (2, 3, 4, 6)]
    x, y = found[0]
    np.testing.assert_allclose(x.numpy()[0, 2, 1, 5], pixels[4, 1, 5, 2] / 255, rtol=1e-6)
    assert y.argmax(dim=1).numpy().tolist() == [1, 3, 2]


def test_animals(tutorial):
    source = data.DATASETS["cifar10"]
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    images = np.broadcast_to(images, (10, 32, 32, 3)).copy()
    images[2, 1, 0] = 77
    everything = data.ImageDataset("cifar10", "train", images, np.arange(10), source.classes, 255)
    pixels, labels = tutorial("keras_way").animals(everything)
    assert pixels.shape == (6, 64, 64, 3)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert pixels[:, 63, 63, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert (pixels[0] == 77).sum() == 4 * 3
    assert (pixels[0, 2:4, 0:2] == 77).all()


def test_sizes_on_the_way(tutorial, monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: None)
    net = tutorial("keras_way").resnet50()
    sizes = []
    for layer in (net[0], net[3], net[4], net[7], net[11], net[17], net[20]):
        layer.register_forward_hook(lambda module, args, out: sizes.append(out.shape[2]))
    net(mr.rand(2, 3, 64, 64))
    assert sizes == [32, 15, 15, 8, 4, 2, 1]

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.models import Bottleneck, keras_resnet50


@pytest.fixture(scope="module")
def net():
    mr.manual_seed(0)
    return keras_resnet50(input_shape=(3, 64, 64), classes=6)


def keras_counts(classes=6):
    """(trained, in all) by Keras' layers: a convolution has a bias, a batch norm four vectors."""
    trained, running = 7 * 7 * 3 * 64 + 64, 0

    def norm(channels):
        nonlocal trained, running
        trained, running = trained + 2 * channels, running + 2 * channels

    norm(64)
    c = 64
    for f, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            f3 = 4 * f
            sizes = [(1, c, f), (3, f, f), (1, f, f3)]
            if block == 0:  # the convolutional block's shortcut
                sizes.append((1, c, f3))
            for k, c_in, c_out in sizes:
                trained += k * k * c_in * c_out + c_out
                norm(c_out)
            c = f3
    trained += c * classes + classes
    return trained, trained + running


def test_keras_own_counts(net):
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    statistics = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert (trained, trained + statistics) == (23_546_886, 23_600_006) == keras_counts()


def test_layers(net):
    assert [name for name, _ in net.named_children()] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        *("avgpool", "flatten", "fc", "softmax"),
    ]
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage):
            assert isinstance(block, Bottleneck)
            strides = [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)]
            assert strides == [2 if i > 0 and j == 0 else 1, 1, 1]
            assert (block.downsample is None) == (j > 0)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert net.image_shape == (3, 64, 64)


def test_initial_weights_are_glorot_uniform(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init.fans(module.weight)
            bound = np.sqrt(6 / (fan_in + fan_out))
            assert 0.98 * bound < np.abs(module.weight.data).max() <= bound
            assert module.bias is not None
            assert not module.bias.data.any()


def test_shapes_and_probabilities(net):
    shapes = {}
    handles = [
        layer.register_forward_hook(lambda m, a, y, name=name: shapes.update({name: y.shape[1:]}))
        for name, layer in net.named_children()
    ]
    y = net(mr.randn(2, 3, 64, 64))
    for handle in handles:
        handle.remove()
    assert shapes["conv1"] == (64, 32, 32)
    assert shapes["maxpool"] == (64, 15, 15)
    assert [shapes[f"layer{i}"] for i in (1, 2, 3, 4)] == [
        *((256, 15, 15), (512, 8, 8), (1024, 4, 4), (2048, 2, 2))
    ]
    assert shapes["avgpool"] == (2048, 1, 1)
    assert shapes["flatten"] == (2048,)
    assert y.shape == (2, 6)
    np.testing.assert_allclose(y.detach().numpy().sum(1), 1, rtol=1e-5)


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(nn.init, "normal_", lambda t, *_: t)
    monkeypatch.setattr(nn.init, "uniform_", lambda t, *_: t)


@pytest.mark.parametrize(("shape", "left"), [((1, 37, 64), 1), ((3, 224, 100), 3)])
def test_other_sizes(undrawn, shape, left):
    net = keras_resnet50(shape, classes=2, softmax=False)
    assert net.fc.in_features == 2048 * left
    assert net(mr.randn(2, *shape)).shape == (2, 2)
    assert not hasattr(net, "softmax")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 64, 3), r"got \(64, 64, 3\)\. Keras' channels come last; .* \(3, 64, 64\)"),
        ((3, 36, 64), r"got \(3, 36, 64\)\. This network needs 37x37 pixels"),
        ((64, 64), r"\(channels, height, width\), got \(64, 64\)\. Such as \(3, 64, 64\)"),
        (64, r"\(channels, height, width\), got 64\. Such as \(3, 64, 64\)"),
        ((3, 64.0, 64), r"got \(3, 64.0, 64\)"),
    ],
)
def test_bad_shapes(shape, words):
    with pytest.raises(ArgumentError, match=words):
        keras_resnet50(shape)

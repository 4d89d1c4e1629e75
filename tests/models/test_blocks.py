import copy

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError
from minires.models import (
    BasicBlock,
    Bottleneck,
    OptionA,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.nn import functional as F

RESIDUAL = [BasicBlock, Bottleneck, PreActBlock, PreActBottleneck]


def rand(*shape, seed=0):
    return mr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def value(tensor):
    return tensor.detach().numpy()


def test_the_first_example():
    x = mr.randn(4, 3, 6, 6)
    x.requires_grad = True
    block = BasicBlock(3, 3)
    block(x).sum().backward()
    assert x.grad.shape == (4, 3, 6, 6)
    assert block.downsample is None


@pytest.mark.parametrize("kind", RESIDUAL)
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("stride", [1, 2])
def test_forward_is_the_sum_of_both_paths(kind, shortcut, stride):
    block = kind(4, 8, stride, shortcut=shortcut)
    x = rand(2, 4, 7, 5)
    y = value(block(x))
    assert y.shape == (2, 8 * kind.expansion, -(-7 // stride), -(-5 // stride))
    total = value(block.residual(x)) + value(block.skip(x))
    expected = total if kind.__name__.startswith("PreAct") else np.maximum(total, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", RESIDUAL)
def test_identity_shortcut_is_the_input_itself(kind):
    x = rand(2, 4 * kind.expansion, 4, 4)
    block = kind(4 * kind.expansion, 4)
    assert block.skip(x) is x
    assert kind(4 * kind.expansion, 4, shortcut="C").skip(x) is not x


@pytest.mark.parametrize(
    ("plain", "residual"), [(PlainBlock, BasicBlock), (PreActPlainBlock, PreActBlock)]
)
def test_plain_twin_differs_only_by_the_addition(plain, residual):
    mr.manual_seed(5)
    a = plain(4, 8, 2)
    mr.manual_seed(5)
    b = residual(4, 8, 2, shortcut="A")
    assert list(a.state_dict()) == list(b.state_dict())
    for one, two in zip(a.state_dict().values(), b.state_dict().values()):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
    x = rand(3, 4, 6, 6)
    np.testing.assert_array_equal(value(a.residual(x)), value(b.residual(x)))
    last = (lambda t: t) if plain is PreActPlainBlock else F.relu
    np.testing.assert_array_equal(value(a(x)), value(last(a.residual(x))))
    assert not np.allclose(value(a(x)), value(b(x)))


def test_option_a_by_hand():
    x = mr.arange(2 * 3 * 5.0).reshape(1, 2, 3, 5)
    y = OptionA(2, 5, 2)(x).numpy()
    assert y.shape == (1, 5, 2, 3)
    np.testing.assert_array_equal(y[0, 0], [[0, 2, 4], [10, 12, 14]])
    np.testing.assert_array_equal(y[0, 1], [[15, 17, 19], [25, 27, 29]])
    np.testing.assert_array_equal(y[0, 2:], 0)
    assert repr(OptionA(2, 5, 2)) == "OptionA(2, 5, stride=2)"


@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block_against_its_formula(stride):
    block = BasicBlock(4, 8, stride)
    x = rand(2, 4, 6, 6)
    p = dict(block.named_parameters())

    def bn(t, name):
        return F.batch_norm(t, None, None, p[f"{name}.weight"], p[f"{name}.bias"], True)

    f = F.relu(bn(F.conv2d(x, p["conv1.weight"], None, stride, 1), "bn1"))
    f = bn(F.conv2d(f, p["conv2.weight"], None, 1, 1), "bn2")
    s = bn(F.conv2d(x, p["downsample.0.weight"], None, stride), "downsample.1")
    np.testing.assert_allclose(value(block(x)), value(F.relu(f + s)), rtol=1e-5, atol=1e-6)


def test_parameter_names_are_torchvisions():
    assert [name for name, _ in BasicBlock(4, 8, 2).named_parameters()] == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "conv2.weight",
        "bn2.weight",
        "bn2.bias",
        "downsample.0.weight",
        "downsample.1.weight",
        "downsample.1.bias",
    ]
    names = [name for name, _ in Bottleneck(4, 8).named_parameters()]
    assert [name for name in names if name.startswith(("conv3", "bn3", "down"))] == [
        "conv3.weight",
        "bn3.weight",
        "bn3.bias",
        "downsample.0.weight",
        "downsample.1.weight",
        "downsample.1.bias",
    ]


def test_bottleneck_stride_sits_where_it_was_asked_to():
    v15, v1 = Bottleneck(16, 4, 2), Bottleneck(16, 4, 2, stride_in="1x1")
    assert [c.stride for c in (v15.conv1, v15.conv2, v15.conv3)] == [(1, 1), (2, 2), (1, 1)]
    assert [c.stride for c in (v1.conv1, v1.conv2, v1.conv3)] == [(2, 2), (1, 1), (1, 1)]
    assert [p.shape for p in v15.parameters()] == [p.shape for p in v1.parameters()]
    with pytest.raises(ArgumentError, match="unknown stride_in '2x2'"):
        Bottleneck(16, 4, 2, stride_in="2x2")


def test_pre_activation_counts_each_batch_once_and_shares_the_activation():
    block = PreActBlock(4, 8, 2)
    assert isinstance(block.downsample, nn.Conv2d)
    x = rand(2, 4, 6, 6)
    block(x)
    assert block.bn1.num_batches_tracked.item() == 1
    activated = F.relu(F.batch_norm(x, None, None, block.bn1.weight, block.bn1.bias, True))
    np.testing.assert_allclose(
        value(block.skip(x)), value(block.downsample(activated)), rtol=1e-5, atol=1e-6
    )


def test_pre_activation_with_dead_branch_is_the_identity():
    block = PreActBlock(4, 4)
    nn.init.zeros_(block.conv2.weight)
    x = rand(2, 4, 5, 5)
    np.testing.assert_array_equal(value(block(x)), x.numpy())


@pytest.mark.parametrize("kind", RESIDUAL)
def test_unequal_shapes_are_never_broadcast(kind):
    block = kind(4, 8, 2)
    block.downsample = None
    with pytest.raises(ShapeError, match=r'residual add: F\(x\) is .* shortcut is .*shortcut="A"'):
        block(rand(2, 4, 8, 8))
    one_by_one = kind(8 * kind.expansion, 8)
    one_by_one.skip = lambda x: x[:, :, :1, :1]  # a plain + would stretch this one
    with pytest.raises(ShapeError, match="residual add"):
        one_by_one(rand(2, 8 * kind.expansion, 3, 3))


def test_bad_shortcuts():
    with pytest.raises(ArgumentError, match="unknown shortcut 'b'"):
        BasicBlock(3, 3, shortcut="b")
    with pytest.raises(ArgumentError, match="shortcut A: expected at least as many channels out"):
        BasicBlock(8, 4, shortcut="A")


@pytest.mark.parametrize("kind", [*RESIDUAL, PlainBlock, PreActPlainBlock])
def test_gradients_reach_every_parameter_and_the_input(kind):
    block = copy.deepcopy(kind(4, 4, 2))
    x = rand(2, 4, 6, 6)
    x.requires_grad = True
    y = block(x)
    (y * rand(*y.shape, seed=1)).sum().backward()
    assert np.abs(x.grad.numpy()).max() > 0
    for name, param in block.named_parameters():
        assert param.grad is not None, name
        assert np.abs(param.grad.numpy()).max() > 0, name


def test_published_count_of_the_pre_activation_bottleneck_network():
    # ResNet-164 v2: stem, 3 stages of 18 bottlenecks, last batch norm, classifier
    blocks, width = [], 16
    for channels in (16, 32, 64):
        for i in range(18):
            blocks.append(PreActBottleneck(width, channels, 2 if i == 0 and channels > 16 else 1))
            width = channels * 4
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), *blocks, nn.BatchNorm2d(256), nn.Linear(256, 10)
    )
    assert sum(p.numel() for p in net.parameters()) == 1_703_258

"""Options that any block and any network may combine, each against its formula."""

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.gradcheck import check_module
from minires.models import (
    BasicBlock,
    Bottleneck,
    CifarNet,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
    SqueezeExcitation,
    cifar_resnet,
    cifar_wide_resnet,
)
from minires.nn import functional as F

RESIDUAL = [BasicBlock, Bottleneck, PreActBlock, PreActBottleneck]
ALL = [*RESIDUAL, PlainBlock, PreActPlainBlock]


def value(tensor):
    return tensor.detach().numpy()


def final(kind, total):
    """What a block makes of its sum."""
    return total if kind.pre_activation else np.maximum(total, 0)


def blocks_of(net):
    return [*net.layer1, *net.layer2, *net.layer3]


# **** stochastic depth ****


@pytest.mark.parametrize("kind", RESIDUAL)
def test_survival_in_evaluation_scales_f(kind):
    block = kind(4, 4, 2, survival=0.25)
    x = mr.randn(2, 4, 5, 5)
    block.residual(x), block.skip(x)  # statistics to evaluate with
    block.eval()
    expected = final(kind, 0.25 * value(block.residual(x)) + value(block.skip(x)))
    np.testing.assert_allclose(value(block(x)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(value(block(x)), value(block(x)))  # nothing is drawn


@pytest.mark.parametrize("kind", RESIDUAL)
def test_survival_in_training_is_all_or_nothing(kind):
    block = kind(4 * kind.expansion, 4, survival=0.3)
    x = mr.randn(3, 4 * kind.expansion, 4, 4)
    alive = final(kind, value(block.residual(x)) + value(x))
    dead = final(kind, value(x))
    block.bn1.num_batches_tracked.zero_()
    outcomes = []
    for _ in range(60):
        y = value(block(x))
        outcomes.append(not np.array_equal(y, dead))
        np.testing.assert_allclose(y, alive if outcomes[-1] else dead, rtol=1e-5, atol=1e-6)
    # F of a dropped block is not computed: its batch norms have not seen the batch.
    assert block.bn1.num_batches_tracked.item() == sum(outcomes)
    assert 8 <= sum(outcomes) <= 28  # 18 are expected, with a standard deviation of 3.5


def test_survival_follows_the_seed():
    net = cifar_resnet(20, survival=0.5)
    x = mr.randn(2, 3, 8, 8)

    def run(seed):
        mr.manual_seed(seed)
        return value(net(x))

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_survival_falls_linearly_with_depth():
    net = cifar_resnet(20, survival=0.5)  # Huang et al. 2016, Eq. 4 with L = 9
    found = [block.survival for block in blocks_of(net)]
    np.testing.assert_allclose(found, [1 - k / 9 * 0.5 for k in range(1, 10)])
    assert {block.survival for block in blocks_of(cifar_resnet(20))} == {1.0}


def test_a_dropped_block_gets_no_gradient_and_the_optimiser_leaves_it():
    block = BasicBlock(4, 4, survival=0.0)
    optimizer = mr.optim.SGD(block.parameters(), lr=0.1, momentum=0.9)
    before = block.conv1.weight.data.copy()
    x = mr.randn(2, 4, 4, 4, requires_grad=True)
    block(x).sum().backward()
    optimizer.step()
    assert block.conv1.weight.grad is None
    np.testing.assert_array_equal(block.conv1.weight.data, before)
    np.testing.assert_array_equal(x.grad.numpy(), value(x) > 0)


# **** squeeze and excitation ****


def test_squeeze_and_excitation_by_hand():
    layer = SqueezeExcitation(4, reduction=2).double()
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5))
    w1, b1, w2, b2 = (value(p).squeeze() for p in layer.parameters())
    assert (w1.shape, w2.shape) == ((2, 4), (4, 2))
    hidden = np.maximum(x.mean((2, 3)) @ w1.T + b1, 0)
    scale = 1 / (1 + np.exp(-(hidden @ w2.T + b2)))
    with mr.backend("numpy"):
        y = value(layer(mr.tensor(x)))
        check_module(layer, mr.tensor(x, requires_grad=True)).assert_ok()
    np.testing.assert_allclose(y, x * scale[:, :, None, None], rtol=1e-12)
    with pytest.raises(ArgumentError, match=r"reduction an integer >= 1 and <= 4, got 8"):
        SqueezeExcitation(4, reduction=8)


@pytest.mark.parametrize("kind", ALL)
def test_squeeze_and_excitation_is_the_end_of_f(kind):
    mr.manual_seed(0)
    block = kind(4, 4, reduction=2)
    mr.manual_seed(0)
    bare = kind(4, 4)
    x = mr.randn(2, 4, 4, 4)
    expected = value(block.se(bare.residual(x)))
    np.testing.assert_allclose(value(block.residual(x)), expected, rtol=1e-5, atol=1e-6)
    assert [k for k, _ in block.se.named_parameters()] == [
        f"{name}.{part}" for name in ("fc1", "fc2") for part in ("weight", "bias")
    ]


# **** dropout, norms, zero γ ****


@pytest.mark.parametrize("kind", ALL)
def test_dropout_sits_in_front_of_the_last_convolution(kind):
    block = kind(4, 4, dropout=1.0)
    last = getattr(block, f"conv{len(kind.kernels)}")
    seen = []
    last.register_forward_pre_hook(lambda module, args: seen.append(value(args[0])))
    x = mr.randn(2, 4, 4, 4)
    block(x)
    assert not seen[-1].any()  # everything is dropped
    block.eval()(x)
    assert seen[-1].any()
    assert kind(4, 4).dropout is None


def test_dropout_reaches_every_block_of_a_wide_network():
    net = cifar_wide_resnet(10, 2, dropout=0.3)
    assert [block.dropout.p for block in blocks_of(net)] == [0.3] * 3
    assert [block.conv1.weight.shape[0] for block in blocks_of(net)] == [32, 64, 128]
    assert all(isinstance(block.downsample, nn.Conv2d) for block in blocks_of(net))
    assert net(mr.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("kind", ALL)
def test_norm_layer_makes_every_norm(kind):
    net = CifarNet(kind, 1, norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=1e-3))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    assert len(CifarNet(kind, 1, norm_layer=None).state_dict()) == len(net.state_dict())


@pytest.mark.parametrize("kind", ALL)
def test_zero_gamma_makes_f_zero(kind):
    net = CifarNet(kind, 1, zero_init_residual=True)
    block = net.layer1[0]
    x = mr.randn(2, 16, 5, 5)
    assert not value(block.residual(x)).any()
    assert value(kind(16, 16).residual(x)).any()


@pytest.mark.parametrize("kind", ALL)
def test_biases(kind):
    names = [name for name, _ in kind(4, 8, 2, bias=True).named_parameters()]
    convs = [n for n in names if "conv" in n or "downsample" in n]
    assert [n for n in convs if n.endswith("bias")]
    block = kind(4, 8, 2, bias=True)
    modules = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.bias is not None for m in modules)


# **** together ****


def test_options_combine_and_train():
    net = CifarNet(
        PreActBottleneck,
        1,
        in_channels=1,
        shortcut="C",
        reduction=4,
        dropout=0.2,
        survival=0.8,
        zero_init_residual=True,
        norm_layer=lambda channels: nn.BatchNorm2d(channels, momentum=0.2),
    )
    x, labels = mr.randn(8, 1, 8, 8), mr.arange(8) % 10
    optimizer = mr.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("value", [-0.1, 1.5, "x", None, True])
@pytest.mark.parametrize("option", ["survival", "dropout"])
def test_bad_probabilities(option, value):
    words = rf"BasicBlock: expected {option} a (finite )?number >= 0 and <= 1, got {value!r}"
    with pytest.raises(ArgumentError, match=words):
        BasicBlock(4, 4, **{option: value})


@pytest.mark.parametrize("option", ["groups", "width_per_group"])
@pytest.mark.parametrize("value", [0, -2, "x", 1.5])
def test_bad_widths(option, value):
    with pytest.raises(ArgumentError, match=rf"expected {option} an integer >= 1, got {value!r}"):
        Bottleneck(4, 4, **{option: value})


@pytest.mark.parametrize("width", [0, "x", 1.5])
def test_bad_width_of_a_wide_network(width):
    with pytest.raises(
        ArgumentError, match=f"CifarNet: expected width an integer >= 1, got {width!r}"
    ):
        cifar_wide_resnet(10, width)


def test_bad_norm_layers():
    for wrong in (3, "batch", nn.BatchNorm2d(4)):
        with pytest.raises(ArgumentError, match="BasicBlock: expected norm_layer a class or"):
            BasicBlock(4, 4, norm_layer=wrong)


def test_width_of_groups_is_for_bottlenecks():
    assert Bottleneck(16, 64, groups=32, width_per_group=4).conv2.weight.shape == (128, 4, 3, 3)
    assert Bottleneck(16, 64, width_per_group=128).conv2.weight.shape == (128, 128, 3, 3)
    with pytest.raises(
        ArgumentError, match="PreActBlock: expected groups 1 and width_per_group 64"
    ):
        PreActBlock(16, 64, groups=32, width_per_group=4)

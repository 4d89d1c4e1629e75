"""Fusion: convolution, batch norm, addition and ReLU share their passes, and nobody can tell.

Everything is run twice, as it is and under ``no_fusion()``, and must come out alike: values,
gradients, statistics, versions and the words of errors.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import signal
import sys
import threading
import weakref

import numpy as np
import pytest
from harness import LAYOUTS, arrays

import minires as mr
from minires import nn
from minires.autograd.pending import Pending, computing
from minires.autograd.tape import MANY
from minires.gradcheck import check2
from minires.kernels import buffers
from minires.kernels.jit import Kernel
from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.nn import BatchNorm2d, Conv2d
from minires.ops.batch_norm.op import BatchNorm, BatchNormGradients
from minires.ops.elementwise import Add
from minires.ops.relu.op import ReLU, ReLUInput

TOLERANCE = {"float64": 1e-12, "float32": 1e-4}


def close(one, other, tolerance=1e-12):
    one, other = np.asarray(one), np.asarray(other)
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    finite = other[np.isfinite(other)]
    scale = max(np.abs(finite).max(), 1) if finite.size else 1
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def same(one, other, tolerance=1e-12):
    """Two results of any nesting agree."""
    assert type(one) is type(other), (one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same(a, b, tolerance)
    elif isinstance(one, np.ndarray | np.generic | float):
        close(one, other, tolerance)
    else:
        assert one == other


def both_ways(f, tolerance=1e-12):
    """``f()`` fused and plain agree; returns what came out."""
    fused = outcome(f)
    with mr.no_fusion():
        plain = outcome(f)
    same(fused, plain, tolerance)
    return fused


def outcome(f):
    """What ``f()`` returns, or what it raises: kind and words, which name lines of this file."""
    mr.manual_seed(0)
    try:
        return f()
    except (mr.errors.MiniresError, RuntimeError, ValueError, TypeError) as error:
        return [type(error).__name__, str(error)]


def pending(x):
    """Whether nobody has computed this tensor."""
    return x._pending is not None and x._pending.array is None


def values(x):
    """A copy of a tensor's values, without handing out its memory; for arrays see ``.data``."""
    return None if x is None else x._array.copy()


# **** the networks ****


class Torchvision(nn.Module):
    """The block as torchvision's users write it."""

    def __init__(self, c, k=None, stride=1):
        super().__init__()
        k = k or c
        self.conv1 = Conv2d(c, k, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = Conv2d(k, k, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(k)
        self.downsample = None
        if k != c or stride != 1:
            self.downsample = nn.Sequential(Conv2d(c, k, 1, stride, bias=False), BatchNorm2d(k))

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Trunk(Torchvision):
    """A stem and two such blocks, with the in-place method for the last ReLU."""

    def __init__(self):
        super().__init__(8)
        self.stem = nn.Sequential(Conv2d(3, 8, 3, padding=1, bias=False), BatchNorm2d(8), nn.ReLU())
        self.next = Torchvision(8, 12, 2)

    def forward(self, x):
        y = self.next(super().forward(self.stem(x)))
        return (y * 2 - 1).relu_()


class Written(nn.Module):
    """A network whose forward is a function of (its layers, x)."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._forward(self, x)


def conv(c, k=None, size=3, **options):
    return Conv2d(c, k or c, size, **{"padding": size // 2, "bias": False} | options)


def relu_bn_conv(c, k, size=3, bn=None, **options):
    return lambda: Written(
        lambda m, x: m.c2(m.bn(m.c1(x)).relu()).relu(),
        c1=conv(c, k, size, **options),
        bn=BatchNorm2d(k, **(bn or {})),
        c2=conv(k, 5),
    )


def shared():
    return Written(
        lambda m, x: (lambda y: m.a(y).relu() + m.b(y))(m.c(x)),
        c=conv(4, 6), a=BatchNorm2d(6), b=BatchNorm2d(6),
    )  # fmt: skip


NETWORKS = {
    **{
        f"{block.__name__} {option} stride {stride}": (
            lambda block=block, option=option, stride=stride: block(
                8 if option == "A" else 4, 8, stride, shortcut=option
            ),
            (3, 8 if option == "A" else 4, 6, 6),
        )
        for block in (BasicBlock, Bottleneck, PreActBlock, PreActBottleneck)
        for option in "ABC"
        for stride in (1, 2)
    },
    "BasicBlock identity": (lambda: BasicBlock(16, 16), (2, 16, 7, 5)),
    "Bottleneck identity": (lambda: Bottleneck(16, 4), (2, 16, 7, 5)),
    "PreActBlock identity": (lambda: PreActBlock(16, 16), (2, 16, 7, 5)),
    "PlainBlock": (lambda: PlainBlock(4, 6, 2), (2, 4, 7, 5)),
    "PreActPlainBlock": (lambda: PreActPlainBlock(4, 6, 2), (2, 4, 7, 5)),
    "two blocks": (lambda: nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8)), (2, 4, 8, 8)),
    "torchvision": (lambda: Torchvision(5), (2, 5, 6, 6)),
    "torchvision downsample": (lambda: Torchvision(5, 7, 2), (2, 5, 6, 6)),
    "torchvision trunk": (Trunk, (2, 3, 8, 8)),
    "identity first": (
        lambda: Written(lambda m, x: (x + m.bn(m.c(x))).relu(), c=conv(6), bn=BatchNorm2d(6)),
        (2, 6, 5, 5),
    ),
    "add methods": (
        lambda: Written(
            lambda m, x: m.bn(m.c(x)).add(x).relu_().add_(x), c=conv(6), bn=BatchNorm2d(6)
        ),
        (2, 6, 5, 5),
    ),
    "two normalised": (
        lambda: Written(
            lambda m, x: (m.a(m.c(x)) + m.b(m.d(x))).relu(),
            c=conv(4, 6),
            d=conv(4, 6, 1),
            a=BatchNorm2d(6),
            b=BatchNorm2d(6),
        ),
        (2, 4, 5, 5),
    ),
    "twice itself": (
        lambda: Written(
            lambda m, x: (lambda z: (z + z).relu() + z)(m.bn(m.c(x))), c=conv(4), bn=BatchNorm2d(4)
        ),
        (2, 4, 5, 5),
    ),
    "three terms": (
        lambda: Written(
            lambda m, x: (m.bn(m.c(x)) + x + x * 2).relu(), c=conv(4), bn=BatchNorm2d(4)
        ),
        (2, 4, 5, 5),
    ),
    "broadcast addition": (
        lambda: Written(
            lambda m, x: (m.bn(m.c(x)) + x.mean((2, 3), keepdim=True)).relu(),
            c=conv(4),
            bn=BatchNorm2d(4),
        ),
        (2, 4, 5, 5),
    ),
    "expanded residual": (
        lambda: Written(
            lambda m, x: (m.bn(m.c(x)) + x[:, :, :1, :1].expand(x.shape)).relu(),
            c=conv(4),
            bn=BatchNorm2d(4),
        ),
        (2, 4, 5, 5),
    ),
    "conv with bias": (relu_bn_conv(4, 6, bias=True), (2, 4, 5, 5)),
    "conv without batch norm": (
        lambda: Written(
            lambda m, x: (m.b(m.a(x).relu()) + x).relu(), a=conv(4, bias=True), b=conv(4)
        ),
        (2, 4, 5, 5),
    ),
    "batch norm alone": (
        lambda: Written(lambda m, x: (m.bn(x).relu() + x).relu(), bn=BatchNorm2d(4)),
        (2, 4, 5, 5),
    ),
    "batch norms in a row": (
        lambda: Written(
            lambda m, x: m.b(m.a(m.c(x))).relu().relu(),
            c=conv(4),
            a=BatchNorm2d(4),
            b=BatchNorm2d(4),
        ),
        (2, 4, 5, 5),
    ),
    "conv used twice": (shared, (2, 4, 5, 5)),
    "activation used three times": (
        lambda: Written(
            lambda m, x: (lambda h: m.d(h) + h + m.e(h).relu())(m.bn(m.c(x)).relu()),
            c=conv(4),
            bn=BatchNorm2d(4),
            d=conv(4),
            e=conv(4, 4, 1),
        ),
        (2, 4, 5, 5),
    ),
    "one layer twice": (
        lambda: Written(
            lambda m, x: m.bn(m.c(m.bn(m.c(x)).relu())).relu(), c=conv(4), bn=BatchNorm2d(4)
        ),
        (2, 4, 5, 5),
    ),
    "batch norm not the last": (
        lambda: Written(
            lambda m, x: (m.bn(m.c(x)) * 2).sigmoid() + m.bn(m.c(x))[:, :, 1:2],
            c=conv(4),
            bn=BatchNorm2d(4),
        ),
        (2, 4, 5, 5),
    ),
    "affine=False": (relu_bn_conv(4, 6, bn={"affine": False}), (2, 4, 5, 5)),
    "momentum=None": (relu_bn_conv(4, 6, bn={"momentum": None}), (2, 4, 5, 5)),
    "momentum=0": (relu_bn_conv(4, 6, bn={"momentum": 0.0}), (2, 4, 5, 5)),
    "no statistics": (relu_bn_conv(4, 6, bn={"track_running_stats": False}), (2, 4, 5, 5)),
    "stride 2": (relu_bn_conv(4, 6, stride=2), (2, 4, 7, 6)),
    "1x1": (relu_bn_conv(16, 32, 1), (2, 16, 5, 3)),
    "1x1 stride 2": (relu_bn_conv(16, 32, 1, stride=2), (2, 16, 5, 3)),
    "dilated": (relu_bn_conv(3, 6, dilation=2), (2, 3, 7, 7)),
    "5x5 without padding": (relu_bn_conv(3, 6, 5, padding=0), (2, 3, 7, 8)),
    "groups": (relu_bn_conv(4, 6, groups=2), (2, 4, 5, 5)),
    "depthwise": (relu_bn_conv(6, 6, groups=6), (2, 6, 5, 5)),
    "batch 1": (relu_bn_conv(4, 6), (1, 4, 5, 5)),
    "one channel": (relu_bn_conv(1, 1), (2, 1, 5, 5)),
    "three channels": (relu_bn_conv(3, 3), (2, 3, 5, 5)),
    "one pixel": (relu_bn_conv(4, 16), (3, 4, 1, 1)),
    "17 by 13": (relu_bn_conv(16, 16), (2, 16, 17, 13)),
}


def build(make, dtype):
    """The network, with parameters and statistics that are not those of the constructor."""
    net = make().to(np.dtype(dtype))
    rng = np.random.default_rng(7)
    with mr.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.ndim == 4:
                fan_in = tensor.numel() / tensor.shape[0]
                draws = rng.standard_normal(tensor.shape) * np.sqrt(2 / fan_in)
            elif tensor.ndim == 1:
                draws = 0.5 + rng.random(tensor.shape)
                if "var" not in name:
                    draws *= rng.choice([-1, 1], tensor.shape)
            else:
                draws = np.ones(tensor.shape, tensor.dtype)
            tensor.copy_(mr.tensor(draws))
    return net


def everything(net, x, upstream=None):
    """A training step, evaluation with gradients, evaluation without before and after."""
    found = {}
    net.eval()
    with mr.no_grad():
        found["y"] = values(net(x))
    for training in (True, False):
        net.train(training)
        net.zero_grad()
        leaf = x.detach().requires_grad_()
        y = net(leaf * 1)
        weights = mr.tensor(np.random.default_rng(1).standard_normal(y.shape), dtype=y.dtype)
        loss = (y * weights).sum() if y.numel() else y.sum()
        loss.backward()
        found[training] = {
            "loss": values(loss),
            "x": values(leaf.grad),
            "y": values(y),
            **{name: values(p.grad) for name, p in net.named_parameters()},
            **{name: values(b) for name, b in net.named_buffers()},
        }
    with mr.no_grad():
        found["after"] = values(net(x))
    return found


def compare(make, x, dtype="float64", change=None):
    def run():
        net = build(make, dtype)
        if change is not None:
            change(net)
        return everything(net, x)

    return both_ways(run, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_out_alike(name, dtype):
    make, shape = NETWORKS[name]
    (x,) = arrays(shape)
    found = compare(make, mr.tensor(x, dtype=dtype), dtype)
    assert isinstance(found, dict), found  # no error
    assert np.abs(found[True]["x"]).max() > 1e-3
    assert np.abs(found["y"]).max() > 1e-3


@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock])
@pytest.mark.parametrize(
    "frozen",
    [".*conv.*", ".*bn.*", ".*bn.*weight", "conv1.*", "bn1.*", ".*2.*", ".*"],
)
def test_frozen_weights(block, frozen):
    def freeze(net):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not re.fullmatch(frozen, name))

    (x,) = arrays((2, 4, 5, 5))
    found = compare(lambda: block(4, 6, 2), mr.tensor(x), change=freeze)
    assert isinstance(found, dict), found


@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock, PlainBlock])
def test_batch_norms_in_evaluation_while_the_rest_trains(block):
    def run():
        net = build(lambda: block(4, 6, 2), "float64")
        net.train()
        for module in net.modules():
            if isinstance(module, BatchNorm2d):
                module.eval()
        x = mr.tensor(arrays((2, 4, 5, 5))[0], requires_grad=True)
        (net(x) ** 2).sum().backward()
        return [values(t.grad) for t in (x, *net.parameters())] + [values(b) for b in net.buffers()]

    assert len(both_ways(run)) > 6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [BasicBlock, PreActBlock, Torchvision])
def test_inputs_of_any_layout(block, layout):
    (x,) = arrays((2, 4, 6, 6))
    found = compare(lambda: block(4, 4), mr.from_numpy(LAYOUTS[layout](x)))
    plain = compare(lambda: block(4, 4), mr.tensor(x))
    same(found, plain)


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock, Torchvision, PlainBlock, Bottleneck])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_flow(block, value):
    (x,) = arrays((2, 16, 5, 5))
    x[1, 2, 3, 3] = value
    with np.errstate(all="raise"):  # whoever computes, at whatever time, they are results
        found = compare(lambda: block(16, 4), mr.tensor(x))
        assert np.isfinite(found["y"][0]).all()
        assert not np.isfinite(found[True]["loss"])


def test_infinite_statistics():
    def spoil(net):
        with mr.no_grad():
            net.bn1.running_var.fill_(np.inf)
            net.bn1.running_mean.fill_(np.inf)

    found = compare(lambda: BasicBlock(4, 4), mr.tensor(arrays((2, 4, 5, 5))[0]), change=spoil)
    assert np.isnan(found["y"]).all()


def test_no_images():
    def run():
        net = build(lambda: BasicBlock(4, 6, 2), "float64").eval()
        x = mr.zeros(0, 4, 6, 6, dtype="float64", requires_grad=True)
        y = net(x)
        y.sum().backward()
        with mr.no_grad():
            return [net(x).shape, y.shape, *(values(t.grad) for t in (x, *net.parameters()))]

    assert both_ways(run)[0] == (0, 6, 3, 3)


def test_training_steps_stay_together():
    """Twenty steps of SGD, evaluation in between: nothing drifts apart."""

    def run():
        net = build(lambda: Torchvision(4, 6, 2), "float64").train()
        optimizer = mr.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        (x,) = (mr.tensor(a) for a in arrays((4, 4, 6, 6)))
        losses = []
        for step in range(20):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if step % 5 == 0:
                with mr.no_grad():
                    losses.append((net.eval()(x) ** 2).mean().item())
                net.train()
        return losses

    losses = both_ways(run, 1e-10)
    assert losses[-1] < losses[0] / 10


# **** that it happens ****


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that were launched, as module.function; operations that run by
    themselves, without notes, are among them."""
    found = []
    launch = Kernel.__call__

    def spy(kernel, *args):
        where = kernel.function.__module__.removeprefix("minires.").split(".")
        found.append(f"{where[1]}.{kernel.function.__name__.strip('_')}")
        return launch(kernel, *args)

    monkeypatch.setattr(Kernel, "__call__", spy)
    for function in (Add, ReLU, ReLUInput, BatchNorm, BatchNormGradients):

        def forward(*args, _function=function, _forward=function.forward, **options):
            found.append(f"alone.{_function.__name__}")
            return _forward(*args, **options)

        monkeypatch.setattr(function, "forward", staticmethod(forward))
    return found


def kinds(launches):
    """Everything that is not part of a convolution or its statistics, in order."""
    return [name for name in launches if not name.startswith(("conv2d.", "statistics."))]


LEAF = "alone.Add"  # the two gradients of a block's input, where that is a leaf


def made(block, shape, dtype="float32"):
    """A block and an input."""
    net = build(block, dtype)
    x = mr.tensor(arrays(shape)[0], dtype=dtype, requires_grad=True)
    return net, x


def layers(c=16):
    return build(
        lambda: Written(None, c1=conv(c), b1=BatchNorm2d(c), c2=conv(c), b2=BatchNorm2d(c)),
        "float32",
    )


def test_an_inner_activation_costs_no_pass_of_its_own(launches):
    net, x = layers(), mr.randn(2, 16, 8, 8, requires_grad=True)
    h = net.b1(net.c1(x)).relu()
    assert launches
    assert kinds(launches) == []  # the statistics came with the convolution
    y = net.c2(h)
    _ = y._array
    assert kinds(launches) == []  # which the second one normalises and rectifies as it reads
    assert pending(h)
    launches.clear()
    y.backward(mr.randn(*y.shape))
    assert kinds(launches) == ["batch_norm.bwd_affine"]
    assert pending(h)


def test_no_fusion_is_what_it_says(launches):
    net, x = layers(), mr.randn(2, 16, 8, 8, requires_grad=True)
    with mr.no_fusion():
        h = net.b1(net.c1(x)).relu()
    names = set(kinds(launches))
    assert {"batch_norm.statistics", "batch_norm.fwd", "relu.fwd"} <= names
    assert {"alone.BatchNorm", "alone.ReLU"} <= names
    assert not pending(h)


@pytest.mark.parametrize("block", [BasicBlock, Torchvision])
def test_passes_of_a_block_in_training(block, launches):
    net, x = made(lambda: block(16, 16), (2, 16, 8, 8))
    y = net(x)
    _ = y._array
    assert kinds(launches) == ["batch_norm.fwd"]  # batch norm, addition and ReLU at the end
    launches.clear()
    y.backward(mr.randn(*y.shape))
    assert kinds(launches) == [*["batch_norm.bwd_affine"] * 2, LEAF]


def test_passes_of_a_block_with_a_projection(launches):
    net, x = made(lambda: BasicBlock(16, 32, 2), (2, 16, 8, 8))
    y = net(x)
    _ = y._array
    assert kinds(launches) == ["batch_norm.fwd"]  # both batch norms in one pass
    launches.clear()
    y.backward(mr.randn(*y.shape))
    assert kinds(launches) == [*["batch_norm.bwd_affine"] * 3, LEAF]


def test_passes_of_two_blocks_backward(launches):
    """Where gradients meet, they are added by the pass that takes batch norm's sums."""
    net, x = made(lambda: nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16)), (2, 16, 8, 8))
    y = net(x)
    _ = y._array
    assert kinds(launches) == ["batch_norm.fwd"] * 2
    launches.clear()
    y.backward(mr.randn(*y.shape))
    assert kinds(launches) == [*["batch_norm.bwd_affine"] * 4, LEAF]


@pytest.mark.parametrize("block", [BasicBlock, Torchvision, Bottleneck, PlainBlock])
def test_evaluation_is_convolutions_only(block, launches):
    net = build(lambda: block(16, 16, 2), "float32").eval()
    x = mr.randn(2, 16, 8, 8)
    with mr.no_grad():
        _ = net(x)._array
    assert launches
    assert kinds(launches) == []


def test_memory_of_an_inner_activation():
    """After conv-bn-relu-conv two outputs are held, and not the four that were named."""
    net, x = layers(), mr.randn(4, 16, 32, 32, requires_grad=True)
    one = buffers.size_class(x._array.nbytes)
    before = buffers.in_use()
    y = net.c2(net.b1(net.c1(x)).relu())
    assert y.shape == x.shape
    y.sum()
    assert buffers.in_use() - before == 2 * one
    gradient = mr.ones(*y.shape)
    y.backward(gradient)
    x.grad = net.c1.weight.grad = net.c2.weight.grad = None
    assert buffers.in_use() - before == one  # y; what the graph saved is released
    del y
    assert buffers.in_use() == before


@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock, Bottleneck])
def test_memory_comes_back_after_backward(block):
    """Though the loss is still held, as in every training loop until the next one is there."""
    net, x = made(lambda: block(16, 16, 2), (4, 16, 32, 32))
    net.zero_grad()
    before = buffers.in_use()
    loss = net(x).sum()
    assert buffers.in_use() > before
    loss.backward()
    x.grad = None
    net.zero_grad()
    assert buffers.in_use() == before
    assert loss.grad_fn is not None


@pytest.mark.parametrize(
    "look",
    [
        lambda net: [p.data.sum() for p in net.parameters()],
        lambda net: {name: t.numpy() for name, t in net.state_dict().items()},
        lambda net: [np.asarray(p.detach()) for p in net.parameters()],
    ],
)
def test_looking_at_weights_does_not_end_it(look, launches):
    """As checkpoints and norms of weights do; what they hold may be written, and is not read."""
    net, x = made(lambda: BasicBlock(16, 16), (2, 16, 8, 8))
    kept = look(net)
    launches.clear()
    y = net(x)
    _ = y._array
    assert kinds(launches) == ["batch_norm.fwd"]
    launches.clear()
    with mr.no_grad():
        _ = net.eval()(x)._array
    assert kinds(launches) == []
    assert kept


def test_writing_into_a_weight_whose_array_was_handed_out():
    net, x = layers(), mr.randn(2, 16, 8, 8)
    array = net.c1.weight.data
    with mr.no_grad():
        y = net.c1(x)
        array[...] = 0
        assert y.abs().sum().item() > 0
        assert net.c1(x).abs().sum().item() == 0


# **** whoever looks sees ****


STAGES = ["conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2"]


class Chain:
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + x), one call at a time."""

    def __init__(self, training=True, dtype="float64"):
        self.net = build(
            lambda: Written(None, c1=conv(4), b1=BatchNorm2d(4), c2=conv(4), b2=BatchNorm2d(4)),
            dtype,
        ).train(training)
        x = mr.from_numpy(LAYOUTS["channels_last"](arrays((2, 4, 3, 3))[0].astype(dtype)))
        self.leaf = mr.zeros_like(x).copy_(x).requires_grad_()  # in memory of its own
        self.x = self.leaf * 1
        self.made = {}

    def step(self, stage):
        net, made = self.net, self.made
        last = list(made.values())[-1] if made else self.x
        made[stage] = {
            "conv1": lambda: net.c1(last),
            "bn1": lambda: net.b1(last),
            "relu1": lambda: last.relu(),
            "conv2": lambda: net.c2(last),
            "bn2": lambda: net.b2(last),
            "add": lambda: last + self.x,
            "relu2": lambda: last.relu(),
        }[stage]()
        return made[stage]

    def result(self, extra=()):
        """All there is to compare, after a backward pass if there can be one."""
        y = self.made["relu2"]
        found = {"y": values(y), "names": [str(t.grad_fn) for t in self.made.values()]}
        found["versions"] = [t._version.count for t in self.made.values()]
        if y.requires_grad:
            weights = mr.tensor(arrays(y.shape, seed=5)[0], dtype=y.dtype)
            loss = (y * weights).sum()
            for t in extra:
                loss = loss + t
            loss.backward()
            found["loss"] = values(loss)
            found["grads"] = [values(t.grad) for t in (self.leaf, *self.net.parameters())]
        found["buffers"] = [values(b) for b in self.net.buffers()]
        found["made"] = [values(t) for t in self.made.values()]
        return found


def follow(at, act, training=True):
    """The chain, with ``act(chain, tensor)`` done to the tensor of one stage once it is made."""
    chain, extra, seen = Chain(training), [], None
    for stage in STAGES:
        t = chain.step(stage)
        if stage == at:
            seen = act(chain, t)
            if isinstance(seen, mr.Tensor):
                if seen.requires_grad:
                    extra.append((seen * seen).sum())
                seen = values(seen)
    found = chain.result(extra)
    return [seen, found]


def text_of_error(f):
    with pytest.raises(mr.errors.GraphError) as caught:
        f()
    return str(caught.value)


LOOKS = {
    "sum": lambda chain, t: t.sum().item(),
    "repr": lambda chain, t: repr(t),
    "format": lambda chain, t: f"{t}",
    "len": lambda chain, t: [len(t), t.shape, t.ndim, str(t.dtype), str(t.device), t.numel()],
    "size": lambda chain, t: [t.size(), t.size(1), t.nbytes, t.itemsize, t.is_floating_point()],
    "iter": lambda chain, t: [values(part) for part in t],
    "index": lambda chain, t: t[1, 2:],
    "tolist": lambda chain, t: t.tolist(),
    "numpy": lambda chain, t: t.detach().numpy().copy(),
    "numpy error": lambda chain, t: text_of_error(t.numpy) if t.requires_grad else None,
    "data": lambda chain, t: t.data.copy(),
    "__array__": lambda chain, t: np.asarray(t.detach()).copy(),
    "dlpack": lambda chain, t: np.from_dlpack(t.detach()).copy(),
    "detach": lambda chain, t: t.detach(),
    "clone": lambda chain, t: t.clone(),
    "double": lambda chain, t: t.float().double(),
    "to": lambda chain, t: t.to("cpu"),
    "contiguous": lambda chain, t: t.contiguous(),
    "compare": lambda chain, t: values(t > 0),
    "deepcopy": lambda chain, t: (
        text_of_error(lambda: copy.deepcopy(t)) if t.grad_fn else values(copy.deepcopy(t))
    ),
    "pickle": lambda chain, t: (
        text_of_error(lambda: pickle.dumps(t))
        if t.grad_fn
        else values(pickle.loads(pickle.dumps(t)))
    ),
    "grad_fn": lambda chain, t: [str(t.grad_fn), t.is_leaf, t.requires_grad],
    "view": lambda chain, t: t.reshape(2, -1),
    "transpose": lambda chain, t: t.permute(0, 2, 3, 1),
    "consumer": lambda chain, t: t.exp(),
    "relu": lambda chain, t: t.relu(),
    "plus": lambda chain, t: (t + 1).relu(),
    "plus itself": lambda chain, t: t + t,
    "sum of two": lambda chain, t: t + chain.x,
    "conv": lambda chain, t: chain.net.c1(t),
    "matmul": lambda chain, t: t @ t.transpose(2, 3),
    "pool": lambda chain, t: mr.max_pool2d(t, 2),
    "concatenate": lambda chain, t: mr.concatenate([t, chain.x]),
    "where": lambda chain, t: mr.where(t > 0, t, t * 2),
    "maximum": lambda chain, t: mr.maximum(t, chain.x),
    "hash": lambda chain, t: hash(t) == id(t),
    "equal shapes": lambda chain, t: (t == t).all().item(),
    "numpy backend": lambda chain, t: numpy_backend(lambda: (t.relu() + t).sum().item()),
    "tensor of it": lambda chain, t: mr.Tensor(t).sum().item(),
    "bad add": lambda chain, t: shape_error(lambda: t + mr.ones(2, 4, 3, 2, dtype="float64")),
    "bad dtype": lambda chain, t: shape_error(lambda: t + mr.ones(2, 4, 3, 3)),
    "bad conv": lambda chain, t: shape_error(
        lambda: mr.conv2d(t, mr.ones(4, 5, 1, 1, dtype="float64"))
    ),
    "bad batch norm": lambda chain, t: shape_error(
        lambda: mr.batch_norm(t, None, None, mr.ones(3, dtype="float64"))
    ),
}


def numpy_backend(f):
    with mr.backend("numpy"):
        return f()


def shape_error(f):
    """Errors come at the call, and not when someone looks."""
    with pytest.raises((mr.errors.ShapeError, mr.errors.DTypeError)) as caught:
        f()
    return str(caught.value)


@pytest.mark.parametrize("look", LOOKS)
def test_looking_at_any_stage(look):
    for training in (True, False):
        for at in STAGES:
            found = both_ways(lambda: follow(at, LOOKS[look], training))  # noqa: B023
            assert isinstance(found[1], dict), found

    def without_gradients():
        with mr.no_grad():
            return [follow(at, LOOKS[look], training=False) for at in STAGES]

    both_ways(without_gradients)


def hook(f):
    def act(chain, t):
        if t.requires_grad:
            t.register_hook(f)

    return act


def halve_in_place(g):
    g.mul_(0.5)


def halve_array(g):
    g.data[...] *= 0.5


def keep_and_write(kept):
    """Write later into the array of an earlier gradient."""

    def f(g):
        for array in kept:
            array[...] = 0
        kept[:] = [g.data]

    return f


def retained(chain, t):
    if t.requires_grad:
        t.retain_grad()
        chain.made["retained"] = t


HOOKS = {
    "reading": lambda: hook(lambda g: quiet(g.sum())),
    "replacing": lambda: hook(lambda g: g * 0.5),
    "replacing by relu": lambda: hook(lambda g: (g + g).relu()),
    "in place": lambda: hook(halve_in_place),
    "array": lambda: hook(halve_array),
    "keeping": lambda: hook(keep_and_write([])),
    "removed": lambda: lambda chain, t: t.requires_grad and t.register_hook(halve_array).remove(),
}


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_tensors(name, training):
    for at in STAGES:

        def run(at=at):
            found = follow(at, HOOKS[name](), training)[1]
            return found

        assert isinstance(both_ways(run), dict)


def test_every_gradient_that_a_hook_sees():
    def run():
        chain, seen = Chain(), {}
        for stage in STAGES:
            t = chain.step(stage)
            t.register_hook(lambda g, stage=stage: seen.update({stage: values(g)}))
        return [chain.result(), seen]

    assert set(both_ways(run)[1]) == set(STAGES)


def test_retained_gradients():
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage).retain_grad()
        found = chain.result()
        return [found, [values(t.grad) for t in chain.made.values()]]

    assert all(np.abs(g).max() > 0 for g in both_ways(run)[1])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_inputs_in_the_middle(training):
    def run():
        chain = Chain(training)
        for stage in STAGES:
            chain.step(stage)
        y, middle = chain.made["relu2"], list(chain.made.values())[:-1]
        all_at_once = mr.grad((y * y).sum(), [chain.leaf, *middle, y], retain_graph=True)
        one_by_one = [mr.grad((y * y).sum(), t, retain_graph=True)[0] for t in middle]
        return [values(g) for g in (*all_at_once, *one_by_one)]

    assert len(both_ways(run)) == 14


@pytest.mark.parametrize("what", ["input", "output"])
def test_hooks_on_modules(what):
    def run():
        chain, seen = Chain(), []
        for layer in (chain.net.c1, chain.net.b1, chain.net.c2, chain.net.b2):
            if what == "input":
                layer.register_forward_pre_hook(lambda m, args: seen.append(values(args[0])))
            else:
                layer.register_forward_hook(lambda m, args, out: seen.append(values(out)))
            layer.register_full_backward_hook(
                lambda m, gx, gy: seen.append([values(gx[0]), values(gy[0])])
            )
        for stage in STAGES:
            chain.step(stage)
        return [chain.result(), seen]

    assert len(both_ways(run)[1]) == 8


def quiet(result):
    """What was written into is no new consumer."""


def no_grad(f):
    def act(chain, t):
        with mr.no_grad():
            f(chain, t)

    return act


def inside(name):
    """An in-place method of the tensor itself."""
    return lambda chain, t: quiet(getattr(t, name)(*([] if name == "relu_" else [1.5])))


def through_a_view(chain, t):
    t[0].mul_(3)


def through_a_flat_view(chain, t):
    t.permute(0, 2, 3, 1).reshape(-1).add_(1)


def set_item(chain, t):
    t[:, 1] = 7.0


def add_to_input(chain, t):
    chain.x.add_(2.0)


def first(chain):
    return chain.made["conv1"]


def new_statistics(chain, t):
    for b in chain.net.buffers():
        b.fill_(3)


def sgd_step(chain, t):
    for p in chain.net.parameters():
        p.grad = mr.ones_like(p)
    mr.optim.SGD(chain.net.parameters(), lr=0.5).step()
    chain.net.zero_grad()


def adam_step(chain, t):
    for p in chain.net.parameters():
        p.grad = mr.ones_like(p)
    mr.optim.Adam(chain.net.parameters(), lr=0.5).step()
    chain.net.zero_grad()


def load(chain, t):
    state = {name: s.detach().clone() * 2 for name, s in chain.net.state_dict().items()}
    state = {n: s.long() if "num_batches" in n else s for n, s in state.items()}
    chain.net.load_state_dict(state)


def initialise(chain, t):
    for p in chain.net.parameters():
        nn.init.constant_(p, 0.25)


def to_float(chain, t):
    chain.net.float().double()


def write_data(chain, t):
    for layer in (chain.net.c1, chain.net.c2):
        layer.weight.data[...] *= 2


def set_data(chain, t):
    for p in chain.net.parameters():
        p.data = p.data * 2


def write_first(chain, t):
    first(chain).data[...] *= 2


def write_input(chain, t):
    chain.x.data[...] *= 2


WRITES = {
    **{name: inside(name) for name in ("add_", "mul_", "relu_", "fill_", "copy_")},
    **{f"no_grad {name}": no_grad(inside(name)) for name in ("add_", "relu_", "fill_")},
    "setitem": set_item,
    "no_grad setitem": no_grad(set_item),
    "view": through_a_view,
    "no_grad view": no_grad(through_a_view),
    "flat view": through_a_flat_view,
    "+= itself": lambda chain, t: quiet(t.add_(t)),
    "+= input": lambda chain, t: quiet(t.add_(chain.x)),
    "input": add_to_input,
    "no_grad input": no_grad(add_to_input),
    "input relu_": lambda chain, t: quiet(chain.x.relu_()),
    "leaf": no_grad(lambda chain, t: chain.leaf.mul_(2)),
    "first": lambda chain, t: quiet(first(chain).mul_(2)),
    "no_grad first": no_grad(lambda chain, t: first(chain).add_(1)),
    "first.data": write_first,
    "input.data": write_input,
    "statistics": no_grad(new_statistics),
    "SGD": sgd_step,
    "Adam": adam_step,
    "load_state_dict": load,
    "init": no_grad(initialise),
    "module.to": to_float,
    "weights.data[...]": write_data,
    "weights.data =": set_data,
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_at_any_stage(name):
    """Into the tensor, or into what its pending work reads: as if nothing had been put off."""
    for training in (True, False):
        for at in STAGES:
            both_ways(lambda: follow(at, WRITES[name], training))  # noqa: B023

    def without_gradients():
        with mr.no_grad():
            return [follow(at, WRITES[name], training=False) for at in STAGES]

    found = both_ways(without_gradients)
    assert isinstance(found[0], list), found


@pytest.mark.parametrize("of", ["x", *STAGES[:-1]])
def test_writing_later_into_an_array_that_was_handed_out(of):
    """Unseen, at every later stage; nothing that was put off may read it then."""

    def follow(at):
        chain, array = Chain(training=False), None
        if of == "x":
            array = chain.x.data
        for stage in STAGES:
            t = chain.step(stage)
            if stage == of:
                array = t.data
            if stage == at:
                array[...] = 7
        return [values(t) for t in chain.made.values()]

    for at in STAGES if of == "x" else STAGES[STAGES.index(of) :]:
        both_ways(lambda: follow(at))  # noqa: B023
        with mr.no_grad():
            both_ways(lambda: follow(at))  # noqa: B023


def test_what_a_relu_in_place_saved_is_its_own():
    """It takes the memory of its input over, and a later write there must not reach it."""

    def run():
        chain = Chain()
        h = chain.net.b1(chain.net.c1(chain.x))
        h += chain.x
        h.relu_()
        h += 5.0
        (h * h).sum().backward()
        return values(chain.leaf.grad)

    both_ways(run)


def test_two_tensors_on_one_memory():
    def run():
        chain = Chain(training=False)
        other, x = mr.zeros_like(chain.leaf), mr.zeros_like(chain.leaf)
        with mr.no_grad():
            other.copy_(chain.leaf)
            x.data = other
            y = chain.net.c1(x)
            other.add_(1)
            z = chain.net.c1(other)
            x.mul_(2)
            return [values(y), values(z)]

    both_ways(run)


def test_arrays_of_other_kinds_are_shared_too(tmp_path):
    """A subclass of NumPy's array, whose owner may write into it."""
    net = Chain(training=False).net
    array = np.memmap(tmp_path / "images", dtype="float64", mode="w+", shape=(2, 3, 3, 4))
    with mr.no_grad():
        y = net.c1(mr.from_numpy(array.transpose(0, 3, 1, 2)))
        array[...] = 1
        assert y.abs().sum().item() == 0


# **** the graph ****


def test_backward_twice():
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        loss = (chain.made["relu2"] ** 2).sum()
        loss.backward(retain_graph=True)
        once = [values(t.grad) for t in (chain.leaf, *chain.net.parameters())]
        loss.backward()
        twice = [values(t.grad) for t in (chain.leaf, *chain.net.parameters())]
        for a, b in zip(once, twice):
            close(2 * a, b)
        return [twice, text_of_error(loss.backward)]

    assert "released by the first backward" in both_ways(run)[1]


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training):
    def run():
        chain = Chain(training)
        for stage in STAGES:
            chain.step(stage)
        y = chain.made["relu2"]
        inputs = [chain.leaf, *chain.net.parameters()]
        first = mr.grad((y**3).sum(), inputs, create_graph=True)
        total = sum((g * g).sum() for g in first)
        return [values(g) for g in mr.grad(total, inputs)]

    both_ways(run, 1e-11)


def test_second_derivatives_by_the_checker():
    net = build(lambda: Torchvision(2), "float64")

    def f(x, w):
        h = mr.batch_norm(mr.conv2d(x, w, padding=1), None, None, training=True).relu()
        return mr.batch_norm(mr.conv2d(h, w), None, None, net.bn2.weight, training=True) ** 2

    x, w = arrays((2, 2, 4, 4), (2, 2, 3, 3))
    check2(f, [mr.tensor(v, requires_grad=True) for v in (x, w)]).assert_ok()


def test_anomaly_names_the_right_line():
    def run():
        chain = Chain()
        with mr.no_grad():
            chain.net.c2.weight[0, 0, 0, 0] = np.inf
            chain.net.c2.weight[0, 0, 0, 1] = -np.inf
        with mr.detect_anomaly():
            for stage in STAGES:
                chain.step(stage)

    kind, text = both_ways(run)
    assert kind == "NaNError"
    assert "Conv2d made the first NaN" in text


def test_anomaly_in_the_backward_pass_only():
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        y = chain.made["relu2"]
        with mr.detect_anomaly():
            (y * np.inf).sum().backward()

    assert both_ways(run)[0] == "NaNError"


@pytest.mark.parametrize("at", STAGES)
def test_the_reference_kernels_in_between(at, launches):
    """From one call on, or for one look, the references compute."""

    def run():
        chain = Chain()
        for stage in STAGES:
            if STAGES.index(stage) >= STAGES.index(at):
                with mr.backend("numpy"):
                    chain.step(stage)
            else:
                chain.step(stage)
        return chain.result()

    assert isinstance(both_ways(run), dict)
    launches.clear()
    chain = Chain()
    chain.step("conv1")
    chain.step("bn1")
    with mr.backend("numpy"):
        chain.step("relu1")
    assert not pending(chain.made["relu1"])


def test_a_pass_on_the_references_only(launches):
    with mr.backend("numpy"):
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        chain.result()
    assert [name for name in launches if not name.startswith("alone.")] == []


class Doubled(mr.Function):
    """Its backward gets a gradient that is put off, and works with operations on it."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gy):
        w = mr.ones(gy.shape[1], gy.shape[1], 1, 1, dtype=gy.dtype)
        y = mr.batch_norm(mr.conv2d(gy, w), None, None, training=True).relu()
        return (y + gy).relu() + mr.conv2d(gy.relu(), w)


def test_a_users_own_backward():
    def run():
        chain = Chain()
        h = Doubled.apply(chain.net.b1(chain.net.c1(chain.x)))
        (h * h + h.exp() + h).sum().backward()
        return values(chain.leaf.grad)

    both_ways(run)


# **** threads ****


@pytest.fixture
def impatient():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*functions):
    """Run these at the same moment in a thread each; what they returned."""
    barrier, found, errors = threading.Barrier(len(functions)), {}, []

    def run(index, f):
        try:
            barrier.wait()
            found[index] = f()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[index] for index in range(len(functions))]


def without_graph(f):
    with mr.no_grad():
        return f()


def test_threads_that_look_at_one_tensor(impatient):
    chain = Chain(training=False)
    with mr.no_grad():
        expected = chain.net.b1(chain.net.c1(chain.x)).relu().sum().item()
        for _ in range(500):
            y = chain.net.b1(chain.net.c1(chain.x)).relu()
            assert together(*[lambda: y.sum().item()] * 3) == [expected] * 3  # noqa: B023


def test_a_tensor_that_another_thread_has_just_finished():
    """Its array was not there when this thread looked, and is when it asks for the reason."""
    chain = Chain()
    y = chain.step("conv1")
    array = y._array
    assert not pending(y)
    assert y.__getattr__("_array") is array
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = y.colour


def test_one_thread_builds_on_what_another_looks_at(impatient):
    chain = Chain(training=False)
    net, x = chain.net, chain.x
    with mr.no_grad():
        h = net.b1(net.c1(x))
        expected = [values(t) for t in (h.relu(), h + x, net.c2(h.relu()))]
        for _ in range(200):
            h = net.b1(net.c1(x))
            r = h.relu()
            found = together(
                lambda: values(h),  # noqa: B023
                lambda: without_graph(lambda: values(h.relu())),  # noqa: B023
                lambda: without_graph(lambda: values(h + x)),  # noqa: B023
                lambda: values(r),  # noqa: B023
                lambda: without_graph(lambda: values(net.c2(r))),  # noqa: B023
            )
            for a, b in zip([found[1], found[2], found[4]], expected):
                close(a, b)
            close(found[3], expected[0])


def test_threads_with_a_network_each(impatient):
    def run():
        return [follow("relu1", LOOKS["sum"])[1]["grads"] for _ in range(5)]

    expected = run()
    for found in together(run, run, run):
        for one in found:
            same(one, expected[0])


class Known(Pending):
    def _compute(self):
        return np.ones(self.shape, self.dtype)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, for forks with threads
def test_a_fork_while_another_thread_computes():
    begun, end = threading.Event(), threading.Event()

    def compute():
        with computing:
            begun.set()
            end.wait(0.2)

    thread = threading.Thread(target=compute)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(int(Known((2,), np.float32).finish().sum()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    end.set()
    thread.join()


# **** depth, garbage, memory ****


def test_two_thousand_layers_without_looking():
    net, x = Chain(training=False).net, mr.randn(1, 4, 3, 3, dtype="float64")
    with mr.no_grad():
        for _ in range(2000):
            x = net.b1(net.c1(x)).relu()
        assert x.shape == (1, 4, 3, 3)
        assert x.sum().item() >= 0


LONG = {
    "sums": lambda net, x, y: net.b1(y) + x,
    "sums the other way": lambda net, x, y: x + net.b1(y),
    "in place": lambda net, x, y: x.add_(net.b1(y)),
    "batch norms": lambda net, x, y: net.b1(x),
    "rectified": lambda net, x, y: net.b1(x).relu(),
    "relus": lambda net, x, y: x.relu(),
    "convolutions": lambda net, x, y: net.c1(x),
    "blocks": lambda net, x, y: (net.b1(net.c1(x)) + x).relu(),
    "shortcuts": lambda net, x, y: (net.b2(net.c2(net.b1(net.c1(x)).relu())) + x).relu(),
}


@pytest.mark.parametrize("name", LONG)
def test_long_chains_do_not_recurse(name):
    """Longer than Python's stack is deep."""
    chain = Chain(training=False)
    with mr.no_grad():
        y = mr.randn(1, 4, 2, 2, dtype="float64")
        x = chain.net.b1(chain.net.c1(y))
        for _ in range(1200):
            x = LONG[name](chain.net, x, y)
        assert not np.isnan(x.sum().item()) or name in ("convolutions", "shortcuts", "blocks")


def test_a_tensor_with_many_consumers():
    w = mr.ones(3, requires_grad=True)
    h = w * 1
    total = mr.zeros(())
    for i in range(1500):
        total = total + (h * float(i)).sum() + (w * 2.0).sum()
    total.backward()
    assert w.grad.tolist() == [1500 * 1499 / 2 + 3000.0] * 3


def test_many_gradients_are_not_all_held():
    """They are added up as they come: a weight that is used a hundred times has one gradient."""
    x = mr.zeros(1, 4, 64, 64, requires_grad=True)
    w = mr.ones(4, 4, 1, 1)
    peak = []
    before = buffers.in_use()
    total = mr.zeros(())
    for _ in range(20):
        y = mr.conv2d(x, w)
        y.register_hook(lambda g: peak.append(buffers.in_use() - before))
        total = total + y.sum()
    del y
    total.backward()
    assert len(peak) == 20
    assert x.grad._array[0, 0, 0, 0] == 80
    assert peak[-1] - peak[0] <= 4 * buffers.size_class(x._array.nbytes)


def test_graphs_leave_no_garbage():
    chain = Chain()
    chain.x = chain.leaf
    gc.collect()
    gc.disable()
    try:
        seen = []
        for i in range(700):
            chain.made.clear()
            for stage in STAGES[: 1 + i % 7]:
                t = chain.step(stage)
            if i % 3 == 0:
                t.sum().backward()
            elif i % 3 == 1:
                _ = t._array
            if i % 50 == 0:
                seen.append((weakref.ref(t), weakref.ref(t._pending or t)))
            del t
        chain.made.clear()
        assert all(ref() is None for refs in seen for ref in refs)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_dropped_tensors_are_not_remembered():
    """By the memory that they would have read."""
    chain = Chain(training=False)
    with mr.no_grad():
        for _ in range(1000):
            chain.net.b1(chain.net.c1(chain.x))
        kept = [chain.net.c1(chain.x) for _ in range(50)]
        assert all(not y.isnan().any() for y in kept)  # looked at: they read nothing any more
        last = chain.net.c1(chain.x)
    assert pending(last)
    for read in (chain.x, chain.net.c1.weight):
        assert len(read._version._readers or ()) <= 100 + MANY  # twice those that are kept


def test_not_enough_memory():
    with mr.no_grad():
        w = mr.ones(1, 1, 1, 1)
        y = mr.conv2d(mr.ones(1, 1, 1, 1), w, padding=10**6)
        for _ in range(2):  # it is not broken: the next one to look is told the same
            with pytest.raises(MemoryError, match=r"expected room for an array of 15360.00 GiB"):
                y.sum()
            assert y.shape == (1, 1, 2 * 10**6 + 1, 2 * 10**6 + 1)
        z = mr.batch_norm(y, mr.zeros(1), mr.ones(1)).relu()
        with pytest.raises(MemoryError, match=r"15360.00 GiB"):
            _ = z._array
        with pytest.raises(MemoryError, match=r"15360.00 GiB"):
            mr.batch_norm(y, None, None, training=True)
        assert pending(y)


def test_memory_that_was_short_for_a_moment(monkeypatch):
    """What failed once is computed when there is room again."""
    from minires.ops import fusion

    def full(shape, dtype):
        raise MemoryError("full")

    def run():
        chain = Chain()
        with monkeypatch.context() as patch:
            patch.setattr(fusion, "empty", full)
            y = chain.net.c1(chain.x)
            if pending(y):
                with pytest.raises(MemoryError, match="full"):
                    chain.net.b1(y)
                with pytest.raises(MemoryError, match="full"):
                    y.sum()
        z = chain.net.b1(y).relu()
        z.sum().backward()
        return [values(z), values(chain.leaf.grad), values(chain.net.b1.running_mean)]

    both_ways(run)

"""Fusion: convolution, batch norm, addition and ReLU share their passes, and nobody can tell."""

from __future__ import annotations

import re

import numpy as np
import pytest
from harness import LAYOUTS, arrays, tensor, there, zeros
from ops.fused import Torchvision, Written, both_ways, build, conv, same, values

import minires as mr
from minires import nn
from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.nn import BatchNorm2d, Conv2d

TOLERANCE = {"float64": 1e-12, "float32": 1e-4}


class Trunk(Torchvision):
    """A stem and two such blocks, with the in-place method for the last ReLU."""

    def __init__(self):
        super().__init__(8)
        self.stem = nn.Sequential(Conv2d(3, 8, 3, padding=1, bias=False), BatchNorm2d(8), nn.ReLU())
        self.next = Torchvision(8, 12, 2)

    def forward(self, x):
        y = self.next(super().forward(self.stem(x)))
        return (y * 2 - 1).relu_()


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
        weights = tensor(np.random.default_rng(1).standard_normal(y.shape), dtype=y.dtype)
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


ON_A_GPU = """
    BasicBlock B stride 2|Bottleneck identity|PreActBlock C stride 1|torchvision trunk|twice itself
    expanded residual|conv with bias|batch norm alone|one layer twice|groups|depthwise|one channel
"""
ON_A_GPU = [name.strip() for row in ON_A_GPU.strip().split("\n") for name in row.split("|")]


@pytest.mark.slow
@pytest.mark.gpu_cases(only=[f"{name}-float32" for name in ON_A_GPU])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_out_alike(name, dtype, device):
    make, shape = NETWORKS[name]
    (x,) = arrays(shape)
    found = compare(make, tensor(x, dtype=dtype), dtype)
    assert isinstance(found, dict), found  # no error
    assert np.abs(found[True]["x"]).max() > 1e-3
    assert np.abs(found["y"]).max() > 1e-3


@pytest.mark.gpu_cases(only=["bn1.*-BasicBlock", ".*conv.*-Torchvision"])
@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock])
@pytest.mark.parametrize(
    "frozen",
    [".*conv.*", ".*bn.*", ".*bn.*weight", "conv1.*", "bn1.*", ".*2.*", ".*"],
)
def test_frozen_weights(block, frozen, device):
    def freeze(net):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not re.fullmatch(frozen, name))

    (x,) = arrays((2, 4, 5, 5))
    found = compare(lambda: block(4, 6, 2), tensor(x), change=freeze)
    assert isinstance(found, dict), found


@pytest.mark.gpu_cases(only=["BasicBlock"])
@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock, PlainBlock])
def test_batch_norms_in_evaluation_while_the_rest_trains(block, device):
    def run():
        net = build(lambda: block(4, 6, 2), "float64")
        net.train()
        for module in net.modules():
            if isinstance(module, BatchNorm2d):
                module.eval()
        x = tensor(arrays((2, 4, 5, 5))[0], requires_grad=True)
        (net(x) ** 2).sum().backward()
        return [values(t.grad) for t in (x, *net.parameters())] + [values(b) for b in net.buffers()]

    assert len(both_ways(run)) > 6


@pytest.mark.gpu_cases(only=["BasicBlock"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [BasicBlock, PreActBlock, Torchvision])
def test_inputs_of_any_layout(block, layout, device):
    (x,) = arrays((2, 4, 6, 6))
    found = compare(lambda: block(4, 4), there(LAYOUTS[layout](x)))
    plain = compare(lambda: block(4, 4), tensor(x))
    same(found, plain)


@pytest.mark.gpu_cases(only=["nan-Bottleneck", "inf-BasicBlock"])
@pytest.mark.parametrize("block", [BasicBlock, PreActBlock, Torchvision, PlainBlock, Bottleneck])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_flow(block, value, device):
    (x,) = arrays((2, 16, 5, 5))
    x[1, 2, 3, 3] = value
    with np.errstate(all="raise"):  # whoever computes, at whatever time, they are results
        found = compare(lambda: block(16, 4), tensor(x))
        assert np.isfinite(found["y"][0]).all()
        assert not np.isfinite(found[True]["loss"])


def test_infinite_statistics(device):
    def spoil(net):
        with mr.no_grad():
            net.bn1.running_var.fill_(np.inf)
            net.bn1.running_mean.fill_(np.inf)

    found = compare(lambda: BasicBlock(4, 4), tensor(arrays((2, 4, 5, 5))[0]), change=spoil)
    assert np.isnan(found["y"]).all()


def test_no_images(device):
    def run():
        net = build(lambda: BasicBlock(4, 6, 2), "float64").eval()
        x = zeros(0, 4, 6, 6, dtype="float64", requires_grad=True)
        y = net(x)
        y.sum().backward()
        with mr.no_grad():
            return [net(x).shape, y.shape, *(values(t.grad) for t in (x, *net.parameters()))]

    assert both_ways(run)[0] == (0, 6, 3, 3)


def test_training_steps_stay_together(device):
    """Twenty steps of SGD, evaluation in between: nothing drifts apart."""

    def run():
        net = build(lambda: Torchvision(4, 6, 2), "float64").train()
        optimizer = mr.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        (x,) = (tensor(a) for a in arrays((4, 4, 6, 6)))
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

"""The blocks as ``models/blocks.py`` writes them out: that text is what runs, and what is made."""

import ast
import inspect
import sys
import textwrap

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.models import (
    BasicBlock,
    Bottleneck,
    CifarNet,
    OptionA,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
    SqueezeExcitation,
)
from minires.nn import functional as F

TWINS = [(PlainBlock, BasicBlock), (PreActPlainBlock, PreActBlock)]
RESIDUAL = [BasicBlock, Bottleneck, PreActBlock, PreActBottleneck]


def tree(method):
    return ast.parse(textwrap.dedent(inspect.getsource(method)))


def additions(method):
    """The sums in a method's text, as in "f + s"."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree(method))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
    ]


def layers(kind):
    """The lines of ``__init__`` that make convolutions, norms and ReLU."""
    lines = [ast.unparse(node) for node in tree(kind.__init__).body[0].body]
    return [line for line in lines if line.startswith(("self.conv", "self.bn", "self.relu"))]


# **** the text ****


@pytest.mark.parametrize("kind", RESIDUAL)
def test_the_addition_stands_in_forward(kind):
    assert "forward" in vars(kind)
    assert additions(kind.forward) == ["f + s"]
    last = tree(kind.forward).body[0].body[-1]
    expected = "return f + s" if kind.pre_activation else "return self.relu(f + s)"
    assert ast.unparse(last) == expected


@pytest.mark.parametrize(("plain", "residual"), TWINS)
def test_twins_differ_in_forward_alone(plain, residual):
    assert layers(plain) == layers(residual)
    assert len(layers(plain)) == 5
    for method in {"preactivate", "branch", "residual"} & vars(plain).keys():
        one, two = vars(plain)[method], vars(residual)[method]
        assert ast.unparse(tree(one)) == ast.unparse(tree(two))
        assert additions(one) == []
    assert additions(plain.forward) == []
    assert not hasattr(plain, "skip")


# **** what runs ****


def lines_run(f, code):
    """The lines of ``code`` that run while ``f`` is called, without leading spaces."""
    text, seen = inspect.getsourcelines(code)[0], []

    def follow(frame, event, argument):
        if event == "line":
            seen.append(text[frame.f_lineno - code.co_firstlineno].strip())
        return follow

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: follow if frame.f_code is code else None)
    try:
        f()
    finally:
        sys.settrace(before)
    return seen


@pytest.mark.parametrize("kind", [*RESIDUAL, PlainBlock, PreActPlainBlock])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_runs_the_written_text(kind, training):
    net = CifarNet(kind, 1, in_channels=1)
    x, labels = mr.randn(2, 1, 8, 8), mr.arange(2)
    net(x)  # statistics to evaluate with
    net.train(training)

    def step():
        F.cross_entropy(net(x), labels).backward()

    last = [ast.unparse(node) for node in tree(kind.forward).body[0].body][-1]
    run = lines_run(step, kind.forward.__code__)
    assert sum(line.startswith(last) for line in run) == 3  # one block in each of three stages
    assert len(lines_run(step, kind.residual.__code__)) >= 3


# **** what is made ****


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


def conv(c_in, c_out, size, stride=1, dilation=1, groups=1):
    return nn.Conv2d(
        c_in, c_out, size, stride, padding=dilation * (size // 2), dilation=dilation, groups=groups
    )


# Each block with every option that has layers, and the layers in the order in which they are made:
# in this order weights are drawn, and state dicts list them.
OPTIONS = {"bias": True, "norm_layer": norm, "dilation": 2, "reduction": 2, "dropout": 0.1}
WIDE = {"groups": 2, "width_per_group": 32, "stride_in": "1x1"}
BASIC = {
    "conv1": lambda: conv(4, 6, 3, 2, 2),
    "bn1": lambda: norm(6),
    "conv2": lambda: conv(6, 6, 3, 1, 2),
    "bn2": lambda: norm(6),
    "se": lambda: SqueezeExcitation(6, 2),
}
PRE_BASIC = {
    "bn1": lambda: norm(4),
    "conv1": lambda: conv(4, 6, 3, 2, 2),
    "bn2": lambda: norm(6),
    "conv2": lambda: conv(6, 6, 3, 1, 2),
    "se": lambda: SqueezeExcitation(6, 2),
}
MADE = {
    "PlainBlock": (lambda: PlainBlock(4, 6, 2, **OPTIONS), BASIC),
    "BasicBlock A": (lambda: BasicBlock(4, 6, 2, shortcut="A", **OPTIONS), BASIC),
    "BasicBlock B": (
        lambda: BasicBlock(4, 6, 2, **OPTIONS),
        {**BASIC, "downsample": lambda: nn.Sequential(conv(4, 6, 1, 2), norm(6))},
    ),
    "Bottleneck": (
        lambda: Bottleneck(24, 6, 2, shortcut="C", **OPTIONS, **WIDE),
        {
            "conv1": lambda: conv(24, 6, 1, 2),
            "bn1": lambda: norm(6),
            "conv2": lambda: conv(6, 6, 3, 1, 2, groups=2),
            "bn2": lambda: norm(6),
            "conv3": lambda: conv(6, 24, 1),
            "bn3": lambda: norm(24),
            "se": lambda: SqueezeExcitation(24, 2),
            "downsample": lambda: nn.Sequential(conv(24, 24, 1, 2), norm(24)),
        },
    ),
    "PreActPlainBlock": (lambda: PreActPlainBlock(4, 6, 2, **OPTIONS), PRE_BASIC),
    "PreActBlock": (
        lambda: PreActBlock(4, 6, 2, **OPTIONS),
        {**PRE_BASIC, "downsample": lambda: conv(4, 6, 1, 2)},
    ),
    "PreActBottleneck": (
        lambda: PreActBottleneck(24, 6, 2, **OPTIONS, groups=2, width_per_group=64),
        {
            "bn1": lambda: norm(24),
            "conv1": lambda: conv(24, 12, 1),
            "bn2": lambda: norm(12),
            "conv2": lambda: conv(12, 12, 3, 2, 2, groups=2),
            "bn3": lambda: norm(12),
            "conv3": lambda: conv(12, 24, 1),
            "se": lambda: SqueezeExcitation(24, 2),
            "downsample": lambda: conv(24, 24, 1, 2),
        },
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_layers_are_made_in_this_order_and_no_others(name):
    build, parts = MADE[name]
    mr.manual_seed(3)
    block = build()
    mr.manual_seed(3)
    by_hand = nn.Sequential({part: make() for part, make in parts.items()})
    assert [*block.state_dict()] == [*by_hand.state_dict()]
    for key, value in by_hand.state_dict().items():
        np.testing.assert_array_equal(block.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    for part in parts:
        assert repr(getattr(block, part)) == repr(getattr(by_hand, part))
    assert block.dropout.p == 0.1


def test_the_rest_of_a_block_has_no_weights():
    block = BasicBlock(4, 6, 2, shortcut="A")
    assert [part for part, _ in block.named_children()] == [
        *("conv1", "bn1", "conv2", "bn2", "relu", "downsample")
    ]
    assert isinstance(block.downsample, OptionA)
    assert (block.dropout, block.se, block.survival) == (None, None, 1)

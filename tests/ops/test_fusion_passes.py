"""Fusion happens: which passes a block costs, and which memory it holds."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays
from ops.fused import Torchvision, Written, both_ways, build, conv, is_lazy

import minires as mr
from minires import nn
from minires.kernels.numba import allocator
from minires.models.blocks import BasicBlock, Bottleneck, PlainBlock, PreActBlock
from minires.nn import BatchNorm2d
from minires.ops.layout import channels_last


def kinds(launches):
    """Everything that is not part of a convolution or its statistics, nor a matter of some numbers
    per channel, in order."""
    of_channels = ("batch_norm.affine", "batch_norm.add_up", "batch_norm.share_and_slope")
    small = ("conv2d.", "statistics.", "prologue.repeat", *of_channels)
    return [name for name in launches if not name.startswith(small)]


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
    assert is_lazy(h)
    launches.clear()
    y.backward(mr.randn(*y.shape))
    assert kinds(launches) == ["batch_norm.bwd_affine"]
    assert is_lazy(h)


def test_no_fusion_is_what_it_says(launches):
    net, x = layers(), mr.randn(2, 16, 8, 8, requires_grad=True)
    with mr.no_fusion():
        h = net.b1(net.c1(x)).relu()
    names = set(kinds(launches))
    assert {"batch_norm.statistics", "batch_norm.fwd", "relu.fwd"} <= names
    assert {"alone.BatchNorm", "alone.ReLU"} <= names
    assert not is_lazy(h)


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
    net, x = layers(), channels_last(mr.randn(4, 16, 32, 32)).requires_grad_()
    one = allocator.size_class(x._array.nbytes)
    before = allocator.in_use()
    y = net.c2(net.b1(net.c1(x)).relu())
    assert y.shape == x.shape
    y.sum()
    assert allocator.in_use() - before == 2 * one
    gradient = mr.ones(*y.shape)
    y.backward(gradient)
    x.grad = net.c1.weight.grad = net.c2.weight.grad = None
    assert allocator.in_use() - before == one  # y; what the graph saved is released
    del y
    assert allocator.in_use() == before


@pytest.mark.parametrize("block", [BasicBlock, Torchvision, PreActBlock, Bottleneck])
def test_memory_comes_back_after_backward(block):
    """Though the loss is still held, as in every training loop until the next one is there."""
    net, x = made(lambda: block(16, 16, 2), (4, 16, 32, 32))
    net.zero_grad()
    before = allocator.in_use()
    loss = net(x).sum()
    assert allocator.in_use() > before
    loss.backward()
    x.grad = None
    net.zero_grad()
    assert allocator.in_use() == before
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


def stem_and_images():
    """A stem, and images whose array the caller holds, in the kernels' memory order."""
    net = build(lambda: Written(None, c1=conv(3, 16), b1=BatchNorm2d(16)), "float32")
    rows = arrays((4, 8, 8, 3))[0].astype("float32")
    return net, rows, mr.from_nhwc(rows)


def test_a_stem_waits_for_its_batch_norm_though_its_images_are_held(launches):
    net, rows, x = stem_and_images()
    y = net.b1(net.c1(x)).relu()
    assert kinds(launches) == []  # statistics came with the convolution
    _ = y._array
    launches.clear()
    with mr.no_grad():
        y = net.eval().b1(net.c1(x)).relu()
        rows[...] = 7  # unseen: what waits read a copy
        _ = y._array
        assert kinds(launches) == []
        later = net.b1(net.c1(x)).relu()
    assert (y - later).abs().max().item() > 0.1


def test_writing_images_after_a_stem_is_not_seen():
    def run():
        net, rows, x = stem_and_images()
        y = net.b1(net.c1(x)).relu()
        rows[...] = 7
        return y._array.copy()

    both_ways(run, 1e-5)

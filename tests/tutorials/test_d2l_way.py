"""The Dive-into-Deep-Learning way: counts, shapes, training, and the exercises."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr

SHAPES = """\
0               Conv2d            64x112x112
1               BatchNorm2d       64x112x112
2               ReLU              64x112x112
3               MaxPool2d         64x56x56
resnet_block1   Sequential        64x56x56
resnet_block2   Sequential        128x28x28
resnet_block3   Sequential        256x14x14
resnet_block4   Sequential        512x7x7
global_avg_pool AdaptiveAvgPool2d 512x1x1
fc              Sequential        10
"""


@pytest.mark.slow
def test_parameters_and_shapes(tutorial, capsys):
    chapter = tutorial("d2l_way")
    net = chapter.resnet18()
    assert sum(p.numel() for p in net.parameters()) == 11_178_378
    chapter.print_shapes(net, mr.rand(1, 1, 224, 224))
    assert capsys.readouterr().out == SHAPES


def test_residual_as_written_out(tutorial):
    """Y = relu(bn(conv(relu(bn(conv X)))) + conv1x1 X), against the operations themselves."""
    block = tutorial("d2l_way").Residual(3, 4, use_1x1conv=True, strides=2).double()
    x = mr.randn(2, 3, 7, 6, dtype="float64")
    p = dict(block.named_parameters())

    def normal(y, name):
        y = y.data
        y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
        weight, bias = p[f"{name}.weight"].data, p[f"{name}.bias"].data
        return mr.from_numpy(y * weight.reshape(1, 4, 1, 1) + bias.reshape(1, 4, 1, 1))

    first = mr.conv2d(x, p["conv1.weight"], p["conv1.bias"], stride=2, padding=1)
    middle = mr.relu(normal(first, "bn1"))
    second = mr.conv2d(middle, p["conv2.weight"], p["conv2.bias"], padding=1)
    short = mr.conv2d(x, p["conv3.weight"], p["conv3.bias"], stride=2)
    expected = mr.relu(normal(second, "bn2") + short)
    np.testing.assert_allclose(block(x).data, expected.data, rtol=1e-12, atol=1e-13)


def test_resize_is_bilinear(tutorial):
    rng = np.random.default_rng(0)
    x = rng.random((2, 5, 7, 3), dtype=np.float32)
    y = tutorial("d2l_way").Resize(13)(x, None)
    assert y.shape == (2, 13, 13, 3)
    for image, row, column in ((0, 0, 0), (1, 6, 6), (1, 12, 3)):
        a, b = (np.clip((p + 0.5) * n / 13 - 0.5, 0, n - 1) for p, n in ((row, 5), (column, 7)))
        i, j = min(int(a), 3), min(int(b), 5)
        u, v = a - i, b - j
        corners = x[image, i : i + 2, j : j + 2]
        weights = np.outer([1 - u, u], [1 - v, v])
        expected = (corners * weights[..., None]).sum((0, 1))
        np.testing.assert_allclose(y[image, row, column], expected, rtol=1e-5)


@pytest.mark.slow
def test_parity_of_resize(tutorial):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), (96, 96), mode="bilinear"
    )
    ours = tutorial("d2l_way").Resize(96)(x, None)
    np.testing.assert_allclose(ours[..., 0], theirs[:, 0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_training_script(tutorial, capsys):
    result = tutorial("d2l_way").main(["--quick"])
    out = capsys.readouterr().out
    assert "11,178,378 parameters\n" + SHAPES in out
    assert "epoch 1: loss" in out
    assert np.isfinite(result["loss"])


@pytest.mark.slow
def test_exercises_script(tutorial, capsys):
    result = tutorial("d2l_exercises").main(["--quick"])
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["18", "Residual", "11,692,520", "1.81", "G", "1.8", "G"]
    assert out[2].split() == ["50", "Bottleneck", "25,575,912", "3.86", "G", "3.8", "G"]
    assert list(result["identities"].values()) == [True, False, True]
    assert result["unchanged"]
    assert result["awake"] > 0


def test_bottleneck_and_preactivation_in_a_network(tutorial):
    """One block of each per stage: it runs, and all parameters get a gradient."""
    exercises = tutorial("d2l_exercises")
    for block in (exercises.Bottleneck, exercises.PreActivation):
        net = exercises.resnet(block, (1, 1, 1, 1), in_channels=1, num_classes=5)
        logits = net(mr.rand(2, 1, 64, 64))
        assert logits.shape == (2, 5)
        mr.cross_entropy(logits, mr.tensor([1, 3])).backward()
        assert all(p.grad is not None for p in net.parameters())


def test_a_plain_block_is_no_identity(tutorial):
    """The control: without the addition, zero weights give zeros."""
    block = tutorial("d2l_exercises").zero_block(4)
    x = mr.relu(mr.randn(2, 4, 5, 5))
    plain = mr.relu(block.bn2(block.conv2(mr.relu(block.bn1(block.conv1(x))))))
    assert (block(x) == x).all().item()
    assert not (plain != 0).any().item()

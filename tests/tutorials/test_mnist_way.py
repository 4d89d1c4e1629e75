"""The MNIST way: the script, the checkpoint it keeps, and its evaluation."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.data import Normalize


@pytest.mark.slow
def test_script(tutorial, capsys):
    result = tutorial("mnist_way").main(["--quick"])
    out = capsys.readouterr().out
    assert "validation loss" in out
    assert f"checkpoint of step {result['step']}: test loss" in out
    assert 0 <= result["accuracy"] <= 1


def test_network(tutorial):
    net = tutorial("mnist_way").network()
    assert sum(p.numel() for p in net.parameters()) == 11_172_810
    sizes = []
    for stage in (net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4):
        stage.register_forward_hook(lambda module, args, out: sizes.append(out.shape[2]))
    net(mr.rand(2, 1, 28, 28))
    assert sizes == [14, 14, 7, 4, 2]


def test_pixels_become_minus_one_to_one():
    x = np.array([0, 0.5, 1], np.float32).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(Normalize([0.5], [0.5])(x, None).ravel(), [-1, 0, 1])


def linear(logit):
    """A network that says class 1 with this logit, whatever it sees."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    net[1].bias.data[...] = [0, logit]
    return net


def test_evaluate(tutorial):
    mnist = tutorial("mnist_way")
    net = linear(2.0)
    batches = [(mr.zeros(3, 1, 2, 2), mr.tensor([1, 1, 0])), (mr.zeros(1, 1, 2, 2), mr.tensor([1]))]
    loss, accuracy = mnist.evaluate(net, batches)
    assert accuracy == 0.75
    assert loss == pytest.approx(0.75 * np.log1p(np.exp(-2)) + 0.25 * np.log1p(np.exp(2)))
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_the_best_weights_are_kept(tutorial, tmp_path, capsys):
    """A rate so large that every step makes it worse: what is kept is the first validation."""
    mnist = tutorial("mnist_way")
    net = linear(3.0)
    wrong = [(mr.zeros(2, 1, 2, 2), mr.tensor([0, 0]))] * 5
    right = [(mr.zeros(2, 1, 2, 2), mr.tensor([1, 1]))]
    optimizer = optim.SGD(net.parameters(), lr=1.0)
    path = tmp_path / "best.safetensors"
    mnist.train(net, wrong, right, optimizer, 1, path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("kept") for line in lines[1:]] == [True, False, False, False, False]
    kept = linear(0.0)
    assert mnist.restore(kept, path) == 1
    bias = kept[1].bias.data
    p = 1 / (1 + np.exp(-3.0))
    np.testing.assert_allclose(bias, [p, 3 - p], rtol=1e-6)
    assert net[1].bias.data[1] < bias[1]

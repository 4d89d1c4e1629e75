"""Every layer and block against differences: inputs and parameters, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, distinct, host, place, tensor, there

import minires as mr
from minires import nn
from minires.gradcheck import check, check_module
from minires.models import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
    cifar_plain,
    cifar_resnet,
)

LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, groups=2), (2, 2, 4, 3)),
    "Linear": (lambda: nn.Linear(3, 2), (4, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), (2, 2, 3, 1)),
    "BatchNorm2d_affine_off": (lambda: nn.BatchNorm2d(2, affine=False), (2, 2, 3, 1)),
    "ReLU": (nn.ReLU, (2, 3)),
    "Sigmoid": (nn.Sigmoid, (2, 3)),
    "Tanh": (nn.Tanh, (2, 3)),
    "Softmax": (lambda: nn.Softmax(dim=1), (2, 3)),
    "LogSoftmax": (lambda: nn.LogSoftmax(dim=1), (2, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, stride=1), (1, 2, 3, 4)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2, padding=1), (1, 2, 3, 4)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (1, 2, 3, 4)),
    "Flatten": (nn.Flatten, (2, 3, 2, 1)),
    "Identity": (nn.Identity, (2, 3)),
    "Dropout_in_evaluation": (lambda: nn.Dropout(0.5).eval(), (2, 3)),
}
BLOCKS = {
    "PlainBlock": lambda: PlainBlock(2, 3, 2),
    "BasicBlock_identity": lambda: BasicBlock(2, 2),
    "BasicBlock_A": lambda: BasicBlock(2, 4, 2, shortcut="A"),
    "BasicBlock_B": lambda: BasicBlock(2, 3, 2, shortcut="B"),
    "BasicBlock_C": lambda: BasicBlock(2, 2, shortcut="C"),
    "Bottleneck": lambda: Bottleneck(2, 1, 2),
    "Bottleneck_v1": lambda: Bottleneck(2, 1, 2, stride_in="1x1"),
    "PreActPlainBlock": lambda: PreActPlainBlock(2, 3, 2),
    "PreActBlock": lambda: PreActBlock(2, 2),
    "PreActBlock_B": lambda: PreActBlock(2, 3, 2, shortcut="B"),
    "PreActBottleneck": lambda: PreActBottleneck(2, 1, 2),
}


def assert_gradients(module, x, second=False):
    x = tensor(x, requires_grad=True)
    module.double().to(place())
    options = {"probes": 2} if place() == "cuda" else {}  # of the Jacobian, each with many launches
    check_module(module, x, **options).assert_ok()
    if second:
        check_module(module, x, second_order=True, **options).assert_ok()


@pytest.mark.slow
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_layer_gradients(case, anywhere):
    make, shape = case
    assert_gradients(make(), distinct(shape)[0], second=True)


@pytest.mark.slow
@pytest.mark.gpu_cases(only=["BasicBlock_B", "PreActBottleneck"])
@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_block_gradients_in_training(make, anywhere):
    assert_gradients(make(), arrays((2, 2, 4, 3), seed=4)[0])


@pytest.mark.slow
@pytest.mark.gpu_cases(only=["BasicBlock_B", "PreActBottleneck"])
@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_block_gradients_in_evaluation(make, anywhere):
    block = make()
    block.double().to(place())
    block(tensor(arrays((2, 2, 4, 3), seed=4)[0]))  # statistics to evaluate with
    assert_gradients(block.eval(), arrays((1, 2, 3, 4), seed=5)[0])


def test_loss_layer_gradients(anywhere):
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    labels = tensor([1, 0, 2])
    x = tensor(arrays((3, 3))[0], requires_grad=True)
    check(lambda x: loss(x, labels), x).assert_ok()


@pytest.mark.parametrize("make", [cifar_plain, cifar_resnet])
def test_network_gradients(make, device):
    """A whole network, along random directions: |J d| by backward and by differences."""
    net = make(8, in_channels=1)
    net.double().to(place())
    x = tensor(arrays((4, 1, 6, 5))[0])
    labels = tensor([0, 3, 9, 1])

    def loss():
        return mr.cross_entropy(net(x), labels)

    loss().backward()
    rng = np.random.default_rng(0)
    for _ in range(3):
        parameters = list(net.parameters())
        steps = [rng.standard_normal(p.shape) for p in parameters]
        slope = sum(float((host(p.grad) * d).sum()) for p, d in zip(parameters, steps))
        steps = [there(d).data for d in steps]
        ends = []
        for h in (1e-6, -1e-6):
            for p, d in zip(parameters, steps):
                p.data += h * d
            with mr.no_grad():
                ends.append(loss().item())
            for p, d in zip(parameters, steps):
                p.data -= h * d
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)

"""Layers take what ops take: every kind of integer and real number, and no bool in their place."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import models, nn
from minires.errors import ArgumentError
from minires.nn import functional as F

INTEGERS = [
    int,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint64,
    np.intp,
    np.array,
    mr.tensor,
]
NUMBERS = [float, np.float16, np.float32, np.float64, np.longdouble, np.array]

# Each constructor: arguments of integers and of numbers; flags are given to none.
LAYERS = {
    "Linear": (lambda i, _: nn.Linear(i(4), i(3))),
    "Conv2d": (lambda i, _: nn.Conv2d(i(4), i(2), i(3), i(1), (i(1), 0), [i(1), i(1)], i(2))),
    "ConvTranspose2d": (
        lambda i, _: nn.ConvTranspose2d(
            i(4), i(2), (i(3), 2), i(2), i(1), i(1), i(2), dilation=i(1)
        )
    ),
    "MaxPool2d": (lambda i, _: nn.MaxPool2d(i(2), i(2), (i(1), i(0)), i(1))),
    "AvgPool2d": (lambda i, _: nn.AvgPool2d([i(2), i(2)], i(1), i(0))),
    "AdaptiveAvgPool2d": (lambda i, _: nn.AdaptiveAvgPool2d((i(2), None))),
    "one output": (lambda i, _: nn.AdaptiveAvgPool2d(i(2))),
    "ZeroPad2d": (lambda i, _: nn.ZeroPad2d((i(1), i(0), i(2), i(1)))),
    "one padding": (lambda i, _: nn.ZeroPad2d(i(1))),
    "Flatten": (lambda i, _: nn.Flatten(i(1), i(2))),
    "Softmax": (lambda i, _: nn.Softmax(i(1))),
    "LogSoftmax": (lambda i, _: nn.LogSoftmax(i(1))),
    "BatchNorm2d": (lambda i, x: nn.BatchNorm2d(i(4), x(0.5), x(0.25))),
    "GroupNorm": (lambda i, x: nn.GroupNorm(i(2), i(4), x(0.5))),
    "LayerNorm": (lambda i, x: nn.LayerNorm((i(6), i(6)), x(0.5))),
    "LayerNorm of one": (lambda i, x: nn.LayerNorm(i(6), x(0.5))),
    "Dropout": (lambda _, x: nn.Dropout(x(0.5))),
    "Dropout2d": (lambda _, x: nn.Dropout2d(x(0.5))),
    "LeakyReLU": (lambda _, x: nn.LeakyReLU(x(0.25))),
    "CrossEntropyLoss": (
        lambda i, x: nn.CrossEntropyLoss(ignore_index=i(3), label_smoothing=x(0.5))
    ),
    "NLLLoss": (lambda i, _: nn.NLLLoss(ignore_index=i(3))),
    "BasicBlock": (
        lambda i, x: models.BasicBlock(
            i(4), i(4), i(1), dropout=x(0.5), reduction=i(2), survival=x(0.5)
        )
    ),
    "Bottleneck": (lambda i, _: models.Bottleneck(i(4), i(4), i(2), groups=i(2), dilation=i(1))),
    "OptionA": (lambda i, _: models.OptionA(i(4), i(8), i(2))),
    "SqueezeExcitation": (lambda i, _: models.SqueezeExcitation(i(4), i(2))),
    "cifar_resnet": (lambda i, x: models.cifar_resnet(i(8), num_classes=i(3), in_channels=i(4))),
    "ResNet": (lambda i, _: models.ResNet(models.BasicBlock, [i(1), i(0), i(0), i(0)], i(3))),
    "wide": (lambda i, _: models.cifar_wide_resnet(i(10), i(1), num_classes=i(3))),
}


def plain(value):
    """Whether everything kept is Python's own, down to the entries of tuples."""
    entries = value if isinstance(value, tuple) else (value,)
    return all(not isinstance(e, np.generic | np.ndarray | mr.Tensor) for e in entries)


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("integer", INTEGERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "name", [name for name in LAYERS if name not in ("cifar_resnet", "ResNet", "wide")]
)
def test_every_kind_of_number_makes_the_same_layer(name, integer, number):
    mr.manual_seed(0)
    layer = LAYERS[name](integer, number)
    mr.manual_seed(0)
    usual = LAYERS[name](int, float)
    assert repr(layer) == repr(usual)
    for module in layer.modules():
        for key, value in vars(module).items():
            if not isinstance(value, mr.Tensor | nn.Module):
                assert plain(value), f"{key} is a {type(value).__name__}"
    for one, other in zip(layer.parameters(), usual.parameters()):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.array], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["cifar_resnet", "ResNet", "wide"])
def test_networks_take_them_too(name, integer):
    assert repr(LAYERS[name](integer, np.float32)) == repr(LAYERS[name](int, float))


def test_the_reported_ones():
    assert nn.Linear(np.prod((1, 28, 28)), 10).in_features == 784
    assert nn.Conv2d(np.int64(3), 8, 3, stride=np.int64(1)).stride == (1, 1)
    assert repr(nn.Dropout(np.float32(0.5))) == "Dropout(p=0.5)"
    x = mr.ones(1, 3, 4, 4)
    y = F.conv2d(x, mr.ones(2, 3, 3, 3), stride=np.int64(1), padding=np.int64(1))
    layer = nn.Conv2d(np.int64(3), np.int64(2), np.int64(3), np.int64(1), np.int64(1))
    assert layer(x).shape == y.shape


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: nn.Linear(bad, 3),
        lambda bad: nn.Conv2d(3, bad, 3),
        lambda bad: nn.Conv2d(3, 3, (bad, 1)),
        lambda bad: nn.MaxPool2d(bad),
        lambda bad: nn.Dropout(bad),
        lambda bad: nn.BatchNorm2d(3, eps=bad),
        lambda bad: nn.LayerNorm([3, bad]),
        lambda bad: nn.Softmax(bad),
        lambda bad: models.cifar_resnet(bad),
        lambda bad: models.create("cifar_resnet8", num_classes=bad),
    ],
)
@pytest.mark.parametrize(
    "bad", [True, np.True_, np.array(True), mr.tensor(True), "1", None, 1j], ids=repr
)
def test_bools_are_neither_integers_nor_numbers(make, bad):
    with pytest.raises(ArgumentError):
        make(bad)


@pytest.mark.parametrize("flag", [1, 0, "yes", None, np.array(True)], ids=repr)
def test_flags_are_true_or_false(flag):
    for make in (
        lambda: nn.Linear(2, 2, bias=flag),
        lambda: nn.BatchNorm2d(2, affine=flag),
        lambda: nn.ReLU(inplace=flag),
        lambda: nn.MaxPool2d(2, ceil_mode=flag),
        lambda: models.cifar_resnet(8, pre_activation=flag),
    ):
        with pytest.raises(ArgumentError, match="True or False, got"):
            make()


TOO_LARGE = {
    "blocks": lambda: models.cifar_resnet(2**31),
    "2**31 blocks": lambda: models.ResNet(models.BasicBlock, [2**31 - 1] * 4),
    "blocks beyond all integers": lambda: models.cifar_resnet(10**400),
    "width": lambda: models.cifar_wide_resnet(28, 10**9),
    "classes": lambda: models.create("resnet50", num_classes=2**31 - 1),
    "more classes": lambda: models.create("resnet50", num_classes=2**31),
    "groups": lambda: models.resnet50(groups=10**7),
    "channels": lambda: models.resnet18(in_channels=2**31 - 1),
    "image": lambda: models.keras_resnet50((3, 2**31 - 1, 2**31 - 1)),
    "linear": lambda: nn.Linear(2**31 - 1, 2**31 - 1),
    "linear above": lambda: nn.Linear(2**31, 2**31),
    "convolution": lambda: nn.Conv2d(10**6, 10**6, 10**3),
    "kernel": lambda: nn.ConvTranspose2d(1, 1, 2**31 - 1),
    "norm": lambda: nn.LayerNorm((2**31 - 1, 2**31 - 1)),
    "input": lambda: nn.summary(nn.ReLU(), (2**31 - 1, 2**31 - 1)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_no_machine_can_build_is_refused_at_once(name, monkeypatch):
    drawn = []
    monkeypatch.setattr(nn.init, "uniform_", lambda *_: drawn.append("uniform_"))
    with pytest.raises(ArgumentError) as caught:
        TOO_LARGE[name]()
    assert len(str(caught.value)) < 500
    assert len(drawn) <= 1  # a stem

from pathlib import Path

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.models import create
from minires.nn import summary


def small():
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 1), stride=2, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 2 * 3, 10),
    )


def test_counts_by_hand():
    s = summary(small(), (1, 4, 6, 5))
    # conv: 8 * 2 * 3 outputs, each 4 / 2 * 3 * 1 products; linear: 48 * 10
    assert [row.mult_adds for row in s.rows] == [8 * 2 * 3 * 6, 0, 0, 0, 480]
    assert [row.params for row in s.rows] == [8 * 2 * 3, 16, 0, 0, 490]
    assert [row.output_shape for row in s.rows] == [
        (1, 8, 2, 3),
        (1, 8, 2, 3),
        (1, 8, 2, 3),
        (1, 48),
        (1, 10),
    ]
    assert [row.kind for row in s.rows] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert s.total_mult_adds == 288 + 480
    assert s.total_params == s.trainable_params == 48 + 16 + 490
    assert summary(small(), (3, 4, 6, 5)).total_mult_adds == 3 * s.total_mult_adds


def test_text():
    net = nn.Sequential(nn.Linear(3, 2000), nn.ReLU())
    assert str(summary(net, (1, 3))).splitlines() == [
        "Sequential on input (1, 3)",
        "----------------------------------------------------------------",
        "layer       output shape  parameters  mult-adds  output kB  kept",
        "----------------------------------------------------------------",
        "0 (Linear)  (1, 2000)          8,000      6,000        8.0   0.0",
        "1 (ReLU)    (1, 2000)              0          0        8.0   8.0",
        "----------------------------------------------------------------",
        "total                          8,000      6,000       16.0   8.0",
        "----------------------------------------------------------------",
        "parameters 8,000 (trainable 8,000)",
        "multiply-adds 6.00 k for this batch of 1; convolutions and matrix products only",
        "kept for the backward pass 8.01 kB",  # with the input of 12 bytes
    ]
    small = str(summary(nn.ReLU(), (1, 3))).splitlines()
    assert small[2:5:2] == [
        "layer  output shape  parameters  mult-adds  output B  kept",
        "ReLU   (1, 3)                 0          0        12     0",
    ]


def test_memory_by_hand():
    s = summary(small(), (2, 4, 6, 5))
    maps, channel = 2 * 8 * 2 * 3 * 4, 8 * 4
    image = 2 * 4 * 6 * 5 * 4
    # the flattened maps and a view of the weight are memory that was there before
    assert [row.output_bytes for row in s.rows] == [maps, maps, maps, 0, 2 * 10 * 4]
    # conv keeps the image in channels-last order, batch norm the maps and two numbers for each
    # channel, the rectifier its result, which linear wants in row-major order
    assert [row.kept_bytes for row in s.rows] == [image, maps + 2 * channel, maps, 0, maps]
    assert s.total_output_bytes == 3 * maps + 80
    assert s.total_kept_bytes == image + 3 * maps + 2 * channel


def test_what_needs_no_gradient_keeps_nothing():
    assert summary(small().requires_grad_(False), (2, 4, 6, 5)).total_kept_bytes == 0


def test_functions_in_a_forward_count_for_their_module():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return mr.relu(self.fc(x) @ mr.ones(4, 5)) + 1

    block, fc = summary(nn.Sequential(Block()), (2, 4)).rows
    assert (block.name, block.kind, block.params, block.mult_adds) == ("0", "Block", 0, 40)
    # kept: the matrix of ones, and the rectifier's result
    assert (block.output_bytes, block.kept_bytes) == (40, 80 + 40)
    assert (fc.mult_adds, fc.output_bytes, fc.kept_bytes) == (32, 32, 32)


def test_transposed_convolution_by_hand():
    s = summary(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 7))
    assert s.total_mult_adds == 4 * 5 * 7 * 3 * 9  # every input entry meets 6 / 2 kernels of 3x3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "params", "mult_adds"),
    [  # torchvision's table; He et al. 2015, Table 1; and the 6n+2 family counted by hand
        ("resnet18", 224, 11_689_512, 1.814e9),
        ("resnet50", 224, 25_557_032, 4.089e9),
        ("cifar_resnet20", 32, 269_722, 40.55e6),
    ],
)
def test_published_counts(name, size, params, mult_adds):
    s = summary(create(name), (1, 3, size, size))
    assert s.total_params == params
    assert s.total_mult_adds == pytest.approx(mult_adds, rel=2e-4)


def test_tensors_as_input():
    x = mr.randn(2, 4, 6, 5)
    assert str(summary(small(), x)) == str(summary(small(), (2, 4, 6, 5)))
    assert summary(small().double(), (2, 4, 6, 5)).rows[0].output_bytes == 2 * 8 * 2 * 3 * 8


def test_leaves_no_trace():
    net = small()
    net[1].eval()
    net.register_forward_hook(lambda m, a, out: None)
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    state = mr.random.get_state()
    summary(net, (2, 4, 6, 5))
    assert [m.training for m in net.modules()] == [True, True, False, True, True, True]
    assert mr.random.get_state() == state
    assert len(net._forward_hooks) == 1
    assert not net[0]._forward_hooks
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_restores_modes_when_the_input_does_not_fit():
    net = small()
    with pytest.raises(ValueError, match="expected"):
        summary(net, (1, 3, 6, 5))
    assert net.training
    assert not net[0]._forward_hooks


def test_shared_unused_and_frozen_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3, bias=False)
            self.scale = nn.Parameter(mr.ones(1))
            self.spare = nn.Linear(3, 1)

        def forward(self, x):
            return self.fc(self.fc(x)) * self.scale

    net = Net()
    net.spare.requires_grad_(False)
    s = summary(net, (1, 3))
    assert [(row.name, row.params, row.mult_adds, row.output_shape) for row in s.rows] == [
        ("", 1, 0, (1, 3)),
        ("fc", 9, 18, (1, 3)),
        ("spare", 4, 0, None),
    ]
    assert (s.total_params, s.trainable_params) == (14, 10)
    assert "not called" in str(s)


def test_dtype_follows():
    assert summary(small().double(), (1, 4, 6, 5), dtype=np.float64).total_params == 554


@pytest.mark.parametrize("size", [(3,), (0, 3), (1, 2.5), (), "13", 3, None, (True, 3)])
def test_bad_input_size(size):
    words = "summary: expected a tensor, or a shape of integers >= 1, batch first, such as"
    with pytest.raises(ArgumentError, match=words):
        summary(small(), size)


def test_bad_network():
    with pytest.raises(ArgumentError, match="summary: expected a Module as network, got function"):
        summary(lambda x: x, (1, 3))


def test_fits_a_terminal():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a_rather_long_name_for_a_layer" * 3, nn.Conv2d(1, 1, 1))

        def forward(self, x):
            return next(self.children())(x)

    assert max(map(len, str(summary(Deep(), (1, 1, 224, 224))).splitlines())) <= 100


def test_the_table_in_the_documentation():
    page = Path(__file__).parents[2] / "docs/export.md"
    assert str(summary(create("cifar_resnet8"), (1, 3, 32, 32))) in page.read_text("utf-8")

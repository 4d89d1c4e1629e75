import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError
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
        "-----------------------------------------------",
        "layer       output shape  parameters  mult-adds",
        "-----------------------------------------------",
        "0 (Linear)  (1, 2000)          8,000      6,000",
        "1 (ReLU)    (1, 2000)              0          0",
        "-----------------------------------------------",
        "parameters 8,000 (trainable 8,000)",
        "multiply-adds 0.01 M for this batch of 1; convolutions and linear layers only",
    ]


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


@pytest.mark.parametrize("size", [(3,), (0, 3), (1, 2.5), ()])
def test_bad_input_size(size):
    with pytest.raises(ArgumentError, match="summary: expected input_size as integers >= 1, batch"):
        summary(small(), size)


def test_fits_a_terminal():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a_rather_long_name_for_a_layer" * 3, nn.Conv2d(1, 1, 1))

        def forward(self, x):
            return next(self.children())(x)

    assert max(map(len, str(summary(Deep(), (1, 1, 224, 224))).splitlines())) <= 100

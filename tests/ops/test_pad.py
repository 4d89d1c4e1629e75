"""Padding: every mode by hand and against NumPy, negative widths, gradients, memory, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, check_gradients, host, raises, tensor

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError

NUMPY = {"reflect": "reflect", "replicate": "edge", "circular": "wrap", "constant": "constant"}


def test_by_hand(device):
    x = tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    expected = {
        "constant": [0, 0, 1, 2, 3, 0],
        "reflect": [3, 2, 1, 2, 3, 2],
        "replicate": [1, 1, 1, 2, 3, 3],
        "circular": [2, 3, 1, 2, 3, 1],
    }
    gradients = {  # how often each entry stands there
        "constant": [1, 1, 1],
        "reflect": [1, 3, 2],
        "replicate": [3, 1, 2],
        "circular": [2, 2, 2],
    }
    for mode, row in expected.items():
        x.grad = None
        y = mr.pad(x, (2, 1), mode=mode)
        assert y.tolist() == [row], mode
        y.sum().backward()
        assert x.grad.tolist() == [gradients[mode]], mode


@pytest.mark.parametrize("mode", NUMPY)
@pytest.mark.parametrize("widths", [(1, 2), (0, 3), (2, 2, 1, 0), (1, 0, 0, 2, 1, 1), ()])
def test_against_numpy(mode, widths):
    (x,) = arrays((3, 4, 5))
    pairs = [*zip(widths[::2], widths[1::2])][::-1]
    pairs = [(0, 0)] * (3 - len(pairs)) + pairs
    expected = np.pad(x, pairs, mode=NUMPY[mode])
    np.testing.assert_array_equal(host(mr.pad(mr.tensor(x), widths, mode=mode)), expected)
    swapped = mr.tensor(np.ascontiguousarray(x.transpose(2, 0, 1))).permute(1, 2, 0)
    np.testing.assert_array_equal(host(mr.pad(swapped, widths, mode=mode)), expected)


@pytest.mark.parametrize("mode", NUMPY)
def test_gradients(mode):
    for widths in ((1, 2), (2, 0, 1, 1), (-1, 2, 0, -1)):
        check_gradients(lambda x, w=widths: mr.pad(x, w, mode=mode) ** 2, arrays((2, 3, 4)))


def test_negative_widths_cut():
    x = mr.tensor([1, 2, 3, 4])
    assert mr.pad(x, (-1, 2), mode="reflect").tolist() == [2, 3, 4, 3, 2]
    assert mr.pad(x, (-4, 2), mode="replicate").tolist() == [4, 4]
    assert mr.pad(x, (-1, 2), mode="circular").tolist() == [2, 3, 4, 2, 3]
    assert mr.pad(x, (-2, 1)).tolist() == [3, 4, 0]
    assert mr.pad(x, (-2, -2), mode="circular").shape == (0,)


def test_integers_and_bools_take_whole_values():
    assert mr.pad(mr.tensor([1, 2]), (1, 0), 7.0).tolist() == [7, 1, 2]
    assert mr.pad(mr.tensor([False]), (1, 0), 1.0).tolist() == [True, False]
    with raises(DTypeError, "pad: a int64 tensor and the float 0.5 do not mix"):
        mr.pad(mr.tensor([1, 2]), (1, 0), 0.5)


def test_widest():
    x = mr.tensor([1, 2, 3])
    assert mr.pad(x, (2, 2), mode="reflect").tolist() == [3, 2, 1, 2, 3, 2, 1]
    assert mr.pad(x, (3, 3), mode="circular").tolist() == [1, 2, 3] * 3
    assert mr.pad(x, (0, 100), mode="replicate").tolist() == [1, 2, *[3] * 101]
    assert mr.pad(x[:1], (3, 0), mode="replicate").tolist() == [1] * 4


def test_the_result_has_memory_of_its_own():
    x = mr.ones(2, 3)
    for mode in NUMPY:
        y = mr.pad(x, (1, 1), mode=mode)
        y.fill_(7)
        assert x.tolist() == [[1] * 3] * 2, mode


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda x: mr.pad(x, (3, 0), mode="reflect"), ShapeError, "widths of at most 2 with mode"),
        (
            lambda x: mr.pad(x, (0, 4), mode="circular"),
            ShapeError,
            "at most 3 with mode 'circular'",
        ),
        (lambda x: mr.pad(x[:, :0], (1, 0), mode="replicate"), ShapeError, "widths of at most 0"),
        (lambda x: mr.pad(x[:, :0], (1, 0), mode="reflect"), ShapeError, "widths of at most 0"),
        (lambda x: mr.pad(x, (1, 0), mode="mirror"), ArgumentError, "unknown mode 'mirror'"),
        (lambda x: mr.pad(x, (1, 0), mode=None), ArgumentError, "unknown mode 'None'"),
        (
            lambda x: mr.pad(x, (1, 0), 2.0, "reflect"),
            ArgumentError,
            "no value with mode 'reflect'",
        ),
        (lambda x: mr.pad(x, (1, 0), "a", "reflect"), DTypeError, "pad: expected"),
        (lambda x: mr.pad(x, (1,), mode="reflect"), ShapeError, "pairs of widths"),
        (lambda x: mr.pad(x, (-4, 0), mode="circular"), ShapeError, "to leave sizes >= 0"),
    ],
)
def test_errors(call, kind, words):
    with raises(kind, words):
        call(mr.ones(2, 3))

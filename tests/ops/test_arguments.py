"""Arguments of another kind than an operation takes, as slips of the pen make them."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import (
    ArgumentError,
    BoundsError,
    DTypeError,
    NotShared,
    OutOfMemory,
    ShapeError,
)
from minires.nn import functional as F

X = mr.ones(4, 6)
CASES = [
    (lambda: mr.cat(X, X), ArgumentError, "dim an integer or a tuple of them, got a tensor"),
    (lambda: mr.cat(X[0]), DTypeError, "a list of tensors, got one tensor of shape (6,). Pass [x"),
    (lambda: mr.stack(X[0, 0]), DTypeError, "stack: expected a list of tensors, got one tensor o"),
    (lambda: X[2**63], BoundsError, "index: expected what fits an int64, got 9223372036854775808"),
    (lambda: X[0, -(2**64)], BoundsError, "index: expected what fits an int64, got -184467"),
    (lambda: X[np.uint64(2**64 - 1)], BoundsError, "index: expected what fits an int64, got 184"),
    (lambda: X[np.uint64([0, 2**64 - 1])], BoundsError, "index: expected what fits an int64"),
    (lambda: X[[0, 2**63]], DTypeError, "index: expected integers, slices or bools, got float64"),
    (lambda: F.pad(X, [0] * 10**5), ShapeError, "dimensions, got 100000"),
    (lambda: F.layer_norm(X, [6] * 10**4), ShapeError, "x whose last sizes are (6, 6, 6"),
    (lambda: mr.jacobian(lambda x: x, mr.ones(2**20)), OutOfMemory, "f(x) (1048576,) by x"),
    (lambda: mr.vjp(object, X), ArgumentError, "vjp: expected f a function of 1 arguments, got"),
    (lambda: mr.hvp(lambda x, y: x, X, X), ArgumentError, "hvp: expected f a function of 1 arg"),
    (lambda: mr.from_dlpack(np.array([None])), NotShared, "an array that can be shared, got DLP"),
    (lambda: F.dropout([1.0]), DTypeError, "dropout: expected a tensor, got list"),
    (lambda: nn.Dropout2d()(3), DTypeError, "dropout2d: expected a tensor, got int"),
    (lambda: mr.stack(3), DTypeError, "stack: expected a list of tensors, got 3. Pass [x, y]."),
    (lambda: X.split(6 / 3), ArgumentError, "or a list of them, got 2.0. Divide with //."),
    (lambda: X.split("x"), ShapeError, "split: expected integers, got ('x',)"),
    (lambda: X.split(None), ArgumentError, "split_size an integer, or a list of them, got None"),
    (lambda: X.split([1.5, 2.5]), ShapeError, "split: expected integers, got (1.5, 2.5)"),
    (lambda: X.chunk(2.0), ArgumentError, "chunk: expected whole chunks >= 1, got 2.0"),
    (lambda: X.unsqueeze(1.0), ArgumentError, "unsqueeze: expected dim an integer, got 1.0"),
    (lambda: X.unsqueeze(True), ArgumentError, "unsqueeze: expected dim an integer, got True"),
    (lambda: F.pad(X, 1), ShapeError, "pad: expected pairs of widths for at most 2 dims, got (1,)"),
    (lambda: F.softmax(X, None), ArgumentError, "softmax: expected dim an integer, got None. Cl"),
    (lambda: F.log_softmax(X, None), ArgumentError, "log_softmax: expected dim an integer, got N"),
    (lambda: mr.randperm(5.0), ArgumentError, "randperm: expected an integer n >= 0, got 5.0"),
    (lambda: mr.randperm(-1), ArgumentError, "randperm: expected an integer n >= 0, got -1"),
]


@pytest.mark.parametrize(("act", "error", "words"), CASES, ids=[words for *_, words in CASES])
def test_they_are_named(act, error, words):
    with pytest.raises(error, match=re.escape(words)):
        act()


def test_messages_about_many_sizes_are_short():
    with pytest.raises(ShapeError) as caught:
        F.layer_norm(X, list(range(10_000)))
    assert len(str(caught.value)) < 700


def test_sizes_may_come_from_numpy():
    parts = X.split(np.array([1, 3]))
    assert [part.shape for part in parts] == [(1, 6), (3, 6)]
    assert len(X.split(np.int64(2))) == len(X.chunk(np.int64(2))) == 2

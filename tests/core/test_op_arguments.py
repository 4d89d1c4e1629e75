"""Arguments of another kind than an operation takes, as slips of the pen make them."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.nn import functional as F

X = mr.ones(4, 6)
CASES = [
    (lambda: mr.cat(X, X), ArgumentError, "dim an integer or a tuple of them, got a tensor"),
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


def test_sizes_may_come_from_numpy():
    parts = X.split(np.array([1, 3]))
    assert [part.shape for part in parts] == [(1, 6), (3, 6)]
    assert len(X.split(np.int64(2))) == len(X.chunk(np.int64(2))) == 2

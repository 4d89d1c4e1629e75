"""``F.one_hot``: PyTorch's results, and what it says of labels that are none."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError, DTypeError
from minires.nn import functional as F


def test_by_hand():
    y = F.one_hot(mr.tensor([[2], [0]]))
    assert y.tolist() == [[[0, 0, 1]], [[1, 0, 0]]]
    assert (y.dtype, y.requires_grad) == (np.int64, False)
    assert F.one_hot(np.array([1], np.uint8), 2).tolist() == [[0, 1]]
    assert F.one_hot(mr.tensor(1), num_classes=3).tolist() == [0, 1, 0]
    assert F.one_hot(mr.zeros(0, dtype=mr.int64), 4).shape == (0, 4)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 1, 3)])
@pytest.mark.parametrize("options", [{"num_classes": 7}, {}])
def test_parity_with_torch(shape, options):
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).integers(0, 7, shape)
    expected = torch.nn.functional.one_hot(torch.tensor(labels), **options).numpy()
    got = F.one_hot(mr.tensor(labels), **options).numpy()
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype


def test_soft_labels_of_cross_entropy():
    x, labels = mr.randn(4, 3), mr.tensor([2, 0, 1, 1])
    rows = F.one_hot(labels, 3).float()
    assert F.cross_entropy(x, rows).item() == pytest.approx(F.cross_entropy(x, labels).item())


@pytest.mark.parametrize(
    ("labels", "options", "error", "words"),
    [
        ([0.0, 1.0], {}, DTypeError, r"expected integer labels, got float32. Convert .*\.long"),
        ([True], {}, DTypeError, "one_hot: expected integer labels, got bool"),
        (
            [0, 3],
            {"num_classes": 3},
            ArgumentError,
            r"in 0\.\.2, got 3. Labels count from 0",
        ),
        ([0, -1], {}, ArgumentError, r"one_hot: expected labels in 0\.\.0, got -1"),
        ([-1], {}, ArgumentError, "one_hot: expected labels >= 0, got -1"),
        ([-1], {"num_classes": 2}, ArgumentError, r"labels in 0\.\.1, got -1"),
        ([0], {"num_classes": 0}, ArgumentError, "num_classes >= 1, or -1, got 0"),
        ([0], {"num_classes": 2.0}, ArgumentError, "num_classes >= 1, or -1, got 2.0"),
        (np.zeros(0, int), {}, ArgumentError, "num_classes for no labels at all, got -1"),
    ],
)
def test_errors(labels, options, error, words):
    with pytest.raises(error, match=words):
        F.one_hot(mr.tensor(labels), **options)

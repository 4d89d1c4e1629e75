"""Convolution and pooling in one dimension, as functions; their layers are in test_layers.py."""

from __future__ import annotations

import pytest
from parity.sides import BOTH, both_refuse, compare, distinct, each, lines

CASES = [
    *lines(
        """
        F.conv1d(x, w)
        F.conv1d(x, w, b)
        F.conv1d(x, w, b, 2, 1, 1, 1)
        F.conv1d(x, w, stride=(3,), padding=[2])
        F.conv1d(x, w, b, padding="same", dilation=2)
        F.conv1d(x, w[..., :2], padding="same")  # one more on the right
        F.conv1d(x, w, padding="valid")
        F.conv1d(x, w[:, :1], groups=4)
        F.conv1d(x, w[..., :1], b)
        F.conv1d(x[0], w, b, padding=1)
        F.conv1d(x.transpose(0, 2), v)
        F.conv1d(x[..., ::2], w)
        torch.conv1d(x, w, b, 2)
        F.conv1d(x[:0], w)
        """,
        x=(3, 4, 9),
        w=(8, 4, 3),
        b=(8,),
        v=(2, 4, 2),
    ),
    *lines(
        """
        F.max_pool1d(x, 2)
        F.max_pool1d(x, (3,), 2, 1)
        F.max_pool1d(x, 3, 1, 1, 2)
        F.max_pool1d(x, kernel_size=2, stride=2, padding=1, ceil_mode=True)
        F.max_pool1d(x[0], 4)
        F.max_pool1d(input=x, kernel_size=2, return_indices=True)
        F.max_pool1d(x[0], 3, 1, 1, return_indices=True)
        torch.max_pool1d(x, 9)
        F.avg_pool1d(x, 2)
        F.avg_pool1d(x, (3,), 2, 1)
        F.avg_pool1d(x, 3, 2, 1, True, False)
        F.avg_pool1d(x[0], 2, 1)
        F.avg_pool1d(input=x, kernel_size=2)
        torch.avg_pool1d(x, 9)
        F.adaptive_avg_pool1d(x, 1)
        F.adaptive_avg_pool1d(x, (4,))
        F.adaptive_avg_pool1d(x[0], 12)
        torch.adaptive_avg_pool1d(x, 2)
        """,
        x=distinct(2, 3, 9),
    ),
]

WRONG = lines(
    """
    F.conv1d(x, w[:, :2])
    F.conv1d(x, w[0])
    F.conv1d(x[None], w)
    F.conv1d(x[0, 0], w)
    F.conv1d(x, w, stride=0)
    F.conv1d(x, w, stride=(1, 1))
    F.conv1d(x, w, padding=-1)
    F.conv1d(x, w, padding="same", stride=2)
    F.conv1d(x, w, dilation=5)
    F.conv1d(x, 3)
    F.conv1d("x", w)
    F.max_pool1d(x, 0)
    F.max_pool1d(x, 2, padding=2)
    F.max_pool1d(x, 10)
    F.max_pool1d(x[None], 2)
    F.max_pool1d(x, (2, 2))
    F.avg_pool1d(x, 10)
    F.avg_pool1d(x, 2, padding=2)
    F.avg_pool1d(x, 1.5)
    F.adaptive_avg_pool1d(x, -1)
    F.adaptive_avg_pool1d(x, (1, 2))
    """,
    x=(3, 4, 9),
    w=(8, 4, 3),
)


@pytest.mark.slow
@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)

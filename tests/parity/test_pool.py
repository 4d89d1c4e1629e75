"""Pooling: windows, strides, padding, dilation, ceil_mode, count_include_pad, adaptive sizes."""

from itertools import product

import pytest
from parity.sides import (
    ALL,
    both_refuse,
    compare,
    distinct,
    each,
    lines,
    only_ours_refuses,
    refusals,
    ties,
    whole,
)


def sweep(pattern, *choices):
    """The pattern once for every combination of the choices, a line each."""
    return "\n".join(pattern.format(*row) for row in product(*choices))


CASES = [
    *lines(
        """
        F.max_pool2d(x, 2)
        F.max_pool2d(x, 3)
        F.max_pool2d(x, 1)
        F.max_pool2d(x, (2, 3))
        F.max_pool2d(x, [3, 2])
        F.max_pool2d(x, 2, 1)
        F.max_pool2d(x, 3, 2, 1)  # the stem of an ImageNet network
        F.max_pool2d(x, 3, 2, 1, 1, False)
        F.max_pool2d(x, 2, stride=(1, 2))
        F.max_pool2d(x, 2, stride=3)  # skips pixels
        F.max_pool2d(x, (3, 1), stride=(2, 1), padding=(1, 0))
        F.max_pool2d(x, 3, 1, padding=1)
        F.max_pool2d(x, 2, dilation=2)
        F.max_pool2d(x, 2, 1, dilation=(1, 3))
        F.max_pool2d(x, 3, 1, 1, dilation=2)
        F.max_pool2d(x, (6, 7))  # the whole image
        F.max_pool2d(x, kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=True)
        F.avg_pool2d(x, 2)
        F.avg_pool2d(x, 3)
        F.avg_pool2d(x, 1)
        F.avg_pool2d(x, (2, 3))
        F.avg_pool2d(x, [3, 2])
        F.avg_pool2d(x, 2, 1)
        F.avg_pool2d(x, 3, 2, 1)
        F.avg_pool2d(x, 3, 2, 1, False, False)
        F.avg_pool2d(x, 2, stride=(1, 2))
        F.avg_pool2d(x, 2, stride=3)
        F.avg_pool2d(x, (3, 1), stride=(2, 1), padding=(1, 0))
        F.avg_pool2d(x, (6, 7))
        F.avg_pool2d(x, kernel_size=2, stride=2, padding=0, ceil_mode=True)
        """,
        x=distinct(2, 3, 6, 7),
    ),
    *lines(
        sweep("F.max_pool2d(x, 2, {}, {}, ceil_mode=True)", [1, 2, 3], [0, 1]),
        x=distinct(1, 2, 5, 7),
    ),
    *lines(
        sweep("F.max_pool2d(x, 3, {}, {}, ceil_mode={})", [1, 2, 4], [0, 1], [True, False]),
        x=distinct(1, 1, 7, 8),
    ),
    *lines(
        sweep("F.max_pool2d(x, 2, 2, {}, {}, {})", [0, 1], [2, 3], [True, False]),
        x=distinct(2, 1, 6, 9),
    ),
    *lines(
        sweep("F.avg_pool2d(x, 2, {}, {}, {}, {})", [1, 2, 3], [0, 1], *[[True, False]] * 2),
        x=(1, 2, 5, 7),
    ),
    *lines(
        sweep("F.avg_pool2d(x, (3, 2), {}, (1, {}), {}, {})", [2, 4], [0, 1], *[[True, False]] * 2),
        x=(2, 1, 8, 5),
    ),
    *lines(
        sweep("F.adaptive_avg_pool2d(x, ({}, {}))", [1, 2, 3, 5, 8], [1, 3, 4, 7]),
        x=(1, 2, 5, 7),
    ),
    *lines(
        """
        F.adaptive_avg_pool2d(x, 1)
        F.adaptive_avg_pool2d(x, 2)
        F.adaptive_avg_pool2d(x, 7)  # larger than the image
        F.adaptive_avg_pool2d(x, (None, 2))
        F.adaptive_avg_pool2d(x, (3, None))
        F.adaptive_avg_pool2d(x, (None, None))
        F.adaptive_avg_pool2d(x, [2, 3])
        F.adaptive_avg_pool2d(x, 1).flatten(1)
        F.adaptive_avg_pool2d(x.relu(), (1, 1))
        torch.adaptive_avg_pool2d(x, 1) <=> F.adaptive_avg_pool2d(x, 1)
        """,
        x=(2, 3, 5, 6),
    ),
    *lines(  # equal entries: the gradient goes to the first of a window
        """
        F.max_pool2d(x, 2)
        F.max_pool2d(x, 3, 1, 1)
        F.max_pool2d(x, 2, 1)
        F.max_pool2d(x, 3, 2, ceil_mode=True)
        F.max_pool2d(x, 2, 1, dilation=2)
        F.max_pool2d(x * 0, 2)
        F.max_pool2d(x.relu(), 2)
        """,
        x=ties(2, 2, 6, 5),
    ),
    *lines(  # sizes at the edge of what there is
        """
        F.max_pool2d(pixel, 1)
        F.max_pool2d(pixel, 2, padding=1)
        F.max_pool2d(row, (1, 2))
        F.max_pool2d(row, (1, 3), 2, (0, 1))
        F.max_pool2d(none, 2)
        F.avg_pool2d(pixel, 1)
        F.avg_pool2d(pixel, 2, padding=1)
        F.avg_pool2d(pixel, 3, padding=1, count_include_pad=False)
        F.avg_pool2d(row, (1, 2))
        F.avg_pool2d(row, (1, 3), 2, (0, 1))
        F.avg_pool2d(none, 2)
        F.adaptive_avg_pool2d(pixel, 1)
        F.adaptive_avg_pool2d(pixel, 3)
        F.adaptive_avg_pool2d(none, 1)
        """,
        pixel=(2, 3, 1, 1),
        row=(1, 2, 1, 7),
        none=(0, 2, 4, 4),
    ),
    *lines(  # memory in another order, chains
        """
        F.max_pool2d(x.transpose(2, 3), 2)
        F.max_pool2d(x.permute(0, 3, 1, 2), 2, 1)
        F.max_pool2d(x[:, :, ::2, 1:], 2, 1)
        F.max_pool2d(x[:1].expand(3, -1, -1, -1), 2)
        F.max_pool2d(x[:, 1:], 3, 2, 1)
        F.max_pool2d(-x, 2)
        F.max_pool2d(F.max_pool2d(x, 2, 1), 2, 1)
        F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)
        F.max_pool2d(x.relu(), 3, 2, 1).relu()
        F.avg_pool2d(x.transpose(2, 3), 2)
        F.avg_pool2d(x.permute(0, 2, 3, 1), 2, 1)
        F.avg_pool2d(x[:, :, ::2, 1:], 2, 1)
        F.avg_pool2d(x[:1].expand(3, -1, -1, -1), 2)
        F.avg_pool2d(F.avg_pool2d(x, 2, 1), 2, 1)
        F.avg_pool2d(x * x, 3, 2, 1)
        F.adaptive_avg_pool2d(x.transpose(1, 2), (2, 3))
        F.adaptive_avg_pool2d(x * x, 1) - F.adaptive_avg_pool2d(x, 1) ** 2
        x.mean((2, 3), keepdim=True) - F.adaptive_avg_pool2d(x, 1)
        """,
        x=distinct(2, 4, 6, 5),
    ),
]

WRONG = lines(
    """
    F.max_pool2d(x, 0)
    F.max_pool2d(x, -1)
    F.max_pool2d(x, (2, 0))
    F.max_pool2d(x, 1.5)
    F.max_pool2d(x, "2")
    F.max_pool2d(x, (1, 2, 3))
    F.max_pool2d(x, None)
    F.max_pool2d(x)
    F.max_pool2d(x, 2, 0)
    F.max_pool2d(x, 2, -2)
    F.max_pool2d(x, 2, (1, 0))
    F.max_pool2d(x, 2, 0.5)
    F.max_pool2d(x, 2, padding=-1)
    F.max_pool2d(x, 2, padding=2)  # more than half the window
    F.max_pool2d(x, 3, padding=(1, 2))
    F.max_pool2d(x, 2, dilation=0)
    F.max_pool2d(x, 2, dilation=-1)
    F.max_pool2d(x, 7)  # larger than the image
    F.max_pool2d(x, 2, dilation=6)
    F.max_pool2d(x[..., :0], 2)
    F.max_pool2d(x[0, 0], 2)
    F.max_pool2d(x[None], 2)
    F.max_pool2d(None, 2)
    F.max_pool2d([[1.0]], 1)
    F.max_pool2d(x, 2, strides=1)
    F.avg_pool2d(x, 0)
    F.avg_pool2d(x, -1)
    F.avg_pool2d(x, (2, 0))
    F.avg_pool2d(x, 1.5)
    F.avg_pool2d(x, "2")
    F.avg_pool2d(x, (1, 2, 3))
    F.avg_pool2d(x, None)
    F.avg_pool2d(x)
    F.avg_pool2d(x, 2, 0)
    F.avg_pool2d(x, 2, -2)
    F.avg_pool2d(x, 2, padding=-1)
    F.avg_pool2d(x, 2, padding=2)
    F.avg_pool2d(x, 7)
    F.avg_pool2d(x[..., :0], 2)
    F.avg_pool2d(x[0, 0], 2)
    F.avg_pool2d(x[None], 2)
    F.avg_pool2d(None, 2)
    F.adaptive_avg_pool2d(x, -1)
    F.adaptive_avg_pool2d(x, (1, -2))
    F.adaptive_avg_pool2d(x, 1.5)
    F.adaptive_avg_pool2d(x, (1, 2, 3))
    F.adaptive_avg_pool2d(x, "1")
    F.adaptive_avg_pool2d(i, 1)
    F.adaptive_avg_pool2d(x)
    """,
    x=(2, 3, 5, 6),
    i=whole(2, 3, 5, 6),
)

# minires pools batches of float images, into images that have pixels.
DIFFERENT = refusals(
    {
        "F.max_pool2d(i, 2)": "expected a floating-point tensor, got int64. Use x.float().",
        "F.avg_pool2d(i, 2)": "expected a floating-point tensor, got int64. Use x.float().",
        "F.adaptive_avg_pool2d(x[..., :0], 1)": "expected an image with pixels",
        "F.adaptive_avg_pool2d(x, 0)": "output_size an integer >= 1",
    },
    x=(2, 3, 5, 6),
    i=whole(2, 3, 5, 6),
)


@pytest.mark.slow
@each(CASES, ALL)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)

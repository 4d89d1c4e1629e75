"""Resizing: sizes and factors, every mode, positions at the last bit of a float."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from parity.sides import BOTH, both_refuse, compare, each, lines, only_ours_refuses, refusals

import minires as mr
from minires.nn import functional as F

CASES = [
    *lines(
        """
        F.interpolate(x, 4)
        F.interpolate(x, (4, 9))
        F.interpolate(x, [2, 12])
        F.interpolate(x, scale_factor=2)
        F.interpolate(x, scale_factor=(1.7, 0.6))
        F.interpolate(x, None, 2.3, "nearest", None, True)
        F.interpolate(x, size=(5, 6))  # its own size
        F.interpolate(x, 4, mode="bilinear")
        F.interpolate(x, (11, 3), mode="bilinear", align_corners=True)
        F.interpolate(x, (1, 1), mode="bilinear", align_corners=True)
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        F.interpolate(x, scale_factor=1.3, mode="bilinear")
        F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)
        F.interpolate(x, scale_factor=0.4, mode="bilinear", recompute_scale_factor=False)
        F.interpolate(x.transpose(2, 3), (3, 8), mode="bilinear")
        F.interpolate(x[..., ::2, 1:], scale_factor=3)
        F.interpolate(x[:0], 3)
        F.interpolate(input=x, scale_factor=2, mode="nearest", antialias=False)
        F.interpolate(x[..., :1, :1], 3, mode="bilinear")
        nn.Upsample(scale_factor=2)(x)
        nn.Upsample((3, 7), mode="bilinear", align_corners=True)(x)
        nn.UpsamplingNearest2d(scale_factor=3)(x)
        nn.UpsamplingBilinear2d((7, 4))(x)
        """,
        x=(2, 3, 5, 6),
    ),
    *lines(
        """
        F.interpolate(x, 4)
        F.interpolate(x, scale_factor=(2.5,))
        F.interpolate(x, 11, mode="linear")
        F.interpolate(x, scale_factor=0.5, mode="linear", align_corners=True)
        """,
        x=(2, 3, 7),
    ),
]

WRONG = lines(
    """
    F.interpolate(x)
    F.interpolate(x, 3, 2)
    F.interpolate(x, (3, 3, 3))
    F.interpolate(x, scale_factor=(2, 2, 2))
    F.interpolate(x, 0)
    F.interpolate(x, -2)
    F.interpolate(x, scale_factor=0.01)
    F.interpolate(x, scale_factor=-1.0)
    F.interpolate(x, 3, mode="bilinear", recompute_scale_factor=True)
    F.interpolate(x, 3, mode="linear")
    F.interpolate(x[0], 3, mode="bilinear")
    F.interpolate(x, 3, mode="nothing")
    F.interpolate(x, 3, align_corners=True)
    F.interpolate(x[0, 0], 3)
    F.interpolate(x[:, :, :0], 3)
    """,
    x=(2, 3, 5, 6),
)

DIFFERENT = refusals(
    {
        'F.interpolate(x, 12, mode="bicubic")': "unknown mode 'bicubic'. Known: bilinear,",
        "F.interpolate(x[None], 3)": "expected x of shape (n, c, l) or (n, c, h, w)",
    },
    x=(2, 3, 5, 6),
)


@pytest.mark.slow
@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_positions_to_the_last_bit(dtype):
    """Sizes and factors whose products lie beside whole numbers: the same entries are the nearest,
    and the same bits or nearly so are the means."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.interpolate
    factors = [0.3, 0.5, 0.7, 1, 1.3, 1.5, 2, 2.7, 3, 3.3, 1 / 3, 7.1]
    how = [{"size": n} for n in (1, 2, 3, 7, 13, 31, 64, 224)]
    how += [{"scale_factor": f, "recompute_scale_factor": r} for f in factors for r in (None, True)]
    modes = [{"mode": "nearest"}, *({"mode": "linear", "align_corners": a} for a in (False, True))]
    count, tolerance = 0, {"float32": 1e-5, "float64": 1e-12}[dtype]
    sizes = [(1, 1, n) for n in (1, 2, 3, 7, 10, 32, 33)] + [(1, 1, n, n) for n in (2, 3, 32, 33)]
    for shape, options, mode in product(sizes, how, modes):
        old, images = shape[-1], len(shape) == 4
        if old * options.get("scale_factor", 1) < 1:
            continue
        if images:
            mode = {**mode, "mode": mode["mode"].replace("linear", "bilinear")}
        x = np.random.default_rng(old).standard_normal(shape).astype(dtype)
        got = F.interpolate(mr.tensor(x), **options, **mode).numpy()
        expected = theirs(torch.tensor(x), **options, **mode).numpy()
        if mode["mode"] == "nearest":
            np.testing.assert_array_equal(got, expected, str((shape, options)))
        else:
            np.testing.assert_allclose(got, expected, tolerance, tolerance, str((shape, options)))
        count += 1
    assert count > 500

"""Operands: the kinds against batch norm and ReLU, written out."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.operand import (
    GATED,
    GRADIENT,
    NORMALISED,
    PASSED,
    RECTIFIED,
    Operand,
    as_operand,
)


@pytest.mark.parametrize("c", [3, 16])
def test_the_formulas_are_those_of_batch_norm(c):
    """The kinds against a batch norm and a ReLU, forward and backward, written out."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 50, c))
    weight, bias = rng.standard_normal((2, c))
    mean, inv_std = x.mean(axis=0), 1 / x.std(axis=0)
    x_hat = (x - mean) * inv_std
    z = x_hat * weight + bias
    gated = np.where(z > 0, g, 0)
    for kind, upstream in ((GRADIENT, g), (GATED, gated)):
        share = upstream.mean(axis=0)
        slope = (upstream * x_hat).mean(axis=0) * inv_std
        expected = weight * inv_std * (upstream - share - (x - mean) * slope)
        k = np.stack([mean, weight * inv_std, bias, share, slope])
        np.testing.assert_allclose(Operand(g, kind, k, x).values(), expected, atol=1e-12)
    k = np.stack([mean, weight * inv_std, bias, 0 * mean, 0 * mean])
    passed = Operand(g, PASSED, k, x).values()
    np.testing.assert_allclose(passed, weight * inv_std * gated, atol=1e-12)
    np.testing.assert_allclose(Operand(x, NORMALISED, k).values(), z, atol=1e-12)
    np.testing.assert_allclose(Operand(x, RECTIFIED, k).values(), np.maximum(z, 0), atol=1e-12)


def test_an_array_is_its_own_operand():
    x = np.ones((1, 2, 2, 3))
    assert as_operand(x).values() is x
    operand = Operand(x)
    assert as_operand(operand) is operand

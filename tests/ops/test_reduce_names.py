"""Reductions called as PyTorch's and NumPy's code calls them; their values are in tests/ops."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError


@pytest.mark.parametrize("kind", ["var", "std"])
@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {"unbiased": False}),
        ((), {"unbiased": True}),
        ((False,), {}),
        ((True,), {}),
        ((1, False), {}),
        ((0, True, True), {}),
        (((0, 2), False, True), {}),
        ((None, False), {}),
        ((), {"dim": -1, "unbiased": False, "keepdim": True}),
        ((1,), {"correction": None}),
        ((1,), {"correction": 0.5}),
    ],
)
def test_unbiased_has_pytorchs_meaning(kind, args, options):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).standard_normal((2, 3, 4))
    x = mr.tensor(array, requires_grad=True)
    theirs = torch.tensor(array, requires_grad=True)
    y, expected = getattr(x, kind)(*args, **options), getattr(theirs, kind)(*args, **options)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "amax", "any", "all", "var", "std"])
@pytest.mark.parametrize("axis", [None, 1])
def test_numpys_functions_call_the_method(name, axis):
    array = np.random.default_rng(0).standard_normal((2, 3))
    expected = getattr(np, name)(array, axis=axis)
    y = getattr(np, name)(mr.tensor(array, requires_grad=True), axis=axis)
    y = y.values if name in ("max", "min", "amax") and axis is not None else y
    assert isinstance(y, mr.Tensor)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-14)
    assert y.requires_grad == (name not in ("any", "all"))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x: x.sum(True), "sum: expected dim an integer or a tuple of them, got True"),
        (lambda x: np.sum(x, out=np.ones(())), "sum: expected no out, as a result is always"),
        (lambda x: np.var(x, dtype=np.float64), r"no dtype, .* Convert with \.astype\(dtype\)"),
        (lambda x: x.var(unbiased=1), "var: expected unbiased True or False, got 1"),
        (lambda x: x.var(0, 2), "var: expected unbiased True or False, got 2"),
        (lambda x: x.var(unbiased=True, correction=1), "expected unbiased or correction, got both"),
        (lambda x: x.std(False, correction=0), "expected unbiased or correction, got both"),
        (lambda x: x.var(correction="x"), "var: expected correction a number, got 'x'"),
        (lambda x: x.var(ddof=0, correction=0), "var: expected correction or ddof, got both"),
    ],
)
def test_errors(act, words):
    with pytest.raises(ArgumentError, match=words):
        act(mr.ones(2, 3))

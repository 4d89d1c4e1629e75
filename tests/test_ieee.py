"""NumPy's warnings of infinities, switched off and on again."""

from __future__ import annotations

import contextvars
import threading
import warnings

import numpy as np
import pytest

import minires as mr
from minires import ieee


def overflows():
    return np.array([1e300]) * np.array([1e300])


def warns():
    with pytest.warns(RuntimeWarning, match="overflow"):
        overflows()


def test_quiet_inside_and_as_before_outside():
    warns()
    token = ieee.warnings_now()
    ieee.quiet()
    try:
        assert np.isinf(overflows()).all()
        assert np.isnan(np.zeros(1) / 0).all()
    finally:
        ieee.restore(token)
    warns()


def test_it_nests_in_numpys_own_settings_and_gives_them_back():
    with np.errstate(over="raise"):
        token = ieee.warnings_now()
        ieee.quiet()
        overflows()
        inner = ieee.warnings_now()
        ieee.quiet()
        ieee.restore(inner)
        overflows()
        ieee.restore(token)
        with pytest.raises(FloatingPointError):
            overflows()


def test_it_is_a_matter_of_one_thread():
    seen = []

    def other():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            overflows()
        seen.extend(str(w.message) for w in caught)

    token = ieee.warnings_now()
    ieee.quiet()
    try:
        thread = threading.Thread(target=contextvars.Context().run, args=(other,))
        thread.start()
        thread.join()
    finally:
        ieee.restore(token)
    assert len(seen) == 1
    assert "overflow" in seen[0]


def test_where_numpy_shows_no_change_its_own_means_serve(monkeypatch):
    class Silent:
        def copy_context(self):
            return {}

    monkeypatch.setattr(ieee, "contextvars", Silent())
    now, quiet, restore = ieee._switch()
    token = now()
    quiet()
    try:
        overflows()
    finally:
        restore(token)
    warns()


def test_operations_are_quiet_and_leave_no_trace():
    x = mr.tensor([1e38], requires_grad=True)
    y = x * x
    assert np.isinf(y.detach().numpy()).all()
    y.backward(mr.tensor([float("inf")]))
    assert np.isinf(x.grad.numpy()).all()
    warns()

    class Fails(mr.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    with pytest.raises(KeyError):
        Fails.apply(x)
    warns()

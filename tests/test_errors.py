"""The error kinds, and their one wording."""

from __future__ import annotations

import pytest

from minires import errors
from minires.errors import MiniresError, message, unknown

KINDS = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not MiniresError])
def test_every_kind_is_a_plain_python_error_too(kind):
    assert issubclass(kind, MiniresError)
    assert issubclass(kind, ValueError | TypeError | RuntimeError)


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (errors.ShapeError, ValueError),
        (errors.ArgumentError, ValueError),
        (errors.DTypeError, TypeError),
        (errors.DeviceError, RuntimeError),
        (errors.GraphError, RuntimeError),
    ],
)
def test_what_they_can_be_caught_as(kind, plain):
    with pytest.raises(plain):
        raise kind("text")


def test_message():
    assert message("op", "this", "that") == "op: expected this, got that"
    assert message("op", "x", 3, "shape (2,)") == "op: expected x, got 3 (shape (2,))"
    assert message("op", "x", 3, fix="Do y.") == "op: expected x, got 3. Do y."
    assert message("op", "x", 3, "c", "Do y.") == "op: expected x, got 3 (c). Do y."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet19", "unknown model 'resnet19': did you mean resnet18? Known: plain, resnet18"),
        ("zzz", "unknown model 'zzz'. Known: plain, resnet18"),
        (None, "unknown model 'None'. Known: plain, resnet18"),
    ],
)
def test_unknown_names(name, text):
    error = unknown("model", name, ["resnet18", "plain"])
    assert isinstance(error, errors.ArgumentError)
    assert str(error) == text

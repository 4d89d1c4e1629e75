"""One rule for every kind of argument, and what a message shows of what came."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import minires as mr
from minires import arguments, errors

WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), mr.tensor(3)]
NO_INTEGER = [True, np.True_, np.array(True), mr.tensor(True), 3.0, np.float32(3), "3", None, [3]]
REAL = [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), np.array(0.5, "f4")]
NO_NUMBER = [True, np.True_, "0.5", None, 0.5j, [0.5], np.array([0.5]), Fraction(1, 2)]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_what_operator_index_takes_is_an_integer(value):
    for got in (arguments.integer("op", "n", value, 1), arguments.number("op", "n", value)):
        assert (got, type(got)) == (3, int)
    assert arguments.pair("op", "n", value, 1) == (3, 3)
    assert arguments.pair("op", "n", (value, 4), 1) == (3, 4)
    assert arguments.sizes("op", "n", [value, 4]) == (3, 4)


@pytest.mark.parametrize("value", NO_INTEGER, ids=repr)
def test_bools_floats_and_text_are_no_integers(value):
    with pytest.raises(errors.ArgumentError, match=r"^op: expected n an integer, got "):
        arguments.integer("op", "n", value)
    with pytest.raises(errors.ArgumentError, match=r"^op: expected n an integer >= 1 or a pair"):
        arguments.pair("op", "n", (value, 1), 1)


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numpy_scalars_are_numbers(value):
    got = arguments.number("op", "eps", value, above=0)
    assert (got, type(got)) == (0.5, float)


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_what_is_no_number(value):
    with pytest.raises(errors.ArgumentError, match=r"expected eps a (finite )?number > 0, got "):
        arguments.number("op", "eps", value, above=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400])
def test_numbers_are_finite_unless_said_otherwise(value):
    with pytest.raises(errors.ArgumentError, match="expected p a finite number"):
        arguments.number("op", "p", value)
    if value == math.inf and isinstance(value, float):
        assert arguments.number("op", "p", value, least=1, finite=False) == math.inf


def test_bounds():
    with pytest.raises(errors.ArgumentError, match="an integer >= 1, got 0"):
        arguments.integer("op", "n", 0, 1)
    with pytest.raises(errors.ArgumentError, match="an integer >= 1 and <= 2147483647, got"):
        arguments.integer("op", "n", 2**31, 1)
    with pytest.raises(errors.ArgumentError, match="a finite number >= 0 and < 1, got 1"):
        arguments.number("op", "p", 1, least=0, below=1)
    with pytest.raises(errors.ArgumentError, match=r"of at most 2147483647, got \(2147483648, 1\)"):
        arguments.pair("op", "stride", (2**31, 1), 1)
    with pytest.raises(errors.ArgumentError, match=r"expected shape 2 integers >= 0, got \(1,\)"):
        arguments.sizes("op", "shape", (1,), length=2)


def test_flags_and_names():
    assert arguments.flag("op", "bias", np.False_) is False
    with pytest.raises(errors.ArgumentError, match="expected bias True or False, got 1"):
        arguments.flag("op", "bias", 1)
    assert arguments.choice("reduction", "mean", ["mean", "sum"]) == "mean"
    for value in ("meen", 3, ["mean"], "x" * 10**6):
        with pytest.raises(errors.ArgumentError, match=r"unknown reduction .* Known: mean, sum"):
            arguments.choice("reduction", value, ["mean", "sum"])


class Broken:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        [np.ones((100, 100))] * 100,
        dict.fromkeys(range(1000), "y" * 1000),
        10**5000,
        tuple(range(10**5)),
        np.ones((1,) * 60),
        mr.zeros(300, 300),
        Broken(),
        [[[[[[1]]]]]] * 3,
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_abbreviate_what_they_quote(value):
    assert len(errors.quoted(value)) <= errors.LONGEST
    assert len(errors.message("op", "less", value, str(type(value)), "Try less.")) < 600
    assert len(str(errors.unknown("name", value, ["a"]))) < 600


def test_arrays_are_quoted_by_their_shape():
    assert errors.quoted(np.ones((2, 3), "f4")) == "an array of shape (2, 3), float32"
    assert errors.quoted(mr.ones(2, 3)) == "a Tensor of shape (2, 3), float32"

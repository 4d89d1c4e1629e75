"""A call that is made again leaves its results in the memory of the first call's."""

from __future__ import annotations

import pytest
from gpu import CUDA, gpu, put
from harness import host

import minires as mr
from minires.kernels.cuda.pool import Allocations, taking_from


@pytest.fixture(params=[CUDA], autouse=True)
def _on_gpu(request):
    with gpu():
        yield


def numbers(*values):
    return put(mr.tensor(values)._array)


def first_call(function, *args):
    made = Allocations()
    with made.first():
        result = function(*args)
    made.keep([result])
    return made, result


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: (x + 1) * (x - 1),  # three arrays of one size
        lambda x: ((x + 1) * (x - 1)).reshape(2, 2).transpose(1, 0),  # a view of the last
    ],
)
def test_results_lie_in_their_places(function):
    x = numbers(1.0, 2.0, 3.0, 4.0)
    made, place = first_call(function, x)
    x += 1
    with made.again():
        new = function(x)
    assert made.in_place(new, place)
    assert (host(place) == host(function(x))).all()


def test_who_allocates_otherwise_gets_memory_of_its_own():
    x = numbers(1.0, 2.0, 3.0, 4.0)
    made, place = first_call(lambda x: x * 2, x)
    before = host(place).copy()
    with made.again():
        larger = numbers(1.0, 2.0, 3.0, 4.0, 5.0) * 2
    assert not made.in_place(larger, place)
    assert not made.in_place(place.reshape(2, 2).transpose(1, 0), place)
    assert (host(place) == before).all()


def test_what_is_everybodys_is_nobodys_place():
    """A function may keep something for itself, outside of all pools."""
    x, kept = numbers(1.0, 2.0, 3.0, 4.0), []

    def function(x):
        with taking_from(None):
            kept.append(x + 1)
        return x * 2

    made, place = first_call(function, x)
    with made.again():
        new = function(x)
    assert made.in_place(new, place)
    assert len({array.data.ptr for array in (*kept, place)}) == 3

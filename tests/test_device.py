"""Devices, backends, and what is said about kernels that do not exist."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minires as mr
from minires.device import (
    CPU,
    Device,
    _kernel_module,
    array_module,
    available,
    backend_name,
    device_of,
    kernels,
    move,
    peak_memory,
    synchronize,
)
from minires.errors import ArgumentError, DTypeError, KernelMissing


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", Device("cpu")),
        ("cpu:0", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:3", Device("cuda", 3)),
        (Device("cuda", 1), Device("cuda", 1)),
    ],
)
def test_parse(name, expected):
    parsed = Device.parse(name)
    assert parsed == expected
    assert Device.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "unknown device 'gpu'"),
        ("cudo", "did you mean cuda"),
        ("cuda:", "unknown device"),
        ("cuda:-1", "unknown device"),
        ("CPU", "unknown device"),
        (None, "unknown device 'None'"),
        ("cpu:1", "there is one cpu"),
    ],
)
def test_names_that_are_no_device(name, words):
    with pytest.raises(ArgumentError, match=words):
        Device.parse(name)


def test_arrays_know_their_device():
    array = np.ones(2)
    assert device_of(array) == CPU
    assert device_of(np.float32(1)) == CPU
    assert array_module(array) is np
    assert move(array, CPU) is array
    assert str(mr.ones(1).device) == "cpu"
    assert available()[0] == CPU
    synchronize()


def test_backend_picks_the_kernels():
    x = np.ones(1)
    assert kernels("relu", x).__name__ == "minires.ops.relu.kernel_numba"
    with mr.backend("numpy"):
        assert kernels("relu", x).__name__ == "minires.ops.relu.kernel_numpy"
        with mr.backend("auto"):
            assert kernels("relu", x).__name__.endswith("kernel_numba")
        seen = []
        thread = threading.Thread(
            target=lambda: seen.append(kernels("relu", x).__name__.endswith("kernel_numba"))
        )
        thread.start()
        thread.join()
        assert seen == [True], "the choice is this thread's own"
    with pytest.raises(ZeroDivisionError), mr.backend("numpy"):
        raise ZeroDivisionError
    assert kernels("relu", x).__name__.endswith("kernel_numba")


def test_the_name_of_the_backend_of_an_array():
    x = np.ones(1)
    assert backend_name(x) == "numba"
    with mr.backend("numpy"):
        assert backend_name(x) == "numpy"
    assert backend_name(x[0]) == "numba"


@pytest.mark.parametrize("ask", [backend_name, device_of, array_module])
@pytest.mark.parametrize("thing", [None, 3, [1.0], object(), mr.ones(2)], ids=lambda v: type(v))
def test_what_is_no_array_is_on_no_device(ask, thing):
    with pytest.raises(
        DTypeError, match=f"{ask.__name__}: expected an array of NumPy or CuPy, got"
    ):
        ask(thing)


@pytest.mark.parametrize("op", ["", "a.b", "../x", 3, None, "x" * 300])
def test_kernels_of_what_is_no_operation(op):
    with pytest.raises((ArgumentError, KernelMissing), match=r"kernel") as caught:
        kernels(op, np.ones(1))
    assert len(str(caught.value)) < 700


def test_unknown_backend():
    with pytest.raises(ArgumentError, match="unknown backend 'nunpy': did you mean numpy"):
        mr.backend("nunpy").__enter__()


def test_a_missing_kernel_says_which():
    with pytest.raises(KernelMissing) as error:
        _kernel_module("relu", "tpu")
    assert str(error.value) == (
        "relu: expected a kernel for 'tpu', got none (minires.ops.relu.kernel_tpu does not exist). "
        'Move the tensors with .to("cpu").'
    )
    with pytest.raises(KernelMissing, match="no_such_op: expected a kernel for 'numba', got none"):
        kernels("no_such_op", np.ones(1))


def test_peak_memory_counts_bytes():
    assert 10_000_000 < peak_memory() < 10**12

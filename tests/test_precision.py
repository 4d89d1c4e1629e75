"""How a GPU multiplies float32: a setting of the process, under PyTorch's names."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError
from minires.precision import float32_matmul_precision


@pytest.fixture(autouse=True)
def _put_back():
    yield
    mr.set_float32_matmul_precision("highest")


def test_exact_products_are_the_default():
    assert mr.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["highest", "high", "medium"])
def test_it_is_one_for_the_whole_process(name):
    began, seen = threading.Event(), []

    def work():
        began.wait(10)
        seen.append(float32_matmul_precision())

    thread = threading.Thread(target=work)
    thread.start()
    with mr.no_grad():  # and it lasts longer than a mode in which it is set
        mr.set_float32_matmul_precision(name)
    began.set()
    thread.join()
    assert seen == [name]
    assert mr.get_float32_matmul_precision() == float32_matmul_precision() == name


@pytest.mark.parametrize("name", ["tf32", "HIGH", "", None, 1, ["high"]])
def test_names_that_are_none(name):
    with pytest.raises(ArgumentError, match=r"unknown float32 matmul precision .* Known: high"):
        mr.set_float32_matmul_precision(name)
    assert mr.get_float32_matmul_precision() == "highest"


def test_the_cpu_multiplies_exactly_whatever_it_is():
    rng = np.random.default_rng(0)
    x, w = (mr.tensor(rng.normal(size=s).astype("f4")) for s in ((2, 3, 8, 8), (4, 3, 3, 3)))
    found = []
    for name in ("highest", "high", "medium"):
        mr.set_float32_matmul_precision(name)
        found.append([mr.conv2d(x, w).numpy(), (w.reshape(4, 27) @ w.reshape(27, 4)).numpy()])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other))


def test_a_captured_function_has_a_graph_for_each():
    double = mr.capture(lambda x: x * 2)
    for name in ("highest", "high", "highest"):
        mr.set_float32_matmul_precision(name)
        for k in range(3):
            assert double(mr.tensor([float(k)])).item() == 2 * k
    assert repr(double).endswith("recordings=2)")

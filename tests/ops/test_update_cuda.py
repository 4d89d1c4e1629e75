"""The update rules on a GPU: hundreds of parameters in few launches, the same as the reference."""

from __future__ import annotations

import cudasim
import numpy as np
import pytest
from gpu import put

from minires.kernels.cuda.kernel import Kernel
from minires.ops.update import kernel_cuda as cuda
from minires.ops.update import kernel_numpy as reference

# Around the sizes of a pack (4 or 2) and of a block's piece (4096 or 2048); more than one table.
SIZES = [1, 3, 4, 5, 2047, 2048, 4095, 4096, 4097, 9000, 0, *[7, 8] * 28]
TOLERANCES = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}


def arrays(rng, dtype, positive=False):
    made = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    return [abs(a) for a in made] if positive else made


def compare(name, columns, coefficients, tolerance):
    """Update copies on the GPU, and the columns themselves by the reference."""
    on_gpu = [[None if a is None else put(a) for a in column] for column in columns]
    getattr(cuda, name)(*on_gpu, coefficients)
    getattr(reference, name)(*columns, coefficients)
    for mine, theirs in zip(on_gpu, columns):
        for a, b in zip(mine, theirs):
            if a is not None:
                np.testing.assert_allclose(a.get(), b, **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_sgd_is_the_reference(dtype, conditions):
    rng = np.random.default_rng(0)
    rows = [(0.1 + k / 100, 0.01 * (k % 2), 0.9 * (k % 3 > 0), 0.5, k % 3 > 1, 0)
            for k in range(len(SIZES))]  # fmt: skip
    velocities = [v if row[2] else None for v, row in zip(arrays(rng, dtype), rows)]
    columns = arrays(rng, dtype), arrays(rng, dtype), velocities
    compare("update_sgd", columns, np.array(rows, np.float64), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_adam_is_the_reference(dtype, conditions):
    rng = np.random.default_rng(1)
    rows = [(0.1 + k / 100, 0.99, 0.01 * (k % 2), 0.1, 0.99, 0.01, 0.3, 1e-8, k % 2)
            for k in range(len(SIZES))]  # fmt: skip
    tops = [top if row[-1] else None for top, row in zip(arrays(rng, dtype, True), rows)]
    moments = arrays(rng, dtype), arrays(rng, dtype, True), tops
    columns = arrays(rng, dtype), arrays(rng, dtype), *moments
    compare("update_adam", columns, np.array(rows, np.float64), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_rmsprop_is_the_reference(dtype, conditions):
    rng = np.random.default_rng(3)
    rows = [(0.1 + k / 100, 0.01 * (k % 2), 0.9, 0.1, 1e-3, 0.5 * (k % 3 > 0), k % 5 > 1, 1 - k % 2)
            for k in range(len(SIZES))]  # fmt: skip
    squares = [16 + a for a in arrays(rng, dtype, True)]
    means = [m if row[6] else None for m, row in zip(arrays(rng, dtype), rows)]
    momenta = [b if row[5] else None for b, row in zip(arrays(rng, dtype), rows)]
    columns = arrays(rng, dtype), arrays(rng, dtype), squares, means, momenta
    compare("update_rmsprop", columns, np.array(rows, np.float64), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_zero(dtype, conditions):
    made = [put(a) for a in arrays(np.random.default_rng(2), dtype)]
    cuda.update_zero(made)
    assert all((a.get() == 0).all() for a in made)


def test_the_first_velocity_is_the_gradient(on_gpu):
    p, g, v = (
        put(np.ones(5, np.float32)),
        put(np.arange(5, dtype=np.float32)),
        put(np.zeros(5, "f")),
    )
    cuda.update_sgd([p], [g], [v], np.array([[0.5, 0, 0.9, 1, 0, 1]]))
    np.testing.assert_array_equal(v.get(), g.get())
    np.testing.assert_array_equal(p.get(), 1 - 0.5 * g.get())


def test_infinities_and_nan_are_those_of_the_reference(on_gpu):
    g = np.array([np.inf, -np.inf, np.nan, 0, 1], np.float32)
    with np.errstate(all="ignore"):
        columns = [g.copy()], [g.copy()], [np.zeros(5, np.float32)]
        compare("update_sgd", columns, np.array([[0.1, 0, 0.9, 1, 0, 0]]), {})
        tops = [np.array([1, 1, 1, np.nan, 1], np.float32)]
        columns = [np.ones(5, "f")], [g.copy()], [np.zeros(5, "f")], [np.ones(5, "f")], tops
        compare("update_adam", columns, np.array([[0.1, 1, 0, 0.1, 0.9, 0.1, 1, 1e-8, 1]]), {})
        columns = [np.ones(5, "f")], [g.copy()], *([np.ones(5, "f")] for _ in range(3))
        compare("update_rmsprop", columns, np.array([[0.1, 0, 0.5, 0.5, 1, 0.5, 1, 1]]), {})


def test_one_launch_for_64_parameters(on_gpu, monkeypatch):
    """and arrays that begin in the middle of a pack."""
    launched = []
    run = Kernel.run
    monkeypatch.setattr(Kernel, "run", lambda k, *a: launched.append(k.__name__) or run(k, *a))
    base = put(np.ones(64 * 9, np.float32))
    ps = [base[9 * k + 1 : 9 * k + 9] for k in range(64)]
    rows = np.array([[0.25, 0, 0, 1, 0, 0]] * 64)
    cuda.update_sgd(ps, ps, [None] * 64, rows)
    assert launched == ["update_coefficients", "update_sgd"]
    expected = np.where(np.arange(64 * 9) % 9, 0.75, 1)
    np.testing.assert_array_equal(base.get(), expected)


def test_many_coefficients_take_several_launches(on_gpu):
    rows = np.arange(400.0 * 6).reshape(400, 6)
    for dtype in (np.float32, np.float64):
        kept = cuda._Coefficients((300, 6), np.dtype(dtype), put(rows))
        kept.upload(rows, range(100, 400))
        np.testing.assert_array_equal(kept.array.get(), rows[100:])


def test_parameters_that_no_kernel_takes(on_gpu):
    """Strided ones, and halves: by array expressions, as on the CPU."""
    strided, half = put(np.ones((3, 4), np.float32)).T, put(np.ones(3, np.float16))
    for p in (strided, half):
        cuda.update_sgd([p], [p.copy()], [None], np.array([[0.5, 0, 0, 1, 0, 0]]))
        np.testing.assert_array_equal(p.get(), 0.5)
        cuda.update_zero([p])
        np.testing.assert_array_equal(p.get(), 0)
    p, g = put(np.ones((3, 4), np.float32)), put(np.ones((4, 3), np.float32)).T
    cuda.update_sgd([p], [g], [None], np.array([[0.5, 0, 0, 1, 0, 0]]))
    np.testing.assert_array_equal(p.get(), 0.5)


def test_a_parameter_of_many_pieces(on_gpu, monkeypatch):
    """One of more entries than 32 bits count has several rows of the table."""
    monkeypatch.setattr(cuda, "LARGEST", 1000)
    p, other = np.arange(3500, dtype=np.float32), np.ones(3, np.float32)
    columns = [p, other], [p.copy(), other.copy()], [None, None]
    rows = np.array([[0.5, 0, 0, 1, 0, 0], [0.25, 0, 0, 1, 0, 0]])
    compare("update_sgd", columns, rows, {})


def test_the_source_agrees_about_its_sizes():
    text = cuda._SOURCE.read_text(encoding="utf-8")
    assert f"THREADS = {cuda.THREADS};" in text
    assert f"MOST = {cuda.MOST};" in text
    assert f"TURNS = {cuda.TURNS};" in text
    assert f"NUMBERS = {cuda.BYTES} /" in text


@pytest.mark.parametrize("name", ["update_sgd", "update_adam", "update_rmsprop", "update_zero"])
def test_memory_is_read_and_written_in_whole_sectors(name, on_gpu):
    columns = [[put(np.ones(4096, np.float32))] for _ in range(5)]
    rows = {
        "update_sgd": (columns[:3], [[0.1, 0.1, 0.9, 1, 1, 0]]),
        "update_adam": (columns, [[0.1, 1, 0.1, 0.1, 0.9, 0.1, 1, 1e-8, 1]]),
        "update_rmsprop": (columns, [[0.1, 0.1, 0.9, 0.1, 1e-3, 0.5, 1, 1]]),
        "update_zero": (columns[:1], None),
    }
    given, coefficients = rows[name]
    with cudasim.counting() as counts:
        getattr(cuda, name)(*given, *([] if coefficients is None else [np.array(coefficients)]))
    assert counts["global store"].excess == 1
    if coefficients is not None:
        assert counts["global load"].excess == 1

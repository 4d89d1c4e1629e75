"""The kernels of batch norm on a GPU, with everything that can be fused into them."""

from __future__ import annotations

import itertools

import cudasim
import numpy as np
import pytest
from gpu import REAL, put

from minires.kernels.cuda import packs, statistics
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import NORMALISED, Operand
from minires.ops.batch_norm import kernel_cuda as cuda
from minires.ops.batch_norm import kernel_numpy as reference

simulated = pytest.mark.skipif(REAL, reason="of the simulator")
SHAPES = [(2, 1), (3, 3), (7, 16), (150, 5), (70, 136)]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


class Given:
    """Rows, parameters and statistics of one shape, on the host and on the GPU."""

    def __init__(self, shape, dtype, offset=2.0):
        rng = np.random.default_rng(0)
        x, gy, other = rng.standard_normal((3, *shape)).astype(dtype)
        w, b = rng.standard_normal((2, shape[1])).astype(dtype)
        x += offset
        mean, var = np.empty((2, shape[1]), dtype)
        reference.batch_norm_statistics(x, mean, var)
        inv_std = (1 / np.sqrt(var + np.asarray(1e-5, dtype))).astype(dtype)
        k = np.array([mean, w * inv_std, b, 0 * b, 0 * b])
        y = np.empty_like(x)
        reference.batch_norm_fwd(x, w, b, mean, inv_std, y, Epilogue(relu=True))
        self.arrays = {"x": x, "gy": gy, "other": other, "w": w, "b": b, "mean": mean, "var": var}
        self.arrays |= {"inv_std": inv_std, "k": k, "y": y}
        self.there = {name: put(array) for name, array in self.arrays.items()}


def both(run, given):
    """What ``run(module, arrays, new)`` returns, of the kernels and of the reference; ``new`` makes
    arrays to be filled, full of other numbers."""
    dtype = given.arrays["x"].dtype
    found = run(cuda, given.there, lambda *shape: put(np.full(shape, 7, dtype)))
    expected = run(reference, given.arrays, lambda *shape: np.full(shape, 7, dtype))
    return [a.get() for a in found], expected


def check(found, expected, dtype, scale=1.0):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics(shape, dtype, conditions):
    def run(module, a, new):
        found = new(shape[1]), new(shape[1])
        module.batch_norm_statistics(a["x"], *found)
        return found

    check(*both(run, Given(shape, dtype)), dtype, 4)


def test_a_large_mean_costs_few_digits(on_gpu):
    """With a mean of 1e4, E[x²] - E[x]² in float32 would have no digit right."""
    x = Given((700, 16), "float32", 1e4)
    mean, var = put(np.empty((2, 16), np.float32))
    cuda.batch_norm_statistics(x.there["x"], mean, var)
    exact = x.arrays["x"].astype(np.float64)
    np.testing.assert_allclose(mean.get(), exact.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(var.get(), exact.var(axis=0), rtol=1e-3)


def test_equal_values_have_no_variance(on_gpu, dtype):
    mean, var = put(np.full((2, 5), 7, dtype))
    cuda.batch_norm_statistics(put(np.full((300, 5), 0.1, dtype)), mean, var)
    np.testing.assert_array_equal(mean.get(), np.full(5, 0.1, dtype))
    np.testing.assert_array_equal(var.get(), 0)


def test_what_is_not_finite_stays_in_its_channel(on_gpu, dtype):
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(dtype)
    x[0, 1] = x[7, 2] = x[200, 3] = x[201, 3] = np.inf
    x[9, 4], x[11, 5], x[202, 3] = -np.inf, np.nan, -np.inf
    mean, var = put(np.full((2, 16), 7, dtype))
    cuda.batch_norm_statistics(put(x), mean, var)
    expected = np.empty((2, 16), dtype)
    with np.errstate(all="ignore"):
        reference.batch_norm_statistics(x, *expected)
    np.testing.assert_allclose([mean.get(), var.get()], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run_size", [2, 128])
def test_many_blocks_in_several_launches(run_size, on_gpu, monkeypatch):
    """Blocks of moments are put together in steps, and rows come in parts."""
    given = Given((3000, 5), "float32", 3)
    monkeypatch.setattr(statistics, "RUN", run_size)

    def run(module, a, new):
        mean, var, gw, gb = (new(5) for _ in range(4))
        y, gx = new(3000, 5), new(3000, 5)
        module.batch_norm_statistics(a["x"], mean, var)
        module.batch_norm_fwd(a["x"], a["w"], a["b"], a["mean"], a["inv_std"], y)
        module.batch_norm_bwd_affine(a["gy"], a["x"], a["mean"], a["inv_std"], gw, gb, gate=y)
        statistics_and_sums = a["w"], a["mean"], a["inv_std"], gw, gb
        module.batch_norm_bwd_x(a["gy"], a["x"], *statistics_and_sums, True, gx)
        return mean, var, y, gx, gw / 50, gb / 50

    for most in (1 << 30, 2000, 700):
        monkeypatch.setattr(packs, "MOST", most)
        check(*both(run, given), "float32", 10)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_and_running_statistics(shape, dtype, strided, on_gpu):
    c = shape[1]

    def run(module, a, new):
        own, inv_std, k = new(2, c), new(c), new(5, c)
        memory = np.random.default_rng(1).standard_normal((2, c, 2)).astype(dtype) + 3
        place = put if module is cuda else np.asarray
        followers = [place(m)[:, 0] if strided else place(m[:, 0].copy()) for m in memory]
        count = place(np.array(6))
        running = (*followers, 0.3, shape[0] / (shape[0] - 1), count)
        module.batch_norm_affine(
            a["mean"], a["var"], a["w"], a["b"], 1e-5, own, inv_std, k, running
        )
        alone = new(2, c), new(c), new(5, c)
        module.batch_norm_affine(a["mean"], a["var"], a["w"], a["b"], 1e-5, *alone)
        return own, inv_std, k, *followers, count, *alone

    for a, b in zip(*both(run, Given(shape, dtype)), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, dtype, conditions):
    def run(module, a, new):
        kinds = [None, a["other"], Operand(a["other"], NORMALISED, a["k"])]
        found = []
        for residual, rectify in itertools.product(kinds, (False, True)):
            given = a["x"], a["w"], a["b"], a["mean"], a["inv_std"]
            found.append(new(*shape))
            module.batch_norm_fwd(*given, found[-1], Epilogue(residual, rectify))
        return found

    given = Given(shape, dtype)
    check(*both(run, given), dtype, 10 * max(1, np.abs(given.arrays["k"][1]).max()))


def test_forward_keeps_nan_and_infinity(on_gpu):
    given = Given((40, 20), "float32")
    given.arrays["x"][[3, 4, 5], [2, 17, 19]] = np.nan, np.inf, -np.inf
    x, w = put(given.arrays["x"]), put(abs(given.arrays["w"]))
    y = put(np.full((40, 20), 7, np.float32))
    a = given.there
    cuda.batch_norm_fwd(x, w, a["b"], a["mean"], a["inv_std"], y, Epilogue(relu=True))
    y = y.get()
    assert np.isnan(y[3, 2])
    assert y[4, 17] == np.inf
    assert y[5, 19] == 0
    assert np.isfinite(y).sum() == y.size - 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_pending_shortcut_gives_the_bits_of_a_written_one(shape, dtype, on_gpu):
    a = Given(shape, dtype).there
    written, y, fused = (put(np.full(shape, 7, dtype)) for _ in range(3))
    given = a["w"], a["b"], a["mean"], a["inv_std"]
    cuda.batch_norm_fwd(a["other"], *given, written)
    cuda.batch_norm_fwd(a["x"], *given, y, Epilogue(written))
    cuda.batch_norm_fwd(a["x"], *given, fused, Epilogue(Operand(a["other"], NORMALISED, a["k"])))
    np.testing.assert_array_equal(y.get(), fused.get())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_the_backward_pass(shape, dtype, conditions):
    """Every combination of what the sums may take over; and the coefficients of the gradient."""

    def run(module, a, new):
        found = []
        for second, gate, keep in itertools.product((0, 1), ("none", "y", "k"), (0, 1)):
            options = {"second": a["other"] if second else None}
            options["gate"] = a["y"] if gate == "y" else None
            options["coefficients"] = a["k"] if gate == "k" else None
            options["masked"] = new(*shape) if keep else None
            options["slopes"] = new(5, shape[1]) if keep else None
            options["forward"] = a["k"] if keep else None
            sums = new(shape[1]), new(shape[1])
            module.batch_norm_bwd_affine(a["gy"], a["x"], a["mean"], a["inv_std"], *sums, **options)
            found += sums
            found += [options["masked"], options["slopes"]] if keep else []
        return found

    given = Given(shape, dtype)
    largest = max(1, np.abs(given.arrays["inv_std"]).max()) ** 2
    check(*both(run, given), dtype, 10 * np.sqrt(shape[0]) * largest)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_recomputed_gate_is_shut_where_the_output_was_zero(shape, dtype, on_gpu):
    a = Given(shape, dtype).there
    y, by_output, by_input = (put(np.full(shape, 7, dtype)) for _ in range(3))
    sums = put(np.empty((2, shape[1]), dtype))
    given = a["gy"], a["x"], a["mean"], a["inv_std"], *sums
    cuda.batch_norm_fwd(a["x"], a["w"], a["b"], a["mean"], a["inv_std"], y, Epilogue(relu=True))
    cuda.batch_norm_bwd_affine(*given, gate=y, masked=by_output)
    cuda.batch_norm_bwd_affine(*given, coefficients=a["k"], masked=by_input)
    np.testing.assert_array_equal(by_output.get(), by_input.get())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradient(shape, dtype, conditions):
    given = Given(shape, dtype)
    sums = [np.random.default_rng(2).standard_normal(shape[1]).astype(dtype) for _ in range(2)]

    def run(module, a, new):
        place = put if module is cuda else np.asarray
        found = new(*shape), new(*shape)
        for batch, gx in zip((True, False), found):
            gw, gb = map(place, sums)
            module.batch_norm_bwd_x(
                a["gy"], a["x"], a["w"], a["mean"], a["inv_std"], gw, gb, batch, gx
            )
        return found

    largest = max(1, np.abs(given.arrays["inv_std"]).max()) ** 2
    check(*both(run, given), dtype, 10 * largest)


def results(shape):
    """Everything that the kernels compute for one shape."""
    a = Given(shape, "float32").there
    mean, var, gw, gb = (put(np.full(shape[1], 7, np.float32)) for _ in range(4))
    y, gx = (put(np.full(shape, 7, np.float32)) for _ in range(2))
    cuda.batch_norm_statistics(a["x"], mean, var)
    cuda.batch_norm_fwd(a["x"], a["w"], a["b"], mean, a["inv_std"], y, Epilogue(relu=True))
    cuda.batch_norm_bwd_affine(a["gy"], a["x"], mean, a["inv_std"], gw, gb, gate=y)
    cuda.batch_norm_bwd_x(a["gy"], a["x"], a["w"], mean, a["inv_std"], gw, gb, True, gx)
    return [array.get() for array in (mean, var, y, gw, gb, gx)]


@pytest.fixture(scope="module")
def first_bits():
    """Results by shape, of the conditions under which a shape was met first."""
    return {}


@pytest.mark.parametrize("shape", [(700, 5), (300, 136)], ids=str)
def test_the_same_bits_in_every_order_of_threads(shape, conditions, first_bits):
    found = results(shape)
    for a, b in zip(found, first_bits.setdefault(shape, found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_views_that_begin_within_a_pack(on_gpu):
    """Of 16 bytes nothing may be read at a time there."""
    given = Given((9, 8), "float32")
    whole = put(np.concatenate([[7], given.arrays["x"].reshape(-1)]).astype(np.float32))
    y = put(np.full((9, 8), 7, np.float32))
    a = given.there
    vectors = a["w"], a["b"], a["mean"], a["inv_std"]
    cuda.batch_norm_fwd(whole[1:].reshape(9, 8), *vectors, y, Epilogue(relu=True))
    np.testing.assert_allclose(y.get(), given.arrays["y"], atol=1e-5)


@simulated
@pytest.mark.parametrize("c", [16, 136])
def test_no_more_of_memory_is_touched_than_is_used(c, on_gpu):
    """Counted in sectors of 32 bytes, the least that memory hands out."""
    given = Given((70, c), "float32")
    a = given.there
    mean, var, gw, gb = (put(np.full(c, 7, np.float32)) for _ in range(4))
    y, gx, masked = (put(np.full((70, c), 7, np.float32)) for _ in range(3))
    vectors = a["w"], a["b"], a["mean"], a["inv_std"]
    sums = a["gy"], a["x"], a["mean"], a["inv_std"], gw, gb
    runs = [
        lambda: cuda.batch_norm_statistics(a["x"], mean, var),
        lambda: cuda.batch_norm_fwd(a["x"], *vectors, y, Epilogue(a["other"], relu=True)),
        lambda: cuda.batch_norm_bwd_affine(*sums, gate=a["y"], masked=masked),
        lambda: cuda.batch_norm_bwd_x(*sums[:2], a["w"], *sums[2:], True, gx),
    ]
    for run in runs:
        with cudasim.counting() as counts:
            run()
        assert counts["global load"].instructions
        for kind in set(counts) & {"global load", "global store"}:
            assert counts[kind].cost <= counts[kind].least, kind

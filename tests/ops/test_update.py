"""The update rules: the reference by plain numbers, the kernels against the reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import minires as mr
from minires.ops import update
from minires.ops.update import kernel_numba, kernel_numpy

# sizes just beside those of vectors and of the pieces of a launch, of no entry, and of none at all
SHAPES = [(), (0,), (1,), (15,), (16,), (17,), (7, 5), (64, 3, 3, 3), (8191,), (8192,), (3, 8193)]

# lr, weight_decay, momentum, keep, nesterov, begins
SGD = {
    "plain": (0.1, 0, 0, 1, 0, 0),
    "decay": (0.1, 0.2, 0, 1, 0, 0),
    "momentum": (0.1, 0, 0.9, 1, 0, 0),
    "first": (0.1, 0.2, 0.9, 1, 0, 1),
    "first, nesterov": (0.1, 0.2, 0.9, 1, 1, 1),
    "dampening": (0.1, 0.2, 0.9, 0.7, 0, 0),
    "nesterov": (0.1, 0.2, 0.9, 1, 1, 0),
    "upward": (-0.1, 0.2, 0.9, 1, 1, 0),
}
# step, shrink, penalty, rate_1, beta_2, rate_2, root, eps, amsgrad
MOMENTS = (0.1, 0.99, 0.01, math.sqrt(0.02), 1e-8)
ADAM = {
    "plain": (0.01, 1, 0, *MOMENTS, 0),
    "amsgrad": (0.01, 1, 0, *MOMENTS, 1),
    "decay": (0.01, 1, 0.2, *MOMENTS, 0),
    "decoupled decay": (0.01, 0.998, 0, *MOMENTS, 0),
    "decoupled decay, amsgrad": (0.01, 0.998, 0, *MOMENTS, 1),
}
# lr, weight_decay, alpha, rate, eps, momentum, centered, sign
RMSPROP = {
    "plain": (0.01, 0, 0.9, 0.1, 1e-3, 0, 0, 1),
    "decay": (0.01, 0.2, 0.9, 0.1, 1e-3, 0, 0, 1),
    "momentum": (0.01, 0, 0.9, 0.1, 1e-3, 0.8, 0, 1),
    "centered": (0.01, 0, 0.9, 0.1, 1e-2, 0, 1, 1),
    "centered, momentum, decay, uphill": (0.01, 0.2, 0.5, 0.5, 1e-2, 0.8, 1, -1),
}
ROWS = {"sgd": SGD, "adam": ADAM, "rmsprop": RMSPROP}
RULES = [(rule, name) for rule, rows in ROWS.items() for name in rows]
KEPT = {"sgd": ["velocity"], "adam": ["m", "v", "top"], "rmsprop": ["square", "mean", "momentum"]}


def guarded(values, margin=16):
    """A copy with NaN before and behind it in memory, and the whole memory."""
    memory = np.full(values.size + 2 * margin, np.nan, values.dtype)
    inner = memory[margin : margin + values.size].reshape(values.shape)
    inner[...] = values
    return inner, memory


def arrays(rule, row, shapes, dtype, seed=0):
    """A parameter, a gradient and what the rule keeps, for each shape; and all their memory."""
    rng, columns, memories = np.random.default_rng(seed), [], []
    for name in ("p", "g", *KEPT[rule]):
        column = []
        for shape in shapes:
            values = np.asarray(rng.standard_normal(shape), dtype)
            if name in ("v", "top"):
                values = np.square(values)
            if name == "square":  # larger than the square of any mean: a variance is above 0
                values = np.asarray(16 + np.square(values))
            if name == "velocity" and row[5]:
                values = np.zeros_like(values)
            inner, memory = guarded(values)
            column.append(inner)
            memories.append(memory)
        columns.append(column)
    if rule == "sgd" and not row[2]:
        columns[2] = [None] * len(shapes)
    if rule == "adam" and not row[8]:
        columns[4] = [None] * len(shapes)
    for k, needed in ((3, 6), (4, 5)) if rule == "rmsprop" else ():
        if not row[needed]:
            columns[k] = [None] * len(shapes)
    return columns, memories


def run(kernels, rule, columns, rows):
    getattr(kernels, f"update_{rule}")(*columns, np.array(rows, np.float64))


def assert_close(got, expected):
    assert got.dtype == expected.dtype
    rtol = {"float32": 4e-6, "float64": 1e-14}[got.dtype.name]
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "name"), RULES)
def test_the_kernel_agrees_with_the_reference(rule, name, dtype):
    row = ROWS[rule][name]
    mine, memories = arrays(rule, row, SHAPES, dtype)
    theirs, _ = arrays(rule, row, SHAPES, dtype)
    before = [g.copy() for g in mine[1]]
    run(kernel_numba, rule, mine, [row] * len(SHAPES))
    run(kernel_numpy, rule, theirs, [row] * len(SHAPES))
    for got, expected in zip(itertools.chain(*mine), itertools.chain(*theirs)):
        if got is not None:
            assert_close(got, expected)
    assert all(np.array_equal(g, gradient) for g, gradient in zip(mine[1], before))
    for memory in memories:  # nothing is written outside of the arrays, or made of what is there
        assert np.isnan(memory[:16]).all()
        assert np.isnan(memory[-16:]).all()
        assert not np.isnan(memory[16:-16]).any()


def scalar(rule, row, p, g, *kept):
    """The rule for one entry, written out."""
    if rule == "sgd":
        lr, decay, momentum, keep, nesterov, begins = row
        g = g + decay * p
        if not momentum:
            return (p - lr * g,)
        v = g if begins else momentum * kept[0] + keep * g
        return p - lr * (g + momentum * v if nesterov else v), v
    if rule == "rmsprop":
        lr, decay, alpha, rate, eps, momentum, centered, sign = row
        kept = [*kept]
        g = sign * g + decay * p
        kept[0] = variance = alpha * kept[0] + rate * g**2
        if centered:
            kept[1] += rate * (g - kept[1])
            variance -= kept[1] ** 2
        u = g / (math.sqrt(variance) + eps)
        if momentum:
            kept[-1] = u = momentum * kept[-1] + u
        return p - lr * u, *kept
    step, shrink, penalty, rate_1, beta_2, rate_2, root, eps, amsgrad = row
    p = shrink * p
    g = g + penalty * p
    m, v = kept[0] + rate_1 * (g - kept[0]), beta_2 * kept[1] + rate_2 * g**2
    top = max(kept[2], v) if amsgrad else v
    p = p - step * m / (math.sqrt(top) / root + eps)
    return (p, m, v, top) if amsgrad else (p, m, v)


@pytest.mark.parametrize(("rule", "name"), RULES)
def test_the_reference_agrees_with_plain_numbers(rule, name):
    row = ROWS[rule][name]
    columns, _ = arrays(rule, row, [(3, 4)], "float64")
    entries = [a[0].ravel().tolist() for a in columns if a[0] is not None]
    run(kernel_numpy, rule, columns, [row])
    p, _, *kept = [a[0] for a in columns if a[0] is not None]
    expected = [scalar(rule, row, *entry) for entry in zip(*entries)]
    for got, wanted in zip((p, *kept), zip(*expected), strict=True):
        np.testing.assert_allclose(got.ravel(), wanted, rtol=1e-14, atol=1e-15)


def test_sgd_by_hand(backend):
    # v = 0.5 * 2 + 1 * 3 = 4 and p = 1 - 0.5 * 4; v = 1 and p = 1 - 0.5 * (1 + 0.5 * 1)
    p, g, v = ([np.array([x]) for x in xs] for xs in ((1.0, 1.0), (3.0, 1.0), (2.0, 0.0)))
    update.sgd(p, g, v, lambda: [(0.5, 0, 0.5, 1, 0, 0), (0.5, 0, 0.5, 1, 1, 1)])
    assert [a.item() for a in (*p, *v)] == [-1.0, 0.25, 4.0, 1.0]


def test_the_first_velocity_is_the_gradient_down_to_the_sign_of_zero():
    g, v = np.array([-0.0, 0.0, 1.0]), np.zeros(3)
    run(kernel_numpy, "sgd", [[np.ones(3)], [g], [v]], [(*SGD["momentum"][:5], 1)])
    assert v.tobytes() == g.tobytes()


def test_adam_by_hand(backend):
    # m = 0 + 0.5 * 2 = 1, v = 0 + 0.25 * 4 = 1: p = 1 - 0.5 * 1 / (1 / 0.5 + 0)
    p, g, m, v = ([np.array([x])] for x in (1.0, 2.0, 0.0, 0.0))
    update.adam(p, g, m, v, [None], lambda: [(0.5, 1, 0, 0.5, 0.75, 0.25, 0.5, 0, 0)])
    assert [a.item() for (a,) in (p, m, v)] == [0.75, 1.0, 1.0]


def test_rmsprop_by_hand(backend):
    # v = 0.5 * 2 + 0.5 * 4 = 3, m = 0 + 0.5 * 2 = 1, u = 2 / (sqrt(3 - 1) + 0)
    p, g, v, m = ([np.array([x])] for x in (1.0, 2.0, 2.0, 0.0))
    update.rmsprop(p, g, v, m, [None], lambda: [(1, 0, 0.5, 0.5, 0, 0, 1, 1)])
    assert [a.item() for (a,) in (v, m)] == [3.0, 1.0]
    assert p[0].item() == pytest.approx(1 - math.sqrt(2), abs=1e-15)


def test_a_variance_below_zero_by_rounding_counts_as_zero(backend):
    """A gradient that stays the same has none: v - m² is 0 or some rounding beside it."""
    g = np.linspace(0.1, 3, 1000, dtype=np.float32)
    p, v, m = np.zeros_like(g), g * g * np.float32(1 - 1e-6), g.copy()
    update.rmsprop([p], [g], [v], [m], [None], lambda: [(1, 0, 1, 0, 0.5, 0, 1, 1)])
    np.testing.assert_allclose(p, -g / 0.5, rtol=3e-3)


@pytest.mark.parametrize("rule", ROWS)
def test_each_parameter_has_coefficients_of_its_own(rule):
    """Rows of every kind in one call, in both dtypes: as each parameter alone."""
    rows = [*ROWS[rule].values()] * 2
    together, alone = [], []
    for columns in (together, alone):
        for k, row in enumerate(rows):
            dtype = "float64" if k % 3 else "float32"
            mine, _ = arrays(rule, row, [(40 + k,)], dtype, seed=k)
            columns.append([column[0] for column in mine])
    run(kernel_numba, rule, [*zip(*together)], rows)
    for columns, row in zip(alone, rows):
        run(kernel_numba, rule, [[a] for a in columns], [row])
    for mine, theirs in zip(itertools.chain(*together), itertools.chain(*alone)):
        assert mine is theirs is None or np.array_equal(mine, theirs)


STRIDED = {
    "fortran": lambda x: np.asfortranarray(x),
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "a column": lambda x: np.stack([x, x], axis=-1)[..., 0],
    "not aligned": lambda x: _unaligned(x),
}


def _unaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    result = memory[1:].view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("rule", ROWS)
def test_what_an_address_does_not_tell_is_done_by_the_reference(rule, layout, which):
    """A parameter, or what is kept of it, that is not contiguous: exactly the array expressions;
    the parameters beside it exactly as without it."""
    row, shapes = ROWS[rule]["nesterov" if rule == "sgd" else "decay"], [(6, 5), (4, 9)]
    mine, theirs, plain = (arrays(rule, row, shapes, "float32")[0] for _ in range(3))
    mine[which][0] = STRIDED[layout](mine[which][0])
    assert not mine[which][0].flags.carray
    run(kernel_numba, rule, mine, [row] * 2)
    run(kernel_numpy, rule, theirs, [row] * 2)
    run(kernel_numba, rule, plain, [row] * 2)
    for column, expected, beside in zip(mine, theirs, plain):
        if column[0] is not None:
            assert np.array_equal(column[0], expected[0])
            assert np.array_equal(column[1], beside[1])


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("rule", ROWS)
def test_gradients_come_in_any_layout(rule, layout):
    row = ROWS[rule]["decay"]
    mine, plain = (arrays(rule, row, [(6, 5)], "float32")[0] for _ in range(2))
    mine[1][0] = STRIDED[layout](mine[1][0])
    mine[1][0].flags.writeable = False
    run(kernel_numba, rule, mine, [row])
    run(kernel_numba, rule, plain, [row])
    assert np.array_equal(mine[0][0], plain[0][0])


@pytest.mark.parametrize("rule", ROWS)
def test_any_number_of_threads_gives_the_same_bits(rule):
    limit, results = mr.get_num_threads(), []
    row = [*ROWS[rule].values()][-1]
    try:
        for threads in (1, min(limit, 2), min(limit, 2)):
            mr.set_num_threads(threads)
            columns, _ = arrays(rule, row, SHAPES, "float32")
            run(kernel_numba, rule, columns, [row] * len(SHAPES))
            results.append(columns)
    finally:
        mr.set_num_threads(limit)
    for other in results[1:]:
        for mine, theirs in zip(itertools.chain(*results[0]), itertools.chain(*other)):
            assert mine is theirs is None or np.array_equal(mine, theirs)


@pytest.mark.parametrize("kernels", [kernel_numba, kernel_numpy])
def test_nan_and_infinity_stay_in_their_entries(kernels):
    for rule, row in (("sgd", SGD["momentum"]), ("adam", ADAM["plain"])):
        columns, _ = arrays(rule, row, [(40,)], "float32")
        columns[1][0][3], columns[1][0][20] = np.nan, np.inf
        with np.errstate(invalid="ignore"):
            run(kernels, rule, columns, [row])
        finite = np.isfinite(columns[0][0])
        assert not finite[3]
        assert not finite[20]
        assert finite.sum() == 38


def test_zeros(backend):
    mine = [guarded(np.full(shape, np.nan, d)) for shape in SHAPES for d in ("f4", "f8")]
    strided = [STRIDED[layout](np.full((6, 5), np.nan)) for layout in STRIDED]
    update.zero([*[inner for inner, _ in mine], *strided])
    assert not any(inner.any() for inner, _ in mine)
    assert all(np.isnan(memory[:16]).all() and np.isnan(memory[-16:]).all() for _, memory in mine)
    assert not any(array.any() for array in strided)


@pytest.mark.parametrize("rule", ROWS)
def test_a_replayed_step_asks_for_the_coefficients_again(rule):
    """Parameters of both dtypes and one that is strided, with a rate that changes at every step."""
    ends = []
    for capture in (False, True):
        rng = np.random.default_rng(0)
        values = [rng.standard_normal((5, 4)).astype(dtype) for dtype in ("f4", "f8", "f4")]
        values[2] = np.asfortranarray(values[2])
        params = [mr.from_numpy(value) for value in values]
        for p in params:
            p.requires_grad = True
        kind, options = mr.optim.SGD, {"momentum": 0.9}
        if rule == "adam":
            kind, options = mr.optim.Adam, {"amsgrad": True}
        optimizer = kind(params, lr=0.1, **options)

        def step(x, params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum((p.astype("float32") * x).square().sum() for p in params)
            loss.backward()
            optimizer.step()
            return loss

        if capture:
            step = mr.capture(step, optimizer)
        for k in range(6):
            optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
            step(mr.from_numpy(rng.standard_normal((5, 4)).astype("f4")))
        ends.append(params)
        if capture:
            assert "recordings=1" in repr(step)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(*ends))

"""The update rules on the CPU, for all parameters in one launch.

A network has many small parameters, and a launch for each would cost more than its work. So the
kernels get a *table*: its rows are pieces of parameters, each with the addresses of the piece in
every array (parameter, gradient, ...), its size, and whose row of coefficients is meant. A task
does several rows that follow each other (``together``).

An address says nothing of strides. Arrays that are not contiguous are therefore updated by the
array expressions of the reference, which follow any strides; the results differ from those of the
kernels by rounding.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...autograd import call
from ...errors import message
from ...kernels.numba.compiler import device_function
from ...kernels.numba.kernel import Kernel, kernel
from ...kernels.numba.prologue import clear
from ...kernels.numba.simd import (
    at_address,
    fma,
    lanes_of,
    load,
    spread,
    sqrt,
    store,
    where_above,
)
from . import kernel_numpy as reference
from .op import (
    ALPHA,
    AMSGRAD,
    BETA_2,
    CENTERED,
    EPS,
    KEEP,
    LR,
    MOMENTUM,
    NESTEROV,
    PENALTY,
    RATE,
    RATE_1,
    RATE_2,
    RMS_EPS,
    RMS_MOMENTUM,
    ROOT,
    SHRINK,
    SIGN,
    STEP,
    WEIGHT_DECAY,
)

PIECE = 1 << 13  # entries of a parameter in one row of the table, and about those of a task
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))  # what the kernels are compiled for


@device_function
def _sgd_rule(p, g, v, lr, decay, momentum, keep, decays, moves, nesterov):
    """The new parameter and velocity; of vectors or of single entries."""
    if decays:
        g = fma(decay, p, g)
    if moves:
        v = fma(momentum, v, keep * g)
        if nesterov:
            g = fma(momentum, v, g)
        else:
            g = v
    return p - lr * g, v


@kernel
def _sgd(task, table, rows, together, coefficients, columns):
    # a row of the table: the addresses of p, g and v; the size; the row of coefficients
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 5, table[row * 5 + 3], table[row * 5 + 4] * columns
        p = at_address(table[at], size, coefficients)
        g = at_address(table[at + 1], size, coefficients)
        v = at_address(table[at + 2], size, coefficients)
        decays, moves = coefficients[o + WEIGHT_DECAY] != 0, coefficients[o + MOMENTUM] != 0
        nesterov = coefficients[o + NESTEROV] != 0
        width = lanes_of(coefficients)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, vs = _sgd_rule(
                load(p, i),
                load(g, i),
                load(v, i),
                spread(coefficients, o + LR),
                spread(coefficients, o + WEIGHT_DECAY),
                spread(coefficients, o + MOMENTUM),
                spread(coefficients, o + KEEP),
                decays,
                moves,
                nesterov,
            )
            store(p, i, ps)
            if moves:
                store(v, i, vs)
        for i in range(whole, size):
            p_, v_ = _sgd_rule(
                p[i],
                g[i],
                v[i],
                coefficients[o + LR],
                coefficients[o + WEIGHT_DECAY],
                coefficients[o + MOMENTUM],
                coefficients[o + KEEP],
                decays,
                moves,
                nesterov,
            )
            p[i] = p_
            if moves:
                v[i] = v_


@device_function
def _adam_rule(
    p, g, m, v, most, step, shrink, penalty, rate_1, beta_2, rate_2, root, eps, decays, amsgrad
):
    """The new parameter and moments; of vectors or of single entries."""
    p = p * shrink
    if decays:
        g = fma(penalty, p, g)
    m = fma(rate_1, g - m, m)
    v = fma(rate_2 * g, g, beta_2 * v)
    top = v
    if amsgrad:
        most = where_above(v, most, v, most)
        top = most
    return p - step * m / (sqrt(top) / root + eps), m, v, most


@kernel
def _adam(task, table, rows, together, coefficients, columns):
    # a row of the table: the addresses of p, g, m, v and most; the size; the row of coefficients
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 7, table[row * 7 + 5], table[row * 7 + 6] * columns
        p = at_address(table[at], size, coefficients)
        g = at_address(table[at + 1], size, coefficients)
        m = at_address(table[at + 2], size, coefficients)
        v = at_address(table[at + 3], size, coefficients)
        most = at_address(table[at + 4], size, coefficients)
        decays, amsgrad = coefficients[o + PENALTY] != 0, coefficients[o + AMSGRAD] != 0
        width = lanes_of(coefficients)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, ms, vs, tops = _adam_rule(
                load(p, i),
                load(g, i),
                load(m, i),
                load(v, i),
                load(most, i),
                spread(coefficients, o + STEP),
                spread(coefficients, o + SHRINK),
                spread(coefficients, o + PENALTY),
                spread(coefficients, o + RATE_1),
                spread(coefficients, o + BETA_2),
                spread(coefficients, o + RATE_2),
                spread(coefficients, o + ROOT),
                spread(coefficients, o + EPS),
                decays,
                amsgrad,
            )
            store(p, i, ps)
            store(m, i, ms)
            store(v, i, vs)
            if amsgrad:
                store(most, i, tops)
        for i in range(whole, size):
            p_, m_, v_, top = _adam_rule(
                p[i],
                g[i],
                m[i],
                v[i],
                most[i],
                coefficients[o + STEP],
                coefficients[o + SHRINK],
                coefficients[o + PENALTY],
                coefficients[o + RATE_1],
                coefficients[o + BETA_2],
                coefficients[o + RATE_2],
                coefficients[o + ROOT],
                coefficients[o + EPS],
                decays,
                amsgrad,
            )
            p[i], m[i], v[i] = p_, m_, v_
            if amsgrad:
                most[i] = top


@device_function
def _rmsprop_rule(
    p, g, v, m, b, lr, decay, alpha, rate, eps, momentum, sign, zero, decays, centered, moves
):
    """The new parameter, means and momentum; of vectors or of single entries."""
    g = sign * g
    if decays:
        g = fma(decay, p, g)
    v = fma(rate * g, g, alpha * v)
    variance = v
    if centered:
        m = fma(rate, g - m, m)
        variance = fma(zero - m, m, v)
        variance = where_above(zero, variance, zero, variance)  # below 0 by rounding; NaN stays
    u = g / (sqrt(variance) + eps)
    if moves:
        b = fma(momentum, b, u)
        u = b
    return p - lr * u, v, m, b


@kernel
def _rmsprop(task, table, rows, together, coefficients, columns):
    # a row of the table: the addresses of p, g, v, m and b; the size; the row of coefficients
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 7, table[row * 7 + 5], table[row * 7 + 6] * columns
        p = at_address(table[at], size, coefficients)
        g = at_address(table[at + 1], size, coefficients)
        v = at_address(table[at + 2], size, coefficients)
        m = at_address(table[at + 3], size, coefficients)
        b = at_address(table[at + 4], size, coefficients)
        decays, centered = coefficients[o + WEIGHT_DECAY] != 0, coefficients[o + CENTERED] != 0
        moves = coefficients[o + RMS_MOMENTUM] != 0
        width = lanes_of(coefficients)
        whole = size - size % width
        for i in range(0, whole, width):
            sign = spread(coefficients, o + SIGN)
            ps, vs, ms, bs = _rmsprop_rule(
                load(p, i),
                load(g, i),
                load(v, i),
                load(m, i),
                load(b, i),
                spread(coefficients, o + LR),
                spread(coefficients, o + WEIGHT_DECAY),
                spread(coefficients, o + ALPHA),
                spread(coefficients, o + RATE),
                spread(coefficients, o + RMS_EPS),
                spread(coefficients, o + RMS_MOMENTUM),
                sign,
                sign - sign,
                decays,
                centered,
                moves,
            )
            store(p, i, ps)
            store(v, i, vs)
            if centered:
                store(m, i, ms)
            if moves:
                store(b, i, bs)
        for i in range(whole, size):
            p_, v_, m_, b_ = _rmsprop_rule(
                p[i],
                g[i],
                v[i],
                m[i],
                b[i],
                coefficients[o + LR],
                coefficients[o + WEIGHT_DECAY],
                coefficients[o + ALPHA],
                coefficients[o + RATE],
                coefficients[o + RMS_EPS],
                coefficients[o + RMS_MOMENTUM],
                coefficients[o + SIGN],
                coefficients[o + SIGN] - coefficients[o + SIGN],
                decays,
                centered,
                moves,
            )
            p[i], v[i] = p_, v_
            if centered:
                m[i] = m_
            if moves:
                b[i] = b_


@kernel
def _zero(task, table, rows, together, coefficients, columns):
    # a row of the table: the address; the size; the row of coefficients, which only tell the dtype
    for row in range(task * together, min((task + 1) * together, rows)):
        size = table[row * 3 + 1]
        clear(at_address(table[row * 3], size, coefficients), 0, size)


@functools.lru_cache(maxsize=64)
def _pieces(sizes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Of each piece: which parameter it belongs to, its first entry there, and its size."""
    counts = [-(-size // PIECE) for size in sizes]
    owner = np.repeat(np.arange(len(sizes)), counts)
    first = np.concatenate([np.arange(0, size, PIECE) for size in sizes])
    return owner, first, np.minimum(np.array(sizes)[owner] - first, PIECE)


def _address(x: np.ndarray[Any, Any], name: str) -> int:
    """Where a contiguous array begins in memory; ``name`` is who asks, for the error."""
    try:  # four times as quick, for arrays that are writable and not empty
        return ctypes.addressof(ctypes.c_char.from_buffer(x))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        if not x.flags.c_contiguous:
            strides = f"strides {x.strides}"
            raise ValueError(message(name, "contiguous arrays", strides)) from error
        address: int = x.__array_interface__["data"][0]
        return address


def _launch(function: Kernel, arrays: Sequence[Sequence[Any]], coefficients: Any) -> None:
    """Run a kernel on parameters of one dtype, each given as its arrays, which have one size, and
    its row of ``coefficients`` (parameters, columns)."""
    name, dtype = function.function.__name__, coefficients.dtype
    addresses = np.array([[_address(a, name) for a in mine] for mine in arrays], np.int64)
    owner, first, size = _pieces(tuple(mine[0].size for mine in arrays))
    table = np.column_stack([addresses[owner] + dtype.itemsize * first[:, None], size, owner])
    together = max(1, len(table) * PIECE // int(size.sum()))
    tasks, columns = -(-len(table) // together), coefficients.shape[1]
    function(
        tasks, np.ascontiguousarray(table), len(table), together, coefficients, columns,
        reaches=[a for mine in arrays for a in mine],
    )  # fmt: skip


def _groups(arrays: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, list[int]]]:
    """The dtypes, each with the indices of the parameters that one launch updates; and None, with
    those of the parameters that no kernel can update. ``arrays`` has for each parameter the arrays
    that are written to, the parameter first, and None in the place of one that it does not have."""
    groups: dict[Any, list[int]] = {dtype: [] for dtype in (*DTYPES, None)}
    for k, mine in enumerate(arrays):
        plain = False not in [a is None or a.flags.carray for a in mine]  # contiguous, writable
        dtype = mine[0].dtype if plain else None
        if not plain or mine[0].size:
            groups[dtype if dtype in groups else None].append(k)
    return ((dtype, chosen) for dtype, chosen in groups.items() if chosen)


def _update(
    function: Kernel, by_reference: Callable[..., None], columns: Sequence[Any], coefficients: Any
) -> None:
    """Update all parameters. ``columns`` are the parameters, their gradients, and the arrays that
    the rule keeps, None where it keeps nothing."""
    params, _, *kept = columns
    for dtype, chosen in _groups([*zip(params, *kept)]):
        ps, gs, *others = ([column[k] for k in chosen] for column in columns)
        if dtype is None:
            arrays = map(tuple, (ps, gs, *others))
            call(_by_reference, by_reference, coefficients, chosen, *arrays)
            continue
        gs = [g if g.flags.c_contiguous else call(np.ascontiguousarray, g) for g in gs]
        # where a rule keeps nothing the kernel writes nothing: any array will do
        others = [[p if a is None else a for p, a in zip(ps, column)] for column in others]
        _launch(function, [*zip(ps, gs, *others)], call(_rounded, coefficients, chosen, dtype))


def _by_reference(
    function: Callable[..., None], coefficients: Any, chosen: Any, *columns: Any
) -> None:
    function(*columns, coefficients[chosen])


def _rounded(coefficients: Any, chosen: Sequence[int], dtype: Any) -> Any:
    return coefficients[chosen].astype(dtype)


def update_sgd(
    params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any], coefficients: Any
) -> None:
    """Change parameters and velocities as SGD does."""
    _update(_sgd, reference.update_sgd, (params, grads, velocities), coefficients)


def update_adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    first_moments: Sequence[Any],
    second_moments: Sequence[Any],
    tops: Sequence[Any],
    coefficients: Any,
) -> None:
    """Change parameters and moments as Adam does."""
    columns = params, grads, first_moments, second_moments, tops
    _update(_adam, reference.update_adam, columns, coefficients)


def update_rmsprop(
    params: Sequence[Any],
    grads: Sequence[Any],
    squares: Sequence[Any],
    means: Sequence[Any],
    buffers: Sequence[Any],
    coefficients: Any,
) -> None:
    """Change parameters, running means and momenta as RMSprop does."""
    columns = params, grads, squares, means, buffers
    _update(_rmsprop, reference.update_rmsprop, columns, coefficients)


def update_zero(arrays: Sequence[Any]) -> None:
    """Fill the arrays with zeros."""
    for dtype, chosen in _groups([(array,) for array in arrays]):
        mine = tuple([arrays[k] for k in chosen])
        if dtype is None:
            call(reference.update_zero, mine)
        else:
            _launch(_zero, [(array,) for array in mine], np.zeros((len(mine), 1), dtype))

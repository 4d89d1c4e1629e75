"""The update rules on the CPU, for all parameters in one launch.

A network has many small parameters, and a launch for each would cost more than its work. So the
kernels get a *table*: its rows are pieces of parameters, each with the addresses of the piece in
every array (parameter, gradient, ...), its size, and which row of the numbers is meant.

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
    AMSGRAD,
    BETA_2,
    EPS,
    KEEP,
    LR,
    MOMENTUM,
    NESTEROV,
    PENALTY,
    RATE_1,
    RATE_2,
    ROOT,
    SHRINK,
    STEP,
    WEIGHT_DECAY,
)

PIECE = 1 << 13  # entries of a parameter in one row of the table, and about those of a task
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))  # what the kernels are compiled for


@device_function
def _sgd_rule(p, g, v, lr, decay, momentum, keep, decays, moves, nesterov):
    """The new parameter and velocity; vectors or numbers."""
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
def _sgd(task, table, rows, together, numbers, columns):
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 5, table[row * 5 + 3], table[row * 5 + 4] * columns
        p = at_address(table[at], size, numbers)
        g = at_address(table[at + 1], size, numbers)
        v = at_address(table[at + 2], size, numbers)
        decays, moves = numbers[o + WEIGHT_DECAY] != 0, numbers[o + MOMENTUM] != 0
        nesterov = numbers[o + NESTEROV] != 0
        width = lanes_of(numbers)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, vs = _sgd_rule(
                load(p, i),
                load(g, i),
                load(v, i),
                spread(numbers, o + LR),
                spread(numbers, o + WEIGHT_DECAY),
                spread(numbers, o + MOMENTUM),
                spread(numbers, o + KEEP),
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
                numbers[o + LR],
                numbers[o + WEIGHT_DECAY],
                numbers[o + MOMENTUM],
                numbers[o + KEEP],
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
    """The new parameter and moments; vectors or numbers."""
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
def _adam(task, table, rows, together, numbers, columns):
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 7, table[row * 7 + 5], table[row * 7 + 6] * columns
        p = at_address(table[at], size, numbers)
        g = at_address(table[at + 1], size, numbers)
        m = at_address(table[at + 2], size, numbers)
        v = at_address(table[at + 3], size, numbers)
        most = at_address(table[at + 4], size, numbers)
        decays, amsgrad = numbers[o + PENALTY] != 0, numbers[o + AMSGRAD] != 0
        width = lanes_of(numbers)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, ms, vs, tops = _adam_rule(
                load(p, i),
                load(g, i),
                load(m, i),
                load(v, i),
                load(most, i),
                spread(numbers, o + STEP),
                spread(numbers, o + SHRINK),
                spread(numbers, o + PENALTY),
                spread(numbers, o + RATE_1),
                spread(numbers, o + BETA_2),
                spread(numbers, o + RATE_2),
                spread(numbers, o + ROOT),
                spread(numbers, o + EPS),
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
                numbers[o + STEP],
                numbers[o + SHRINK],
                numbers[o + PENALTY],
                numbers[o + RATE_1],
                numbers[o + BETA_2],
                numbers[o + RATE_2],
                numbers[o + ROOT],
                numbers[o + EPS],
                decays,
                amsgrad,
            )
            p[i], m[i], v[i] = p_, m_, v_
            if amsgrad:
                most[i] = top


@kernel
def _zero(task, table, rows, together, numbers, columns):
    for row in range(task * together, min((task + 1) * together, rows)):
        size = table[row * 3 + 1]
        clear(at_address(table[row * 3], size, numbers), 0, size)


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


def _launch(function: Kernel, arrays: Sequence[Sequence[Any]], numbers: Any) -> None:
    """Run a kernel on parameters, each given as its arrays (of one size and dtype), and by their
    rows of ``numbers`` (parameters, columns)."""
    name, dtype = function.function.__name__, numbers.dtype
    addresses = np.array([[_address(a, name) for a in mine] for mine in arrays], np.int64)
    owner, first, size = _pieces(tuple(mine[0].size for mine in arrays))
    table = np.column_stack([addresses[owner] + dtype.itemsize * first[:, None], size, owner])
    together = max(1, len(table) * PIECE // int(size.sum()))
    tasks, columns = -(-len(table) // together), numbers.shape[1]
    function(
        tasks, np.ascontiguousarray(table), len(table), together, numbers, columns,
        reaches=[a for mine in arrays for a in mine],
    )  # fmt: skip


def _groups(arrays: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, list[int]]]:
    """Which parameters a launch updates together: their dtype and numbers. The last group, of dtype
    None, is that of the parameters that the kernels cannot update. ``arrays`` has for each
    parameter those that are written to, the parameter first, and None where there is none."""
    groups: dict[Any, list[int]] = {dtype: [] for dtype in (*DTYPES, None)}
    for k, mine in enumerate(arrays):
        plain = False not in [a is None or a.flags.carray for a in mine]  # contiguous, writable
        dtype = mine[0].dtype if plain else None
        if not plain or mine[0].size:
            groups[dtype if dtype in groups else None].append(k)
    return ((dtype, chosen) for dtype, chosen in groups.items() if chosen)


def _update(
    function: Kernel, by_reference: Callable[..., None], columns: Sequence[Any], numbers: Any
) -> None:
    """Update all parameters. ``columns`` are the parameters, their gradients, and the arrays that
    the rule keeps, None where it keeps nothing."""
    params, _, *kept = columns
    for dtype, chosen in _groups([*zip(params, *kept)]):
        ps, gs, *others = ([column[k] for k in chosen] for column in columns)
        if dtype is None:
            arrays = map(tuple, (ps, gs, *others))
            call(_by_reference, by_reference, numbers, chosen, *arrays)
            continue
        gs = [g if g.flags.c_contiguous else call(np.ascontiguousarray, g) for g in gs]
        # where a rule keeps nothing the kernel writes nothing: any array will do
        others = [[p if a is None else a for p, a in zip(ps, column)] for column in others]
        _launch(function, [*zip(ps, gs, *others)], call(_rounded, numbers, chosen, dtype))


def _by_reference(function: Callable[..., None], numbers: Any, chosen: Any, *columns: Any) -> None:
    function(*columns, numbers[chosen])


def _rounded(numbers: Any, chosen: Sequence[int], dtype: Any) -> Any:
    return numbers[chosen].astype(dtype)


def update_sgd(
    params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any], numbers: Any
) -> None:
    """Change parameters and velocities as SGD does."""
    _update(_sgd, reference.update_sgd, (params, grads, velocities), numbers)


def update_adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    first_moments: Sequence[Any],
    second_moments: Sequence[Any],
    tops: Sequence[Any],
    numbers: Any,
) -> None:
    """Change parameters and moments as Adam does."""
    columns = params, grads, first_moments, second_moments, tops
    _update(_adam, reference.update_adam, columns, numbers)


def update_zero(arrays: Sequence[Any]) -> None:
    """Fill the arrays with zeros."""
    for dtype, chosen in _groups([(array,) for array in arrays]):
        mine = tuple([arrays[k] for k in chosen])
        if dtype is None:
            call(reference.update_zero, mine)
        else:
            _launch(_zero, [(array,) for array in mine], np.zeros((len(mine), 1), dtype))

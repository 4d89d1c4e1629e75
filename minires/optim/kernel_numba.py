"""The update rules on the CPU, for all parameters in one launch.

A network has many small parameters, and a launch for each would cost more than its work. So the
kernels get a *table*: its rows are pieces of parameters, each with the addresses of the piece in
every array (parameter, gradient, ...), its size, and which row of the options is meant.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.autograd import call
from minires.errors import message
from minires.kernels.numba.compiler import device_function
from minires.kernels.numba.kernel import Kernel, kernel
from minires.kernels.numba.prologue import clear
from minires.kernels.numba.simd import (
    at_address,
    fma,
    lanes_of,
    load,
    spread,
    sqrt,
    store,
    where_above,
)

PIECE = 1 << 13  # entries of a parameter in one row of the table, and about those of a task

# options of SGD; KEEP is the share of the gradient that enters the velocity
LR, DECAY, MOMENTUM, KEEP, NESTEROV = range(5)
# options of Adam; ROOT = sqrt(1 - beta2^t), and STEP = lr / (1 - beta1^t)
STEP, SHRINK, PENALTY, RATE_1, BETA_2, RATE_2, ROOT, EPS, AMSGRAD = range(9)


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
def _sgd(task, table, rows, together, options, width_of_options):
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 5, table[row * 5 + 3], table[row * 5 + 4] * width_of_options
        p = at_address(table[at], size, options)
        g = at_address(table[at + 1], size, options)
        v = at_address(table[at + 2], size, options)
        decays, moves = options[o + DECAY] != 0, options[o + MOMENTUM] != 0
        nesterov = options[o + NESTEROV] != 0
        width = lanes_of(options)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, vs = _sgd_rule(
                load(p, i),
                load(g, i),
                load(v, i),
                spread(options, o + LR),
                spread(options, o + DECAY),
                spread(options, o + MOMENTUM),
                spread(options, o + KEEP),
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
                options[o + LR],
                options[o + DECAY],
                options[o + MOMENTUM],
                options[o + KEEP],
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
def _adam(task, table, rows, together, options, width_of_options):
    for row in range(task * together, min((task + 1) * together, rows)):
        at, size, o = row * 7, table[row * 7 + 5], table[row * 7 + 6] * width_of_options
        p = at_address(table[at], size, options)
        g = at_address(table[at + 1], size, options)
        m = at_address(table[at + 2], size, options)
        v = at_address(table[at + 3], size, options)
        most = at_address(table[at + 4], size, options)
        decays, amsgrad = options[o + PENALTY] != 0, options[o + AMSGRAD] != 0
        width = lanes_of(options)
        whole = size - size % width
        for i in range(0, whole, width):
            ps, ms, vs, tops = _adam_rule(
                load(p, i),
                load(g, i),
                load(m, i),
                load(v, i),
                load(most, i),
                spread(options, o + STEP),
                spread(options, o + SHRINK),
                spread(options, o + PENALTY),
                spread(options, o + RATE_1),
                spread(options, o + BETA_2),
                spread(options, o + RATE_2),
                spread(options, o + ROOT),
                spread(options, o + EPS),
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
                options[o + STEP],
                options[o + SHRINK],
                options[o + PENALTY],
                options[o + RATE_1],
                options[o + BETA_2],
                options[o + RATE_2],
                options[o + ROOT],
                options[o + EPS],
                decays,
                amsgrad,
            )
            p[i], m[i], v[i] = p_, m_, v_
            if amsgrad:
                most[i] = top


@kernel
def _zero(task, table, rows, together, options, width_of_options):
    for row in range(task * together, min((task + 1) * together, rows)):
        size = table[row * 3 + 1]
        clear(at_address(table[row * 3], size, options), 0, size)


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


Options = Callable[[], Sequence[Sequence[float]]]


def _launch(function: Kernel, arrays: Sequence[Sequence[Any]], options: Options) -> None:
    """Run a kernel on parameters, each given as its arrays (of one size), and by their options,
    which are asked for once in a step.

    There is a launch for each dtype among them.
    """
    numbers = call(_numbers, options)
    name = function.function.__name__
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        chosen = [k for k, mine in enumerate(arrays) if mine[0].dtype == dtype and mine[0].size]
        if not chosen:
            continue
        addresses = np.array([[_address(a, name) for a in arrays[k]] for k in chosen], np.int64)
        owner, first, size = _pieces(tuple(arrays[k][0].size for k in chosen))
        table = np.column_stack([addresses[owner] + dtype.itemsize * first[:, None], size, owner])
        together = max(1, len(table) * PIECE // int(size.sum()))
        mine = call(_rows, numbers, chosen, dtype)
        tasks = -(-len(table) // together)
        function(
            tasks, np.ascontiguousarray(table), len(table), together, mine, mine.shape[1],
            reaches=[a for k in chosen for a in arrays[k]],
        )  # fmt: skip


def _numbers(options: Options) -> Any:
    return np.array(options(), np.float64)


def _rows(numbers: Any, chosen: Sequence[int], dtype: Any) -> Any:
    return numbers[chosen].astype(dtype)


def sgd(arrays: Sequence[Sequence[Any]], options: Options) -> None:
    """One step of SGD: (parameter, gradient, velocity) of each parameter, changed in place, and
    its (LR, DECAY, MOMENTUM, KEEP, NESTEROV). Without momentum the velocity may be any array."""
    _launch(_sgd, arrays, options)


def adam(arrays: Sequence[Sequence[Any]], options: Options) -> None:
    """One step of Adam: (parameter, gradient, first and second moment, largest second moment) of
    each parameter, changed in place, and its (STEP, SHRINK, PENALTY, RATE_1, BETA_2, RATE_2, ROOT,
    EPS, AMSGRAD). Without amsgrad the last array may be any."""
    _launch(_adam, arrays, options)


def zero(arrays: Sequence[Any]) -> None:
    """Fill arrays with zeros."""
    _launch(_zero, [(array,) for array in arrays], lambda: [(0.0,)] * len(arrays))

"""The update rules on the GPU: up to 64 parameters in a launch (``kernel_cuda.cu`` tells how).

A launch that was recorded is run again with the same arguments, so the coefficients, which are
others in each step, are passed through memory: :class:`_Coefficients` writes them there, by a call
that a graph does not contain and a replay makes before it.

Arrays that are not contiguous, or of another dtype, are updated by the array expressions of the
reference, as on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import call
from ...device import array_module, backend_of
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.source import c_type
from . import kernel_numpy as reference

_SOURCE = Path(__file__).with_suffix(".cu")
THREADS, MOST, TURNS = 256, 64, 4  # as in the source
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))  # what the kernels are compiled for
BYTES = 3584  # of numbers that a launch may pass by value, where CUDA allows 4096 for everything
LARGEST = 1 << 30  # entries of a parameter in one row of the table: indices have 32 bits


@functools.cache
def _kernel(name: str, dtype: Any) -> Kernel:
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module launches."""
    names = "update_sgd", "update_adam", "update_rmsprop", "update_zero", "update_coefficients"
    return (_kernel(name, dtype) for name in names for dtype in DTYPES)


@functools.cache
def _layout(arrays: int) -> np.dtype[Any]:
    """The struct ``Table<arrays>``."""
    return np.dtype(
        [
            ("address", "u8", (arrays, MOST)),
            ("size", "i4", (MOST,)),
            ("row", "i4", (MOST,)),
            ("first", "i4", (MOST + 1,)),
            ("count", "i4"),
        ],
        align=True,
    )


def _pieces(arrays: Sequence[Sequence[Any]]) -> Iterator[tuple[list[int], int, int]]:
    """The rows of the table: addresses, size, and the number of the parameter. One that is too
    large for 32 bits has several rows."""
    for number, mine in enumerate(arrays):
        size, itemsize = mine[0].size, mine[0].dtype.itemsize
        addresses = [0 if a is None else a.data.ptr for a in mine]
        for begin in range(0, size, LARGEST):
            moved = [at + begin * itemsize if at else 0 for at in addresses]
            yield moved, min(size - begin, LARGEST), number


def _launch(kernel: Kernel, arrays: Sequence[Sequence[Any]], *coefficients: Any) -> None:
    """Run a kernel on parameters of one dtype, each given as its arrays, which have one size."""
    piece = THREADS * TURNS * (16 // arrays[0][0].dtype.itemsize)
    pieces = [*_pieces(arrays)]
    for begin in range(0, len(pieces), MOST):
        part = pieces[begin : begin + MOST]
        addresses, sizes, numbers = zip(*part)
        table = np.zeros(1, _layout(len(arrays[0])))
        count = len(part)
        table["address"][0, :, :count] = np.array(addresses, np.uint64).T
        table["size"][0, :count] = sizes
        table["row"][0, :count] = numbers
        blocks = np.cumsum(-(-np.array(sizes, np.int64) // piece))
        table["first"][0, 1 : count + 1] = blocks
        table["count"] = count
        reached = [a for number in sorted({*numbers}) for a in arrays[number] if a is not None]
        kernel(int(blocks[-1]), table, *coefficients, reaches=reached)


def _groups(arrays: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, list[int]]]:
    """The dtypes, each with the indices of the parameters that are updated together; and None, with
    those of the parameters that no kernel can update. ``arrays`` has for each parameter the arrays
    that are written to, the parameter first, and None in the place of one that it does not have."""
    groups: dict[Any, list[int]] = {dtype: [] for dtype in (*DTYPES, None)}
    for k, mine in enumerate(arrays):
        plain = all(a is None or a.flags.c_contiguous for a in mine)
        dtype = mine[0].dtype if plain else None
        if mine[0].size:
            groups[dtype if dtype in groups else None].append(k)
    return ((dtype, chosen) for dtype, chosen in groups.items() if chosen)


class _Coefficients:
    """Rows of coefficients in the memory of the GPU; :meth:`upload` changes them.

    A captured graph gets its coefficients before it runs. So they must be where no kernel of the
    graph writes: not in memory that the graph uses over and over.
    """

    def __init__(self, shape: tuple[int, int], dtype: Any, like: Any) -> None:
        backend = backend_of(like)
        with backend.taking_from(None):
            self.array = backend.allocate(shape, dtype)

    def upload(self, coefficients: Any, chosen: Sequence[int]) -> None:
        """Take over the chosen rows of the host's ``coefficients``. The numbers travel as arguments
        of launches, so they may change as soon as this returns."""
        dtype, values = self.array.dtype, coefficients[chosen].reshape(-1)
        layout = np.dtype([("value", dtype, (BYTES // dtype.itemsize,))])
        kernel, most = _kernel("update_coefficients", dtype), layout["value"].shape[0]
        for first in range(0, values.size, most):
            part = values[first : first + most]
            numbers = np.zeros(1, layout)
            numbers["value"][0, : part.size] = part
            kernel(1, numbers, self.array, np.int32(first), np.int32(part.size))


def _update(
    name: str, by_reference: Callable[..., None], columns: Sequence[Any], coefficients: Any
) -> None:
    """Update all parameters. ``columns`` are the parameters, their gradients, and the arrays that
    the rule keeps, None where it keeps nothing."""
    params, _, *kept = columns
    for dtype, chosen in _groups(zip(params, *kept)):
        ps, gs, *others = ([column[k] for k in chosen] for column in columns)
        if dtype is None:
            call(_by_reference, by_reference, coefficients, chosen, ps, gs, *others)
            continue
        xp = array_module(ps[0])
        gs = [g if g.flags.c_contiguous else call(xp.ascontiguousarray, g) for g in gs]
        rows = _Coefficients((len(chosen), coefficients.shape[1]), dtype, ps[0])
        call(rows.upload, coefficients, chosen)
        _launch(_kernel(name, dtype), [*zip(ps, gs, *others)], rows.array)


def _by_reference(
    function: Callable[..., None], coefficients: Any, chosen: Any, *columns: Any
) -> None:
    function(*columns, coefficients[chosen])


def update_sgd(
    params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any], coefficients: Any
) -> None:
    """Change parameters and velocities as SGD does."""
    _update("update_sgd", reference.update_sgd, (params, grads, velocities), coefficients)


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
    _update("update_adam", reference.update_adam, columns, coefficients)


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
    _update("update_rmsprop", reference.update_rmsprop, columns, coefficients)


def update_zero(arrays: Sequence[Any]) -> None:
    """Fill the arrays with zeros."""
    for dtype, chosen in _groups([(array,) for array in arrays]):
        mine = [arrays[k] for k in chosen]
        if dtype is None:
            call(reference.update_zero, mine)
        else:
            _launch(_kernel("update_zero", dtype), [(array,) for array in mine])

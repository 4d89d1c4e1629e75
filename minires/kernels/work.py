"""What a launch or a call works on, for whoever counts and times them (:mod:`minires.profiler`)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..device import is_array

_ROOMS = frozenset({"minires", "ops", "kernels", "numba", "kernel_numba", "op"})


class Work(NamedTuple):
    """What one launch or call does; it holds no array.

    Attributes:
        name: of the kernel or function, with where it is: ``conv2d.winograd.convolve``.
        shapes: of the arrays it reads and writes, by the names of its parameters where it has
            some, else by their places.
        bytes: of these arrays, each counted once.
        operations: additions and multiplications by its definition; None where nobody knows.
    """

    name: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    bytes: int
    operations: int | None = None


def work(
    name: str, arrays: Iterable[tuple[str, Any]], operations: int | None = None, more: int = 0
) -> Work:
    """The work on these named arrays; what is no array, or empty, does not count, and an array
    that comes twice counts once. ``more`` bytes are reached in other ways."""
    distinct = {id(a): (key, a) for key, a in arrays if is_array(a) and a.size}
    shapes = tuple([(key, a.shape) for key, a in distinct.values()])
    return Work(name, shapes, more + sum(a.nbytes for _, a in distinct.values()), operations)


def work_of_call(function: Callable[..., Any], args: Sequence[Any], results: Any) -> Work:
    """The work of ``function(*args)``, which returned ``results``."""
    made = results if isinstance(results, tuple) else (results,)
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount]
    names = [name for name in names if name not in ("ctx", "self")]
    names += [f"argument {place}" for place in range(len(names), len(args))]
    named = [*zip(names, args), *((f"result {place}", array) for place, array in enumerate(made))]
    return work(name_of(function), named)


def name_of(function: Any) -> str:
    """A short name that tells where a function is: ``conv2d.winograd.convolve``, ``numpy.copyto``.

    >>> from minires.ops.relu.op import ReLU
    >>> name_of(ReLU.forward)
    'relu.ReLU'
    """
    function = getattr(function, "func", function)  # of a functools.partial
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", type(function).__name__).removesuffix(".forward")
    parts = module.lstrip("_").split(".")  # the module operator calls itself _operator
    if parts[0] == "minires":
        parts = [part.removeprefix("numba_") for part in parts if part not in _ROOMS]
        name = name.rpartition("<locals>.")[2].lstrip("_")
    return ".".join([part for part in (*parts, name) if part])


def show_shapes(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """The arrays of the two largest shapes, as in ``x y 8x32x32x16, v 1x36x16x16``."""
    named: dict[tuple[int, ...], list[str]] = {}
    for key, shape in shapes:
        named.setdefault(shape, []).append(key)
    largest = sorted(named, key=math.prod, reverse=True)[:2]
    return ", ".join(
        f"{' '.join(named[shape])} {'x'.join(map(str, shape)) or 'scalar'}" for shape in largest
    )

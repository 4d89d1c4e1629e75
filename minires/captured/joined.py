"""Joined graphs: the nodes of a recording as one CUDA graph, which is launched by one call.

A CUDA graph holds work of the GPU, and every number in it is final
(:mod:`minires.kernels.cuda.graph`). So the nodes of a recording are sorted:

===========  =======================================================================================
on the CPU   calls to which no array of a GPU is given, as that by which an optimiser makes numbers
             of its learning rate. They are done before the graph is launched, in their order; what
             they move to the GPU goes into memory that the graph reads.
memoised     values that depend on parameters alone. Where the function writes the parameters, they
             are the graph's first part; where it does not, as in inference, they are a graph of
             their own, launched when somebody else has written them.
the rest     the graph.
===========  =======================================================================================

Work of a GPU that looks at values, or waits, or depends on something of Python's whose values may
change, cannot be part of a graph, and is an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

from ..device import Device, is_array, memory
from ..errors import CaptureError
from ..kernels.cuda.graph import Refused

Node = Callable[[], Any]

# Kinds of arguments that stay as they are from one replay to the next.
_FINAL = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), slice, range, type,
          FunctionType, BuiltinFunctionType, np.dtype, np.generic, Device)  # fmt: skip


def joined(
    make: Callable[[Sequence[Node], Any], Node], nodes: Sequence[Node], pool: Any
) -> list[Node]:
    """Nodes that do what these do: those on the CPU, and one for all others.

    Args:
        make: makes one node of several (``as_one`` of a backend).
        nodes: launches and calls; they ran before.
        pool: the graph's memory.

    Raises:
        CaptureError: a node cannot be part of a graph.
    """
    on_cpu = [node for node in nodes if _on_cpu(node)]
    rest = [node for node in nodes if not _on_cpu(node)]
    numbers = {id(memory(array)) for node in on_cpu for array in _numbers(node)}
    for node in rest:
        _check_final(node, numbers)
    try:
        return [*on_cpu, make(rest, pool)] if rest else on_cpu
    except Refused as refused:
        raise _uncapturable(refused.node, refused) from refused


def arrays_in(value: Any) -> Iterator[Any]:
    """The arrays in an argument: in tuples, lists and dicts, too."""
    if is_array(value):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_in(part)
    elif isinstance(value, dict):
        yield from arrays_in([*value.values()])


def _numbers(node: Any) -> list[Any]:
    """The arrays of the CPU that a call there works on, and those that it makes."""
    return [array for array in arrays_in(node.args) if isinstance(array, np.ndarray)]


def _given(node: Any) -> list[Any]:
    """What a call works on, its arguments and the object whose method it is; nothing where the node
    is no call."""
    function, given = getattr(node, "called", (None, ()))
    while isinstance(function, functools.partial):
        given = [*function.args, *function.keywords.values(), *given]
        function = function.func
    owner = getattr(function, "__self__", None)
    return [*given, *([] if owner is None or isinstance(owner, ModuleType) else [owner])]


def _on_cpu(node: Any) -> bool:
    """Whether a node is a call to which no array on a GPU is given."""
    arrays = arrays_in(_given(node))
    return hasattr(node, "called") and all(isinstance(array, np.ndarray) for array in arrays)


def _check_final(node: Any, numbers: set[int]) -> None:
    """Refuse work of a GPU that depends on what a graph would not read again: ``numbers`` are the
    ids of the arrays that calls on the CPU work on."""
    for value in _given(node):
        if not _is_final(value):
            what = f"an object of type {type(value).__name__}"
        elif any(id(memory(array)) in numbers for array in arrays_in(value)):
            what = "an array of the CPU"
        else:
            continue
        raise _uncapturable(node, f"it reads {what}, whose values may change")


def _is_final(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_final, value))
    return is_array(value) or isinstance(value, _FINAL) or hasattr(value, "__dataclass_params__")


def _uncapturable(node: Any, reason: object) -> CaptureError:
    name = node.work.name if hasattr(node, "work") else node.name
    return CaptureError(
        f"capture: expected work that a CUDA graph can hold, got {name} ({reason}). Do this "
        "outside of the captured function, or call the function as it is."
    )

"""PyTorch's collective functions, on tensors.

All ranks call them, in the same order, with tensors of the same shapes and dtypes; ranks that do
not get an error that names one, before anything is sent. (For that the ranks compare digests of
what they are about to do, 16 bytes. What minires itself does between ranks goes past it.) In a
group of one they check their arguments and have nothing else to do.

Tensors are written in place, NumPy arrays such as ``tensor.data`` too. None of these functions has
a derivative.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import Variable, current
from minires.device import OWN_MEMORY, beside, check_writeable, device_of, is_array
from minires.distributed.group import Group, current_group
from minires.distributed.nccl import carrier
from minires.errors import (
    ArgumentError,
    CaptureError,
    DistributedError,
    DTypeError,
    GraphError,
    ShapeError,
    message,
    quoted,
)

# What all MPI libraries and NCCL can add up; booleans are numbers to them.
_ADDED = frozenset(map(np.dtype, ("f4", "f8", "c8", "c16", "?", "u1", "u2", "u4", "i1", "i2")))
_ADDED |= frozenset(map(np.dtype, ("i4", "i8", "u8")))


class ReduceOp(enum.Enum):
    """What :func:`all_reduce` makes of the values of all ranks; AVG is for floats. Of booleans SUM
    and MAX are "any", PRODUCT and MIN "all"."""

    SUM = "sum"
    AVG = "avg"
    PRODUCT = "prod"
    MIN = "min"
    MAX = "max"


def all_reduce(
    tensor: Any, op: ReduceOp = ReduceOp.SUM, group: None = None, async_op: bool = False
) -> None:
    """Put the sum over all ranks into the tensor of each, with the same bits on all of them.

    Args:
        tensor: of float32, float64, complex numbers, whole numbers (they wrap around) or bools.
        op: the sum, or what else to put there.
        group: None: all ranks.
        async_op: False: it is done when the function returns.

    Raises:
        ArgumentError: read-only memory, another argument.
        CaptureError: inside :func:`minires.capture`.
        DTypeError: numbers of fewer bits, or that have no such result.
        DistributedError, ShapeError, DTypeError: another operation, shape or dtype on some rank.
        GraphError: the tensor is the result of a recorded operation.
    """
    name = "all_reduce"
    ranks = _begin(name, group, async_op)
    if not isinstance(op, ReduceOp):
        known = ", ".join(f"ReduceOp.{o.name}" for o in ReduceOp)
        raise ArgumentError(message(name, f"op one of {known}", quoted(op)))
    dtype = _facts(name, "tensor", tensor)[1]
    if dtype not in _ADDED:
        fix = "Convert the tensor with .float(), which loses nothing." if dtype.kind in "fV" else ""
        raise DTypeError(message(name, "numbers of 32 or 64 bits", str(dtype), fix=fix))
    if op is ReduceOp.AVG and dtype.kind not in "fc":
        fix = "Convert the tensor with .float()."
        raise DTypeError(message(name, "floats for ReduceOp.AVG", str(dtype), fix=fix))
    if op in (ReduceOp.MIN, ReduceOp.MAX) and dtype.kind == "c":
        raise DTypeError(message(name, "real numbers, which have an order", str(dtype)))
    array = _to_write(name, "tensor", tensor)
    _check_same(ranks, name, op=op.name, **_told(tensor))
    if ranks.size == 1:
        return
    how = "sum" if op is ReduceOp.AVG else op.value
    with beside((array,)):
        numbers = array
        if dtype == np.bool_:
            how = "max" if how in ("sum", "max") else "min"
            numbers = array.astype(np.uint8)
        carrier(ranks, array).reduce(numbers, how)
        if numbers is not array:
            array[...] = numbers != 0
        if op is ReduceOp.AVG:
            array /= ranks.size
    _written(tensor)


def broadcast(tensor: Any, src: int = 0, group: None = None, async_op: bool = False) -> None:
    """Fill the tensor of each rank with the values of rank ``src``; of any dtype.

    Raises:
        ArgumentError: a rank that there is not, read-only memory, another argument.
        CaptureError: inside :func:`minires.capture`.
        DistributedError, ShapeError, DTypeError: another operation, shape or dtype on some rank.
        GraphError: the tensor is the result of a recorded operation.
    """
    name = "broadcast"
    ranks = _begin(name, group, async_op)
    _facts(name, "tensor", tensor)
    src = _source(name, src, ranks)
    array = _to_write(name, "tensor", tensor)
    _check_same(ranks, name, src=src, **_told(tensor))
    if ranks.size > 1:
        carrier(ranks, array).broadcast(array, src)
        _written(tensor)


def all_gather(
    tensor_list: list[Any], tensor: Any, group: None = None, async_op: bool = False
) -> None:
    """Put the tensor of each rank into the list of each, rank by rank.

    Args:
        tensor_list: a tensor for each rank, of the shape and dtype of ``tensor``; written.
        tensor: what this rank gives; of any dtype.

    Raises:
        ArgumentError: not a tensor for each rank, read-only memory, another argument.
        CaptureError: inside :func:`minires.capture`.
        DistributedError, ShapeError, DTypeError: another operation, shape or dtype on some rank, or
            in the list.
        GraphError: a tensor is the result of a recorded operation.
    """
    name = "all_gather"
    ranks = _begin(name, group, async_op)
    shape, dtype = _facts(name, "tensor", tensor)
    _check_list(name, "tensor_list", tensor_list, ranks)
    for rank, other in enumerate(tensor_list):
        _check_fits(name, f"tensor_list[{rank}]", other, shape, dtype, tensor)
    arrays = [_to_write(name, f"tensor_list[{k}]", t) for k, t in enumerate(tensor_list)]
    _check_same(ranks, name, **_told(tensor))
    with beside(arrays):
        for array, part, target in zip(arrays, _gathered(ranks, tensor), tensor_list):
            array[...] = part
            _written(target)


def all_gather_into_tensor(
    output_tensor: Any, input_tensor: Any, group: None = None, async_op: bool = False
) -> None:
    """Put the tensor of each rank into one tensor of each, rank by rank.

    Args:
        output_tensor: of shape (ranks, \\*shape), or (ranks * shape[0], \\*shape[1:]); written.
        input_tensor: what this rank gives, of any shape and dtype.

    Raises:
        ArgumentError: read-only memory, another argument.
        CaptureError: inside :func:`minires.capture`.
        DistributedError, ShapeError, DTypeError: another operation, shape or dtype on some rank, or
            of the output.
        GraphError: a tensor is the result of a recorded operation.
    """
    name = "all_gather_into_tensor"
    ranks = _begin(name, group, async_op)
    shape, dtype = _facts(name, "input_tensor", input_tensor)
    n = ranks.size
    stacked, joined = (n, *shape), (n * shape[0], *shape[1:]) if shape else (n,)
    got, _ = _facts(name, "output_tensor", output_tensor)
    if got not in (stacked, joined):
        expected = f"output_tensor of shape {joined} or {stacked}"
        context = f"input_tensor {shape}, {n} rank{'s' if n > 1 else ''}"
        raise ShapeError(message(name, expected, got, context))
    _check_fits(name, "output_tensor", output_tensor, got, dtype, input_tensor)
    array = _to_write(name, "output_tensor", output_tensor)
    _check_same(ranks, name, **_told(input_tensor))
    with beside((array,)):
        array[...] = _gathered(ranks, input_tensor).reshape(got)
    _written(output_tensor)


def all_gather_object(object_list: list[Any], obj: Any, group: None = None) -> None:
    """Put the object of each rank into the list of each, rank by rank; anything that can be
    pickled.

    Raises:
        ArgumentError: not a list with a place for each rank.
        DistributedError: another operation on some rank; an object that cannot be pickled.
    """
    name = "all_gather_object"
    ranks = _begin(name, group)
    _check_list(name, "object_list", object_list, ranks)
    _check_same(ranks, name)
    object_list[:] = ranks.gather_objects(obj)


def broadcast_object_list(
    object_list: list[Any], src: int = 0, group: None = None, device: Any = None
) -> None:
    """Fill the list of each rank with the objects of rank ``src``; anything that can be pickled.

    Args:
        device: taken so that PyTorch code runs; objects go by way of the host.

    Raises:
        ArgumentError: no list, or a rank that there is not.
        DistributedError: another operation or length on some rank; an object that cannot be
            pickled.
    """
    name = "broadcast_object_list"
    ranks = _begin(name, group)
    if not isinstance(object_list, list):
        raise ArgumentError(message(name, "object_list a list", quoted(object_list)))
    src = _source(name, src, ranks)
    _check_same(ranks, name, src=src, length=len(object_list))
    object_list[:] = ranks.broadcast_object(object_list, src)


def barrier(group: None = None, async_op: bool = False, device_ids: Any = None) -> None:
    """Wait until all ranks have come here.

    Args:
        device_ids: taken so that PyTorch code runs; no device takes part.

    Raises:
        CaptureError: inside :func:`minires.capture`.
        DistributedError: another operation on some rank, or one that has ended.
    """
    _check_same(_begin("barrier", group, async_op), "barrier")


# -- checks of this rank's arguments


def _begin(name: str, group: Any, async_op: Any = False) -> Group:
    """The group, if there may be a collective operation now."""
    check_group(name, group)
    if arguments.flag(name, "async_op", async_op):
        fix = "It is done when the function returns: leave out async_op and .wait()."
        raise ArgumentError(message(name, "async_op False", True, fix=fix))
    if current().recording:
        expected = "no collective operation inside mr.capture"
        fix = "Call it between captured functions, as fit(capture=True) does with its two halves."
        raise CaptureError(message(name, expected, name, fix=fix))
    return current_group()


def check_group(name: str, group: Any) -> None:
    """Refuse a group of ranks other than all of them.

    Raises:
        ArgumentError: not None.
    """
    if group is not None:
        fix = "There is one group, of all ranks."
        raise ArgumentError(message(name, "group None", quoted(group), fix=fix))


def _source(name: str, src: Any, group: Group) -> int:
    return arguments.integer(name, "src", src, 0, group.size - 1)


def _facts(name: str, argument: str, tensor: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of what has to be a tensor outside the graph, or an array."""
    if isinstance(tensor, Variable):
        if tensor.requires_grad and not tensor.is_leaf:
            expected = f"{argument} a leaf, since collective operations have no derivative"
            fix = "Pass tensor.detach(), or do all of it under no_grad()."
            raise GraphError(message(name, expected, f"the result of {tensor.grad_fn!r}", fix=fix))
    elif not is_array(tensor):
        raise DTypeError(message(name, f"{argument} a Tensor", quoted(tensor)))
    elif tensor.dtype.hasobject or not tensor.dtype.isnative:
        raise DTypeError(message(name, f"{argument} of numbers", str(tensor.dtype)))
    return tensor.shape, tensor.dtype


def _check_list(name: str, argument: str, values: Any, group: Group) -> None:
    if not isinstance(values, list) or len(values) != group.size:
        expected = f"{argument} a list with as many entries as ranks, {group.size}"
        got = f"{len(values)} entries" if isinstance(values, list) else quoted(values)
        raise ArgumentError(message(name, expected, got))


def _check_fits(
    name: str, argument: str, tensor: Any, shape: Any, dtype: np.dtype[Any], like: Any
) -> None:
    """Refuse a tensor of another shape, dtype or device than what is put into it."""
    got = _facts(name, argument, tensor)
    if got[0] != shape:
        raise ShapeError(message(name, f"{argument} of shape {shape}", got[0]))
    if got[1] != dtype:
        raise DTypeError(message(name, f"{argument} of {dtype}", str(got[1])))
    places = [_place(tensor), _place(like)]
    if places[0] != places[1]:
        raise ArgumentError(message(name, f"{argument} on {places[1]}", str(places[0])))


def _place(tensor: Any) -> Any:
    return tensor.device if isinstance(tensor, Variable) else device_of(tensor)


def _to_write(name: str, argument: str, tensor: Any) -> Any:
    if isinstance(tensor, Variable):
        return tensor._to_write(name, argument, "Pass tensor.clone().")
    check_writeable(name, argument, tensor, OWN_MEMORY)
    return tensor


def _written(tensor: Any) -> None:
    if isinstance(tensor, Variable):
        tensor.bump_version()


# -- between ranks


def _gathered(group: Group, tensor: Any) -> Any:
    """(size, ...): the tensors of all ranks."""
    array = tensor._array if isinstance(tensor, Variable) else tensor
    return array[None] if group.size == 1 else carrier(group, array).gather(array)


_DIFFER: dict[str, Callable[[str], Exception]] = {"shape": ShapeError, "dtype": DTypeError}


def _told(tensor: Any) -> dict[str, Any]:
    """What of a tensor must be the same on all ranks."""
    return {"shape": tensor.shape, "dtype": str(tensor.dtype), "device": _place(tensor).type}


def _check_same(group: Group, name: str, **facts: Any) -> None:
    """Compare what all ranks are about to do. It is a barrier, too.

    Raises:
        DistributedError, ShapeError, DTypeError: they differ; the same error on all ranks.
    """
    if group.size == 1:
        return
    own = (name, facts)
    digest = hashlib.blake2b(repr(own).encode(), digest_size=7).digest()
    number = int.from_bytes(digest, "little")
    both = np.array([number, -number])
    group.reduce(both, "max")  # the largest and, negative, the smallest
    if both[0] == -both[1]:
        return
    everyone = group.gather_objects(own)
    first_name, first = everyone[0]
    for rank, (other_name, others) in enumerate(everyone):
        if other_name != first_name:
            got = f"{first_name} on rank 0 and {other_name} on rank {rank}"
            fix = "All ranks must do the same collective operations, in the same order."
            text = message("distributed", "the same operation on all ranks", got, fix=fix)
            raise DistributedError(text)
        for fact, value in first.items():
            if others[fact] != value:
                got = f"{value} on rank 0 and {others[fact]} on rank {rank}"
                kind = _DIFFER.get(fact, DistributedError)
                raise kind(message(name, f"the same {fact} on all ranks", got))

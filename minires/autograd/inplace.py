"""Writing into a variable in place, with the history kept right.

A view shares its base's memory. When one of them is written, the base's history becomes "the old
values outside, the new ones inside" (CopyIntoView), and every view's history starts anew from its
base when it is next asked for.
"""

from __future__ import annotations

from typing import Any

from ..device import array_module, check_writeable
from ..errors import DTypeError, GraphError, ShapeError, message
from .context import Context
from .engine import call, current
from .function import Function
from .modes import _grad_mode
from .place import caller, show_place
from .tape import Node
from .variable import Variable


def check_inplace(target: Variable, *sources: Any) -> bool:
    """Whether an in-place write must be recorded; refuses a write that cannot be."""
    target._version.flush_readers()
    if not _grad_mode.get().value:
        return False
    base, _, recorded = target._view or (target, (), True)
    leaf = next((v for v in (target, base) if v.is_leaf and v.requires_grad), None)
    if leaf is not None:
        what = "a leaf" if leaf is target else "a view of a leaf"
        raise GraphError(
            f"in-place write at {show_place(caller())}: {what} that requires grad cannot be "
            "changed in place, its gradient would have no meaning. Do it under "
            "minires.no_grad(), or make a new tensor (y = x + 1)."
        )
    record = target.requires_grad or any(
        isinstance(s, Variable) and s.requires_grad for s in sources
    )
    if record and not recorded:
        raise GraphError(
            f"in-place write at {show_place(caller())}: this view was made under no_grad(), "
            "so the write cannot be recorded. Make the view with gradients enabled."
        )
    return record


def replace(target: Variable, new: Variable) -> None:
    """Write the values of ``new`` into ``target``, which takes its place on the tape."""
    record = check_inplace(target, new)
    if new.shape != target.shape:
        raise ShapeError(
            message(
                "in-place operation",
                f"a result of this tensor's shape {target.shape}",
                new.shape,
                fix="Use the out-of-place form.",
            )
        )
    if new.dtype != target.dtype:
        raise DTypeError(
            message(
                "in-place operation",
                f"a result of this tensor's dtype {target.dtype}",
                str(new.dtype),
                fix="Use the out-of-place form.",
            )
        )
    if target._lazy is None:
        check_target(target)
    if record and new._node is not None:
        new._node.ctx.keep_old(target)
    if target._lazy is None:
        call(_write, target._array, new._array)
    else:  # nobody has seen the old values: they need not be computed
        _take(target, new)
    written(target, new if record else None)
    current().wrote(target, new)


def _take(target: Variable, new: Variable) -> None:
    """Give ``target``, which is lazy, the array or the lazy array of ``new``."""
    lazy = new._lazy
    if lazy is not None and new._node is not None and new._node.ctx.saves(lazy):
        lazy = lazy.again()  # the target may be written once more, the saved output may not
    target._lazy = lazy
    if lazy is None:
        target._array = new._array


def _write(array: Any, new: Any) -> None:
    array[...] = new


def check_target(target: Variable) -> None:
    """Refuse a tensor that is to be written in place and looks at read-only memory."""
    check_writeable("in-place write", "this tensor", target._array, "Write to x.clone().")


def written(target: Variable, new: Variable | None) -> None:
    """Count a write in place; ``new`` has the history of the values that were written."""
    if new is None:
        target._version.bump()
        return
    if target._view is None:
        target._version.bump()
        if new.requires_grad:
            assert new._node is not None, "new values come out of an operation"
            target._set_node(new._node, new._index)
        else:  # overwritten by a constant: nothing flows back from here any more
            target._node, target._requires_grad = None, False
        return
    # a view: its base now holds the old values outside the view and the new ones inside
    base, steps, _ = target._view
    edges = [v._edge() if v.requires_grad else None for v in (base, new)]
    ctx = Context((edges[0] is not None, edges[1] is not None))
    ctx.steps = steps
    node = Node(CopyIntoView, ctx, edges, [base._meta, new._meta])
    node.outputs.append(base._meta)
    target._version.bump()
    base._set_node(node, 0)


class CopyIntoView(Function):
    """base[view] = new: the base after one of its views was written in place."""

    @staticmethod
    def backward(ctx: Context, gy: Any) -> Any:
        seen = gy
        for function, args, options in ctx.steps:
            seen = function.apply(seen, *args, **options)
        if not ctx.needs_grad[0]:
            return None, seen
        # the base keeps its gradient outside the view; where that is, the steps say themselves
        # when they are taken on the numbers of the entries, in whatever memory layout
        xp = array_module(gy._array)
        inside = Variable._wrap(xp.arange(gy._array.size).reshape(gy.shape))
        for function, args, options in ctx.steps:
            inside = function.apply(inside, *args, **options)
        outside = xp.ones(gy._array.size, gy._array.dtype)
        outside[inside._array.reshape(-1)] = 0
        return gy * Variable._wrap(outside.reshape(gy.shape)), seen

"""The walk back over the tape."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import flag, listed
from ..device import Gpus, array_module, beside, is_array, memory, move, writeable, zeros_on
from ..errors import DTypeError, GraphError, ShapeError, message, quoted
from ..ieee import quiet, restore, warnings_now
from ..mode import Mode
from .engine import call, copied, current, in_complex_step
from .final_hooks import Final, FinalHooks
from .modes import _grad_mode
from .place import Place, caller, show_place
from .tape import Node, check_device, check_gradient
from .variable import Keeper, Variable


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of ``outputs`` with respect to ``inputs``, without touching any ``.grad``.

    Args:
        outputs: a tensor or a sequence of them.
        inputs: a tensor or a sequence of them, leaves or not.
        grad_outputs: upstream gradients, one per output; may be left out for scalars.
        retain_graph: keep what the graph saved. Default: the value of ``create_graph``.
        create_graph: make the gradients differentiable in turn.
        allow_unused: give None for an input that no output depends on, instead of an error.

    Returns:
        A tuple with one gradient per input.
    """
    outs, ins = _variables("outputs", outputs), _variables("inputs", inputs)
    check_flags("grad", retain_graph, create_graph)
    flag("grad", "allow_unused", allow_unused)
    if grad_outputs is None:
        gys: list[Any] = [None] * len(outs)
    else:
        gys = list(grad_outputs) if isinstance(grad_outputs, tuple | list) else [grad_outputs]
    if len(gys) != len(outs):
        raise ShapeError(message("grad", f"{len(outs)} grad_outputs", len(gys)))
    for index, variable in enumerate(ins):
        if not variable.requires_grad:
            raise GraphError(
                f"grad: input {index} of shape {variable.shape} does not require grad. "
                "Make it with requires_grad=True, or call .requires_grad_() before using it."
            )
    result = walk(outs, gys, ins, retain_graph, create_graph)
    for index, gradient in enumerate(result):
        if gradient is None and not allow_unused:
            raise GraphError(
                f"grad: input {index} of shape {ins[index].shape} was not used to compute the "
                "outputs. Leave it out, or pass allow_unused=True to get None for it."
            )
    return tuple(result)


def _variables(name: str, values: Any) -> list[Any]:
    """A tensor or several as a list."""
    found = [values]
    if not isinstance(values, Variable):
        found = listed("grad", f"{name} a tensor or several", values)
    for value in found:
        if not isinstance(value, Variable):
            raise DTypeError(message("grad", f"{name} a tensor or several", quoted(value)))
    return found


def check_flags(op: str, retain_graph: Any, create_graph: Any) -> None:
    """Refuse flags that are neither true nor false."""
    if retain_graph is not None:
        flag(op, "retain_graph", retain_graph)
    flag(op, "create_graph", create_graph)


def _upstream(gradient: Any, output: Variable) -> Any:
    """A gradient that a user gives as numbers or as an array, as a variable beside the output."""
    try:
        array = gradient if is_array(gradient) else np.asarray(gradient)
        if array.dtype.kind in "fiub":
            return Variable._wrap(move(array.astype(output.dtype, copy=False), output.device))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DTypeError(message("backward", "gradient a tensor", quoted(gradient))) from error
    raise DTypeError(message("backward", "gradient a tensor", quoted(gradient)))


def _start(output: Variable, gradient: Any) -> Any:
    if not output.requires_grad:
        raise GraphError(
            f"backward: no tensor behind this result of shape {output.shape} has "
            "requires_grad=True. Did you call detach() or numpy(), or build it under no_grad()?"
        )
    if gradient is None:
        if output._array.size != 1:
            raise ShapeError(
                f"backward() needs a scalar; got shape {output.shape}. Reduce it (.mean()) or "
                "pass gradient= of that shape."
            )
        with beside((output,)):
            return Variable._wrap(array_module(output._array).ones_like(output._array))
    if not isinstance(gradient, Variable):
        gradient = _upstream(gradient, output)
    _check(gradient, output._array.shape, output._array.dtype, "backward")
    check_device(gradient, output.device, "backward")
    return gradient


def _check(gradient: Variable, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if in_complex_step():  # where dtypes mix
        dtype = gradient.dtype
    check_gradient(gradient, shape, dtype, what)


def _leading_nodes(starts: list[Node], targets: set[Any]) -> set[Node]:
    """The nodes from which some target can be reached; the walk may skip all others."""
    found: set[Node] = set()
    seen: set[Node] = set()
    order: list[Node] = []
    stack = list(starts)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        order.append(node)
        stack += [edge[0] for edge in node.edges if isinstance(edge, tuple)]
    for node in sorted(order, key=lambda n: n.order):  # the oldest first
        for edge in node.edges:
            if edge is None:
                continue
            key = edge if isinstance(edge, tuple) else id(edge)
            if key in targets or (isinstance(edge, tuple) and edge[0] in found):
                found.add(node)
                break
    return found


def walk(
    outputs: Sequence[Variable],
    gradients: Sequence[Any],
    inputs: Sequence[Variable] | None,
    retain_graph: bool | None,
    create_graph: bool,
) -> list[Any]:
    """The backward pass, iterative. With ``inputs`` their gradients are returned, else the leaves'
    are added to ``.grad``. Saved arrays are released on the way, unless they are to be retained."""
    retain = create_graph if retain_graph is None else retain_graph
    place = caller()
    sums: dict[Node, list[Any]] = {}  # the gradients of each node's outputs, so far
    leaves: dict[int, tuple[Variable, list[Any]]] = {}  # the same for leaves, by id
    own: set[int] = set()  # arrays in sums and leaves that the walk added up itself
    kept: list[tuple[Variable, Any]] = []  # gradients for retain_grad
    escaped = {id(memory(g._array)) for g in gradients if isinstance(g, Variable)}
    heap: list[Node] = []
    wanted: dict[Any, Any] = {}
    if inputs is not None:
        for variable in inputs:
            edge = variable._edge()
            wanted[edge if isinstance(edge, tuple) else id(edge)] = None

    def deliver(edge: Any, gradient: Any) -> None:
        if isinstance(edge, tuple):
            node, index = edge
            if node not in sums:
                sums[node] = [None] * len(node.outputs)
                heapq.heappush(heap, node)
            slots = sums[node]
        else:
            index, slots = 0, leaves.setdefault(id(edge), (edge, [None]))[1]
        present = slots[index]
        if present is None:
            slots[index] = gradient
        elif (
            present._lazy is None and id(present._array) in own and present.dtype == gradient.dtype
        ):
            # nobody else has seen this array: no new memory (dtypes differ in a complex step only)
            _accumulate(present, gradient)
        else:
            slots[index] = total = current().add_gradients(present, gradient)
            if total._lazy is None and not create_graph:
                own.add(id(total._array))

    def run_hooks(table: dict[int, Any] | None, gradient: Any) -> Any:
        if not table:
            return gradient
        keepers = []
        for hook in list(table.values()):
            if isinstance(hook, Keeper):
                keepers.append(hook.variable())
                continue
            if isinstance(hook, Final):
                continue
            escaped.add(id(memory(gradient._array)))  # the hook may hold on to it
            replaced = hook(gradient)
            if replaced is not None:
                _check(replaced, gradient.shape, gradient.dtype, "hook")
                check_device(replaced, gradient.device, "hook")
                gradient = replaced
                escaped.add(id(memory(gradient._array)))
        kept.extend((v, gradient.clone()) for v in keepers if v is not None and inputs is None)
        return gradient

    totals: list[tuple[Variable, Any]] = []  # the leaves' gradients, after hooks
    result: list[Any] = []

    def complete(leaf: Variable, total: Any) -> None:
        total = run_hooks(leaf._hooks, total)
        totals.append((leaf, total))
        if inputs is None:
            final_hooks.call(leaf, total)

    with Mode("backward", _grad_mode, create_graph):
        starts = []
        for output, given in zip(outputs, gradients):
            gradient = _start(output, given)
            edge = output._edge()
            if isinstance(edge, tuple):
                starts.append(edge[0])
            deliver(edge, gradient)
        leading = None if inputs is None else _leading_nodes(starts, set(wanted))
        final_hooks = FinalHooks(starts if inputs is None else ())
        while heap:
            node = heapq.heappop(heap)
            gys = sums.pop(node)
            for index, gradient in enumerate(gys):
                if gradient is None:
                    continue
                if gradient._lazy is None:
                    own.discard(id(gradient._array))
                gys[index] = gradient = run_hooks(node.hooks.get(index), gradient)
                if (node, index) in wanted:
                    wanted[node, index] = gradient
            if leading is not None and node not in leading:
                continue
            for edge, gx in zip(node.edges, _backward_of(node, gys, place)):
                if edge is not None and gx is not None:
                    deliver(edge, gx)
            if not retain:
                node.ctx.release(place)
            for key in final_hooks.final(heap):
                if key in leaves:
                    leaf, (total,) = leaves.pop(key)
                    complete(leaf, total)
        for key, (leaf, (total,)) in leaves.items():
            if inputs is None or key in wanted:
                complete(leaf, total)
        if inputs is None:
            receiving = [total for total in totals if _receives(total[0])] + kept
            for leaf, gradient in receiving:  # nothing has failed, and no .grad has changed so far
                present = leaf._grad
                if present is None:
                    leaf._grad = _unaliased(gradient, escaped, create_graph)
                elif create_graph or not writeable(present._array):
                    leaf._grad = present + gradient
                else:
                    present._version.flush_readers()
                    _accumulate(present, gradient)
                    present._version.bump()
        else:
            for leaf, gradient in totals:
                wanted[id(leaf)] = gradient
            for variable in inputs:
                edge = variable._edge()
                gradient = wanted[edge if isinstance(edge, tuple) else id(edge)]
                if gradient is not None:
                    gradient = _unaliased(gradient, escaped, create_graph)
                result.append(gradient)
    final_hooks.finish()
    return result


def _receives(leaf: Variable) -> bool:
    """Whether a leaf is to have its gradient: not if it was frozen since it was used."""
    if leaf._node is not None:
        raise GraphError(
            f"backward: expected a leaf of shape {leaf.shape}, got one that was written in place "
            f"since and is the result of {leaf._node!r} now. Write into a clone() of it."
        )
    return leaf._requires_grad


def _accumulate(total: Variable, gradient: Variable) -> None:
    before = warnings_now()
    try:
        quiet()  # inf - inf is nan, as it is in a forward pass
        call(operator.iadd, total._array, gradient._array)
    finally:
        restore(before)


def _backward_of(node: Node, gys: list[Any], place: Place) -> Sequence[Any]:
    """Call a node's backward, and check the gradients that it returns."""
    ctx, name = node.ctx, node.function.__name__
    if ctx.released is not None:
        raise GraphError(
            f"the values that {name} saved at {show_place(node.place)} were released by the "
            f"first backward at {show_place(ctx.released)}; a second one came at "
            f"{show_place(place)}. Compute the result again, or pass retain_graph=True."
        )
    for index, (shape, dtype, device) in enumerate(node.outputs):
        if gys[index] is None:
            gys[index] = Variable._wrap(zeros_on(device, shape, dtype))
    kept = {id(memory(array)) for array in ctx.kept()}
    ctx._node = node
    try:
        if Gpus.several:
            with beside(gys):
                result = current().backward(node, gys)
        else:
            result = current().backward(node, gys)
    except NotImplementedError as error:
        raise GraphError(f"{name} at {show_place(node.place)} has no derivative.") from error
    finally:
        ctx._node = None  # a node and its context would otherwise keep each other alive
    gxs: list[Any] = list(result) if isinstance(result, tuple) else [result]
    if len(gxs) != len(node.edges):
        raise GraphError(
            f"{name}.backward: expected {len(node.edges)} gradients (one per argument of "
            f"forward, None where there is none), got {len(gxs)}"
        )
    for index, (gx, meta) in enumerate(zip(gxs, node.metas)):
        if gx is None or meta is None:
            continue
        if not isinstance(gx, Variable):
            expected = f"a tensor for argument {index}"
            raise GraphError(message(f"{name}.backward", expected, type(gx).__name__))
        if gx.shape != meta[0] or gx.dtype != meta[1]:
            _check(gx, meta[0], meta[1], f"{name}.backward, argument {index}")
        # a saved array is no gradient: it may be the user's
        if gx._lazy is None and id(memory(gx._array)) in kept:
            gxs[index] = gx = gx.clone()
    return gxs


def _unaliased(gradient: Any, escaped: set[int], create_graph: bool) -> Any:
    """A gradient the user may change without changing another one (or anything else)."""
    array = gradient._array
    root = memory(array)
    fresh = id(root) not in escaped and writeable(root) and root.size == array.size
    if not fresh:
        gradient = gradient.clone() if create_graph else Variable._wrap(copied(array))
        root = memory(gradient._array)
    escaped.add(id(root))
    return gradient if create_graph or gradient._node is None else gradient.detach()


def backward(
    self: Variable,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add the gradient of this tensor to ``.grad`` of every leaf behind it.

    Args:
        gradient: the upstream gradient, of this tensor's shape; needed unless it is a scalar.
        retain_graph: keep what the graph saved, for another backward. Default: create_graph.
        create_graph: record the backward pass itself, for higher derivatives.

    Raises:
        ShapeError: not a scalar and no ``gradient``, or one of another shape.
        GraphError: nothing requires grad, or the graph was released by an earlier backward.
    """
    check_flags("backward", retain_graph, create_graph)
    walk([self], [gradient], None, retain_graph, create_graph)


Variable.backward = backward  # type: ignore[method-assign]

"""Final hooks: who wants a leaf's gradient while the backward pass still goes on.

Several processes add up their gradients; on GPUs that takes no time of its own if it begins with
the last layers while the first ones still compute. So a hook has to be called as soon as nothing
more will be added to a gradient.

The walk takes the newest node first. All that adds to a leaf's gradient are nodes with an edge to
it; when the walk has come past the oldest of them, the gradient is final, whether all of them gave
something or not.

A final hook stands among the other hooks of its leaf, and all of them in one weak set: where that
is empty, a pass has nothing to look for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import ArgumentError, GraphError, message, quoted
from .engine import host_read
from .tape import Node
from .variable import HookHandle, Variable

After = Callable[[], Any]
Hook = Callable[[Any], After | None]


class Final:
    """A final hook among the hooks of a leaf."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        _living.add(self)

    def __call__(self, gradient: Any) -> None:
        """Nothing: the walk calls final hooks after all others."""


_living: weakref.WeakSet[Final] = weakref.WeakSet()


def register_final_hook(self: Variable, hook: Hook) -> HookHandle:
    """Call ``hook(gradient)`` in each backward pass as soon as nothing more will be added to this
    leaf's gradient, while the pass goes on with other tensors.

    The gradient is that of this pass alone, after the hooks of :meth:`register_hook`. The hook only
    reads it; ``.grad`` is set when the pass is over. If the hook returns a function, that is called
    then, without arguments; once, if several hooks return the same one.

    No hook is called for a leaf that gets no gradient or was frozen meanwhile, nor by
    :func:`minires.grad`. If the pass fails, because of a hook or later, no ``.grad`` is changed and
    no function is called.

    Returns:
        A handle: ``handle.remove()`` takes the hook away.

    Raises:
        ArgumentError: ``hook`` is no function.
        GraphError: the tensor is no leaf that requires grad.
    """
    if not callable(hook):
        expected = "a function of a gradient"
        raise ArgumentError(message("register_final_hook", expected, quoted(hook)))
    if not self.requires_grad or not self.is_leaf:
        expected, fix = "a leaf that requires grad", "Others have register_hook."
        got = "a result" if self.requires_grad else "a tensor that does not"
        raise GraphError(message("register_final_hook", expected, got, fix=fix))
    if self._hooks is None:
        self._hooks = {}
    return HookHandle(self._hooks, Final(hook))


def _hooks_of(leaf: Variable) -> list[Hook]:
    return [f.hook for f in (leaf._hooks or {}).values() if isinstance(f, Final)]


class FinalHooks:
    """The final hooks of one backward pass.

    Args:
        starts: the nodes that the pass begins with.
    """

    def __init__(self, starts: Iterable[Node]) -> None:
        self._after: dict[After, None] = {}
        oldest: dict[int, int] = {}  # of the nodes with an edge to each leaf that has hooks
        seen = set(starts)
        stack = [*seen] if _living else []
        while stack:
            node = stack.pop()
            for edge in node.edges:
                if isinstance(edge, tuple):
                    if edge[0] not in seen:
                        seen.add(edge[0])
                        stack.append(edge[0])
                elif edge is not None and _hooks_of(edge):
                    oldest[id(edge)] = min(node.order, oldest.get(id(edge), node.order))
        self._oldest = sorted((order, key) for key, order in oldest.items())

    def final(self, heap: list[Node]) -> Iterator[int]:
        """The ids of leaves whose gradients have become final, now that these nodes are left, the
        newest of them first."""
        while self._oldest and (not heap or heap[0].order < self._oldest[-1][0]):
            yield self._oldest.pop()[1]

    def call(self, leaf: Variable, gradient: Variable) -> None:
        """Call a leaf's hooks with its gradient, unless it was frozen or written since."""
        if not leaf._hooks or not leaf._requires_grad or leaf._node is not None:
            return
        for hook in _hooks_of(leaf):
            host_read("what a final hook does")
            after = hook(gradient)
            if callable(after):
                self._after[after] = None
            elif after is not None:
                expected = "a final hook to return a function or None"
                raise ArgumentError(message("backward", expected, quoted(after)))

    def finish(self) -> None:
        """Call what the hooks returned, in that order."""
        for after in self._after:
            after()


Variable.register_final_hook = register_final_hook  # type: ignore[method-assign]

"""The context: the values that one application of a Function keeps for its backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GraphError
from .lazy import Lazy
from .place import Place, show_place
from .tape import Node
from .variable import Variable
from .version import Version


class Context:
    """The values that one application of a Function keeps for its backward.

    ``needs_grad[i]`` says whether argument ``i`` wants a gradient. :meth:`save` keeps inputs and
    outputs, which come back from :attr:`saved` as tensors; :meth:`save_constants` keeps arrays
    that are not differentiated (masks, indices). Both are released after the backward pass; small
    facts such as a shape or a geometry are plain attributes and stay.

    Attributes:
        needs_grad: for each argument, whether a gradient may be wanted.
        recorded: whether there will be a backward pass at all.
        released: the line that released the saved values, if one did.
    """

    # defaults of attributes that most contexts never set
    released: Place | None = None
    _requested: tuple[Any, ...] = ()
    _constants: tuple[Any, ...] = ()
    _saved: Sequence[tuple[Any, ...]] = ()
    _node: Node | None = None

    def __init__(self, needs_grad: tuple[bool, ...], recorded: bool = True) -> None:
        self.needs_grad = needs_grad
        self.recorded = recorded

    if TYPE_CHECKING:  # small facts are attributes of any name

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def save(self, *arrays: Any) -> None:
        """Keep these inputs or outputs of forward (the very arrays, or None)."""
        self._requested = arrays

    def save_constants(self, *arrays: Any) -> None:
        """Keep arrays through which no gradient flows."""
        self._constants = arrays

    def save_tensors(self, *variables: Variable | None) -> None:
        """:meth:`save` for rules of an engine, which have tensors in place of arrays."""
        self._saved = [
            ("none",) if v is None else ("input", v, v._version.count) for v in variables
        ]

    def save_lazy_output(self, output: Variable) -> None:
        """Keep the output, which is lazy."""
        version = output._version
        self._saved = [*self._saved, ("output", output._lazy, version, version.count, 0)]

    def bind(
        self,
        args: Sequence[Any],
        arrays: Sequence[Any],
        results: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Find out which input or output each saved array is, and note its version."""
        saved: list[tuple[Any, ...]] = []
        for array in self._requested:
            if array is None:
                saved.append(("none",))
                continue
            for arg, candidate in zip(args, arrays):
                if candidate is array and isinstance(arg, Variable):
                    saved.append(("input", arg, arg._version.count))
                    break
            else:
                for index, (out, made) in enumerate(zip(outputs, results)):
                    if made is array:
                        # the tensor itself would make a cycle with its node; its parts do not
                        version = out._version
                        saved.append(("output", out._array, version, version.count, index))
                        break
                else:
                    raise GraphError(
                        "Context.save takes inputs and outputs of forward; keep other arrays "
                        "with save_constants"
                    )
        self._saved, self._requested = saved, ()

    @property
    def saved(self) -> tuple[Any, ...]:
        """The saved inputs and outputs, as tensors that know where they came from.

        Raises:
            GraphError: one of them was changed in place since; names both lines.
        """
        assert self._node is not None
        result: list[Any] = []
        for kind, *rest in self._saved:
            if kind == "none":
                result.append(None)
            elif kind == "input":
                variable, count = rest
                self._check(variable._version, count, variable)
                result.append(variable)
            else:
                array, version, count, index = rest
                self._check(version, count, array)
                lazy = isinstance(array, Lazy)
                variable = Variable._defer(array) if lazy else Variable._wrap(array)
                variable._version = version
                variable._set_node(self._node, index)
                result.append(variable)
        return tuple(result)

    @property
    def constants(self) -> tuple[Any, ...]:
        return self._constants

    def _check(self, version: Version, count: int, saved: Any) -> None:
        if version.count != count:
            node = self._node
            assert node is not None
            raise GraphError(
                f"{node.function.__name__} saved a tensor of shape {saved.shape} (version {count}) "
                f"at {show_place(node.place)}; it was changed in place at "
                f"{show_place(version.place)} (version {version.count}). "
                "Use an out-of-place operation there, such as y = y + x."
            )

    def keep_old(self, variable: Variable) -> None:
        """Keep a copy of a saved input that is about to be overwritten by this very result."""
        saved = list(self._saved)
        for position, (kind, *rest) in enumerate(saved):
            if kind == "input" and rest[0] is variable:
                if variable._lazy is None:
                    old = Variable._wrap(variable._array.copy())
                else:
                    old = Variable._defer(variable._lazy)
                if variable._node is not None:
                    old._node, old._index = variable._node, variable._index
                old._requires_grad = variable._requires_grad
                saved[position] = ("input", old, 0)
        self._saved = saved

    def saves(self, lazy: Lazy) -> bool:
        """Whether this lazy output is saved."""
        return any(kind == "output" and rest[0] is lazy for kind, *rest in self._saved)

    def kept(self) -> list[Any]:
        """Every array that is kept for the backward pass, as far as it exists yet."""
        arrays = [array for array in self._constants if hasattr(array, "nbytes")]
        for item in self._saved:
            thing = item[1] if item[1:] else None
            if isinstance(thing, Variable):
                thing = thing._lazy or thing._array
            if isinstance(thing, Lazy):
                thing = thing.array
            if thing is not None:
                arrays.append(thing)
        return arrays

    def release(self, place: Place) -> None:
        """Let go of everything that was saved."""
        if self._saved or self._constants:
            self._saved, self._constants, self.released = (), (), place

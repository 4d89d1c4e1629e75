"""The state of a captured function: modules, optimisers, the random generator.

:class:`State` tells when the state has changed so that another graph is needed, and
:class:`Snapshot` restores an earlier state.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

from .. import arguments, random
from ..device import CPU, Device, is_array, writeable
from ..errors import ArgumentError, CaptureError, message
from ..nn import module as modules
from ..nn.module import Module
from ..optim import Optimizer
from ..tensor import Tensor

MOST = 8  # graphs that are kept, each with memory of its own
PLAIN = (bool, int, float, str, type(None))  # kinds of values that can be compared

_array = operator.attrgetter("_array")
_trained = operator.attrgetter("_requires_grad")


class State:
    """The modules and optimisers that a captured function uses besides its inputs."""

    def __init__(self, parts: Sequence[Module | Optimizer]):
        parts = [*arguments.iterator("capture", "state", parts)]
        for part in parts:
            if not isinstance(part, Module | Optimizer):
                got = type(part).__name__
                raise ArgumentError(message("capture", "modules and optimisers as state", got))
        self._modules = [part for part in parts if isinstance(part, Module)]
        self._optimizers = [part for part in parts if isinstance(part, Optimizer)]
        self._seen: Any = None  # (changes of modules, parameters of optimisers) when `_collect`
        # last ran, which fills:
        self._structures: dict[Any, int] = {}
        self._numbers = itertools.count()
        self._structure = -1  # the number of the present one
        self.modules: list[Module] = []
        self.tensors: list[Tensor] = []
        self.adds_to_gradients = False  # whether it writes into gradients that are there already

    def signature(self, gradients: bool) -> tuple[Any, ...]:
        """The properties of the state that a graph depends on, apart from values. With
        ``gradients``, the graph also reads the gradients that are there when it begins."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        given = [[*map(id, group["params"])] for group in groups]
        if self._seen != (modules.changes, given):
            self._collect()
            self._seen = (modules.changes, given)
        options = [tuple([bool(v) for k, v in group.items() if k != "params"]) for group in groups]
        present = [id(t._grad) if gradients else t._grad is None for t in self.tensors]
        return self._structure, (*map(_trained, self.tensors),), (*present,), (*options,)

    @property
    def device(self) -> Device:
        """Where the state is, by its first tensor; the CPU if there is none."""
        of_modules = (t for root in self._modules for t in (*root.parameters(), *root.buffers()))
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        of_optimizers = (p for group in groups for p in group["params"])
        first = next(itertools.chain(of_modules, of_optimizers), None)
        return CPU if first is None else first.device

    def _collect(self) -> None:
        """Collect the attributes of all modules, and all tensors."""
        found: dict[int, Tensor] = {}
        structure: list[Any] = []
        self.modules = [module for root in self._modules for module in root.modules()]
        for module in self.modules:
            if module._forward_pre_hooks or module._forward_hooks or module._backward_hooks:
                name, fix = type(module).__name__, "Remove it, or call the function uncaptured."
                raise CaptureError(message("capture", "modules without hooks", name, fix=fix))
            for name, value in vars(module).items():
                kind = type(value)
                structure.append((name, kind, value if kind in PLAIN else _Attribute(value)))
                if isinstance(value, Tensor):
                    found[id(value)] = value
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                found |= {id(p): p for p in group["params"]}
                structure += [*map(_Attribute, group["params"])]
        self.tensors = [*found.values()]
        if len(self._structures) >= 8 * MOST:
            self._structures.clear()
        self._structure = self._structures.setdefault(tuple(structure), next(self._numbers))

    def arrays(self) -> list[Any]:
        """The arrays of all tensors and of all state of the optimisers."""
        arrays = [*map(_array, self.tensors)]
        for kept in self.kept():
            arrays += [value for value in kept.values() if is_array(value)]
        return arrays

    def kept(self) -> list[dict[str, Any]]:
        """The optimisers' state of each parameter: arrays and numbers."""
        return [kept for optimizer in self._optimizers for kept in optimizer.state.values()]

    def names(self) -> dict[int, str]:
        """The names of tensors, by their ids, for messages."""
        named: dict[int, str] = {}
        for root in self._modules:
            named |= {id(t): name for name, t in root.named_buffers()}
            named |= {id(t): name for name, t in root.named_parameters()}
        return named

    def numbers(self) -> list[Any]:
        """The numbers in the optimisers' state."""
        kept = [value for kept in self.kept() for value in kept.values()]
        return [value for value in kept if not is_array(value)]


class _Attribute:
    """A value in a signature: equal to the same object, or to a container with the same text."""

    __slots__ = ("_told", "_value")

    def __init__(self, value: Any) -> None:
        listed = isinstance(value, tuple | list | dict)
        self._told = repr(value) if listed else ""
        self._value = None if listed else value

    def __hash__(self) -> int:
        return hash((self._told, id(self._value)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attribute) and (self._told, id(self._value)) == (
            other._told,
            id(other._value),
        )


class Snapshot:
    """A copy of a state, to restore it."""

    def __init__(self, state: State):
        self._state = state
        self.size = len(arrays := state.arrays())
        # what is read-only stays as it is by itself
        self._arrays = [(array, array.copy()) for array in arrays if writeable(array)]
        self._kept = [(kept, dict(kept)) for kept in state.kept()]
        self._gradients = [(t, t._grad) for t in state.tensors]
        gradients = [gradient for _, gradient in self._gradients if gradient is not None]
        every = state.adds_to_gradients
        kept = [g for g in gradients if (every or g._version.escaped) and writeable(g._array)]
        self._copies = [(g, g._array.copy()) for g in kept]
        self._uncopied = [
            (t, g._version, g._version.count)
            for t, g in self._gradients
            if g is not None and not (every or g._version.escaped)
        ]
        self._random = random.get_state()
        owners = [*state.tensors, *[gradient for gradient, _ in self._copies]]
        self._counts = [(tensor._version, tensor._version.count) for tensor in owners]

    def lost(self) -> bool:
        """Whether a gradient without a copy was written since. (Most functions replace gradients,
        and copies would cost memory.)"""
        return any(version.count != count for _, version, count in self._uncopied)

    def restore(self, change: float = 1.0) -> None:
        """Restore the state, with all floats multiplied by ``change``. Gradients that are lost are
        none at all afterwards."""
        try:
            for version, _ in self._counts:
                version.flush_readers()
        finally:  # should one of them fail
            self._restore(change)

    def _restore(self, change: float) -> None:
        for array, copy in self._arrays:
            array[...] = copy * change if change != 1 and copy.dtype.kind == "f" else copy
        for kept in self._state.kept():
            kept.clear()
        for kept, copy in self._kept:
            kept.update(copy)
        for tensor, gradient in self._gradients:
            tensor._grad = gradient
        for tensor, version, count in self._uncopied:
            if version.count != count:
                tensor._grad = None
        for gradient, copy in self._copies:
            gradient._array[...] = copy
        for version, count in self._counts:
            version.restore(count)
            if change != 1:
                version.bump()
        random.set_state(self._random)

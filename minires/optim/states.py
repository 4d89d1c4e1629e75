"""Saved states of optimisers: a state that fits the optimiser is taken over, any other is refused.

A state has the form of PyTorch's ``{"state": {index: {name: value}}, "param_groups": [...]}``. Its
arrays may be NumPy's, Tensors (as :func:`minires.load` gives them) or PyTorch's; the count of steps
a number or an array of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, ClassVar, Protocol

import numpy as np

from minires.arguments import as_number, integer, number
from minires.device import array_module, assign, beside, is_array
from minires.errors import ArgumentError, DTypeError, ShapeError, message, quoted, unknown
from minires.tensor import Tensor

Group = dict[str, Any]  # parameters and their options

# entries of PyTorch's groups that say how PyTorch computes, or that its schedules leave there
_OF_PYTORCH = {
    *("foreach", "capturable", "differentiable", "fused"),
    *("max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
}
_LABELS = {"params", "param_names", "name", "initial_lr"}
MOST_STEPS = 2**53  # a float holds every whole number up to here


class Optimizer(Protocol):
    """The part of :class:`minires.optim.Optimizer` that this file uses; the class documents it."""

    defaults: dict[str, Any]
    param_groups: list[Group]
    decoupled_weight_decay: bool
    _remembers: ClassVar[dict[str, str] | None]

    @property
    def _op(self) -> str: ...
    def _parameters(self) -> Iterator[tuple[tuple[int, str | None], Tensor, Group]]: ...
    def _checked(self, op: str, group: Group) -> Group: ...
    def _needs(self, group: Group) -> tuple[str, ...]: ...


def fitting(
    optimizer: Optimizer, state_dict: Any
) -> tuple[list[Group], list[dict[str, Any] | None]]:
    """The options of the groups, and the state of each parameter (None where there is none), whose
    arrays are copies.

    Raises:
        ArgumentError, ShapeError, DTypeError: see
            :meth:`~minires.optim.Optimizer.load_state_dict`.
    """
    op = f"{optimizer._op}.load_state_dict"
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        keys = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else None
        got = f"a dict with keys {keys}" if keys is not None else type(state_dict).__name__
        raise ArgumentError(message(op, "a dict with 'state' and 'param_groups'", got))
    groups, states = state_dict["param_groups"], state_dict["state"]
    indices = _indices(op, optimizer, groups)
    options = [_options(op, optimizer, *pair) for pair in zip(optimizer.param_groups, groups)]
    if not isinstance(states, Mapping):
        raise ArgumentError(message(op, "the state a dict", quoted(states)))
    stray = set(states) - set(indices)
    if stray:
        got = f"state of {sorted(map(str, stray))} too"
        raise ArgumentError(message(op, "state of the parameters listed", got))
    remembered = []
    for index, (entry, p, group) in zip(indices, optimizer._parameters()):
        number_of_group = next(k for k, g in enumerate(optimizer.param_groups) if g is group)
        label = f"{entry[1] or f'parameter {entry[0]}'} of shape {p.shape}"
        state = states.get(index)
        if state is not None:
            state = _state(op, optimizer, state, p, options[number_of_group], label)
        remembered.append(state)
    return options, remembered


def _indices(op: str, optimizer: Optimizer, groups: Any) -> list[Any]:
    """The indices of all parameters in a saved state, group by group."""
    whole = isinstance(groups, list | tuple) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list | tuple)
        for group in groups
    )
    if not whole:
        expected = "param_groups a list of dicts, each with its params"
        raise ArgumentError(message(op, expected, quoted(groups)))
    sizes = [len(group["params"]) for group in groups]
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own_sizes:
        raise ArgumentError(
            message(
                op,
                f"{len(own_sizes)} group(s) of {own_sizes} parameters",
                f"{len(sizes)} group(s) of {sizes}",
                fix="Build the optimiser with the same groups as the one that was saved.",
            )
        )
    given = [index for group in groups for index in group["params"]]
    indices = [integer(op, "the number of a parameter", index, least=0) for index in given]
    if len(set(indices)) != len(indices):
        raise ArgumentError(message(op, "each parameter once", quoted(indices)))
    return indices


def _options(op: str, optimizer: Optimizer, own: Group, saved: Mapping[str, Any]) -> Group:
    """The options of a saved group, checked and as plain Python."""
    missing = sorted(set(optimizer.defaults) - set(saved))
    if missing:
        raise ArgumentError(
            message(
                op,
                f"the options of {optimizer._op}",
                f"a group without {', '.join(missing)}",
                fix="Was this saved by another kind of optimiser?",
            )
        )
    options: Group = {}
    fixed = {"maximize": False, "decoupled_weight_decay": optimizer.decoupled_weight_decay}
    for name, value in saved.items():
        if name in fixed and name not in optimizer.defaults:
            told = isinstance(value, bool | np.bool_) and bool(value) == fixed[name]
            if value is not None and not told:
                fix = "Was this saved by another kind of optimiser?"
                raise ArgumentError(message(op, f"{name} {fixed[name]}", quoted(value), fix=fix))
        elif name in optimizer.defaults:
            options[name] = _plain(value)
        elif name == "initial_lr":
            options[name] = float(number(op, name, _plain(value)))
        elif name not in _OF_PYTORCH and name not in _LABELS:
            raise unknown(f"{optimizer._op} option", name, optimizer.defaults)
    checked = optimizer._checked(op, {**own, **options})
    return {name: checked[name] for name in options}


def _plain(value: Any) -> Any:
    """An option as Python's value: a number where it was saved as an array or a tensor of one."""
    if isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape")):
        return value.item() if value.shape == () else value
    return deepcopy(value)


def _state(
    op: str, optimizer: Optimizer, state: Any, p: Tensor, group: Group, label: str
) -> dict[str, Any]:
    """The state of one parameter, checked; its arrays are copies."""
    if not isinstance(state, Mapping):
        raise ArgumentError(message(op, "the state of a parameter a dict", quoted(state), label))
    kinds, taken = optimizer._remembers, {}
    for name, value in state.items():
        if kinds is not None and name not in kinds:
            got = f"state {quoted(name)}"
            raise ArgumentError(message(op, f"{' and '.join(kinds)} as state", got, label))
        kind = None if kinds is None else kinds[name]
        if value is None:  # PyTorch's word for a momentum that has not begun
            continue
        if kind == "steps":
            taken[name] = _steps(op, name, value, label)
        elif kind == "array" or isinstance(value, Tensor) or is_array(value):
            taken[name] = _array(op, name, value, p, label)
        else:
            taken[name] = deepcopy(value)
    missing = [name for name in optimizer._needs(group) if name not in taken]
    if missing and (state or kinds is None):
        got = f"a state without {', '.join(missing)}"
        raise ArgumentError(message(op, f"what {optimizer._op} remembers", got, label))
    return taken


def _steps(op: str, name: str, value: Any, label: str) -> int:
    shape = getattr(value, "shape", None)  # of a NumPy number, an array or a tensor
    one = isinstance(shape, tuple) and math.prod(shape) == 1
    plain = value.item() if one else value
    real = as_number(plain)
    if real is None or not 0 <= real <= MOST_STEPS or real != int(real):
        expected = f"{name} a whole number from 0 to 2**53"
        raise ArgumentError(message(op, expected, quoted(value), label))
    return int(real)


def _array(op: str, name: str, value: Any, p: Tensor, label: str) -> Any:
    """A copy of a state array, on the parameter's device and in its memory order."""
    array = value._array if isinstance(value, Tensor) else value
    if not hasattr(array, "dtype") or not hasattr(array, "__array__"):
        raise DTypeError(message(op, f"{name} an array", quoted(value), label))
    if isinstance(array, np.ndarray | np.generic) or not hasattr(array, "device"):
        array = np.asarray(array)
    elif not hasattr(array, "__cuda_array_interface__"):
        array = np.asarray(array.detach() if hasattr(array, "detach") else array)  # PyTorch's
    if tuple(array.shape) != p.shape:
        raise ShapeError(message(op, f"{name} of shape {p.shape}", tuple(array.shape), label))
    if array.dtype != p.dtype:
        raise DTypeError(message(op, f"{name} of dtype {p.dtype}", array.dtype, label))
    with beside((p,)):
        own = array_module(p._array).empty_like(p._array)
    assign(own, array)
    return own

"""What all optimisers share: parameter groups, state, and the walk over the gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from minires.arguments import flag, iterator, number
from minires.autograd import call
from minires.device import (
    beside,
    check_writeable,
    device_of,
    is_array,
    writeable,
)
from minires.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GraphError,
    ShapeError,
    UninitializedError,
    message,
    unknown,
)
from minires.nn.parameter import Uninitialized
from minires.ops import update
from minires.optim.states import Group, fitting
from minires.tensor import Tensor

Update = tuple[Any, Any, dict[str, Any], Group]  # arrays of parameter and gradient; state; options

# Group entries that are not options of the update rule: labels, and what schedules remember.
_BOOKKEEPING = frozenset({"params", "param_names", "name", "initial_lr"})


class Optimizer:
    """Base of the optimisers: changes parameters in place by their gradients.

    A subclass gives the options of its update rule as ``defaults``, checks them in
    :meth:`_check_options` and applies the rule to one parameter in :meth:`_update`; or, where an
    operation has kernels for it, to all parameters in :meth:`_update_together`.

    Attributes:
        param_groups: one dict per group, ``{"params": [Tensor, ...], "lr": ..., ...}``. Options
            may be changed between steps; schedules do just that.
        state: per parameter, what the rule remembers between steps (arrays and numbers).

    Args:
        params: an iterable of Tensors, of ``(name, Tensor)`` pairs (names appear in errors), or
            of groups: dicts with ``"params"`` and options of their own in place of the defaults.
        defaults: options for groups that do not give their own.

    Raises:
        ArgumentError: no parameters, one parameter twice, a tensor computed from others, an
            option out of range or of unknown name.
        DTypeError: a parameter that is not floating point.
    """

    decoupled_weight_decay = False  # whether decay stands outside of the moments
    # what the rule remembers of a parameter, "array" (of its shape) or "steps"; None: anything
    _remembers: ClassVar[dict[str, str] | None] = None

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        kinds = self._remembers or {}
        self._arrays = [name for name, kind in kinds.items() if kind == "array"]
        entries = self._entries(params)
        if any(isinstance(entry, dict) for entry in entries):
            for entry in entries:
                self.add_param_group(entry)
        else:
            self.add_param_group({"params": entries})
        if not any(group["params"] for group in self.param_groups):
            raise ArgumentError(
                message(
                    self._op,
                    "at least one parameter",
                    "none",
                    fix="Pass model.parameters(); a generator can be walked through only once, and "
                    "a network whose parameters are all frozen has nothing to train.",
                )
            )

    @property
    def _op(self) -> str:
        return type(self).__name__

    # -- groups ---------------------------------------------------------------------------------

    def add_param_group(self, group: Group) -> None:
        """Add ``{"params": ..., option: value, ...}``; options left out take the defaults.

        Raises:
            ArgumentError, DTypeError: as the constructor; nothing is added then.
        """
        if not isinstance(group, dict) or "params" not in group:
            raise ArgumentError(
                message(self._op, "a group {'params': [...], ...}", _describe(group))
            )
        for option in group:
            if option not in self.defaults and option not in _BOOKKEEPING:
                raise unknown(f"{self._op} option", option, self.defaults)
        named = [self._name_and_tensor(entry) for entry in self._entries(group["params"])]
        new: Group = {**self.defaults, **group, "params": [p for _, p in named]}
        if named and all(name is not None for name, _ in named):
            new["param_names"] = [name for name, _ in named]
        self._check_options(new)
        if "initial_lr" in new:
            new["initial_lr"] = float(number(self._op, "initial_lr", new["initial_lr"], least=0))

        seen = {id(p) for other in self.param_groups for p in other["params"]}
        for index, (name, p) in enumerate(named):
            label = _label(index, name, p)
            if id(p) in seen:
                raise ArgumentError(
                    message(
                        self._op,
                        "each parameter once",
                        f"{label} a second time",
                        fix="A shared parameter belongs into one group.",
                    )
                )
            seen.add(id(p))
            if not np.issubdtype(p.dtype, np.floating):
                raise DTypeError(
                    message(self._op, "floating-point parameters", f"{p.dtype} in {label}")
                )
            if not p.is_leaf:
                raise ArgumentError(
                    message(
                        self._op,
                        "leaf tensors",
                        f"{label}, the result of an operation",
                        fix="Optimise the tensor it was computed from, or detach() it first.",
                    )
                )
        self.param_groups.append(new)

    def _entries(self, params: Any) -> list[Any]:
        """``params`` as a list, refusing a lone tensor, array, group or module."""
        if isinstance(params, Tensor):
            raise ArgumentError(
                message(self._op, "an iterable of tensors", _describe(params), fix="Pass [tensor].")
            )
        listed = isinstance(params, Iterable) and not is_array(params)
        if isinstance(params, dict) or not listed:
            fix = "Pass model.parameters()." if hasattr(params, "parameters") else ""
            raise ArgumentError(
                message(self._op, "an iterable of tensors or groups", _describe(params), fix=fix)
            )
        return list(iterator(self._op, "tensors or groups", params))

    def _name_and_tensor(self, entry: Any) -> tuple[str | None, Tensor]:
        name, p = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
        if not isinstance(p, Tensor) or not (name is None or isinstance(name, str)):
            raise ArgumentError(
                message(self._op, "tensors or (name, tensor) pairs", _describe(entry))
            )
        return name, p

    def _parameters(self) -> Iterator[tuple[tuple[int, str | None], Tensor, Group]]:
        """Every parameter with its index and name, in the order of the state dict's indices."""
        index = 0
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            for name, p in zip(names, group["params"], strict=True):
                yield (index, name), p, group
                index += 1

    # -- one step -------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with ``set_to_none=False`` fill them with zeros.

        Raises:
            ArgumentError: ``set_to_none`` is no flag; a gradient that looks at read-only memory.
        """
        set_to_none = flag(f"{self._op}.zero_grad", "set_to_none", set_to_none)
        gradients = []
        for _, p, _ in self._parameters():
            if p.grad is None:
                continue
            if set_to_none:
                p.grad = None
            else:
                gradients.append((p, p.grad.detach()))
        place = f"{self._op}.zero_grad", "a gradient", "Forget the gradients: zero_grad()."
        for same in _by_device([(gradient._to_write(*place),) for _, gradient in gradients]):
            update.zero([array for (array,) in same])
        for p, gradient in gradients:
            p.grad = gradient
            gradient.bump_version()

    def step(self) -> None:
        """Change every parameter that has a gradient, in place; the others are left alone.

        Raises:
            ArgumentError: an option that was changed to a value it cannot have; a parameter, or an
                array of its state, that looks at read-only memory.
            GraphError: no parameter requires a gradient, so that no step can ever change one.
            UninitializedError: no parameter has a gradient, and some belong to lazy layers that no
                input was given to.
            DTypeError, DeviceError: a parameter whose ``data`` got another dtype, or went to
                another device, after its gradient was computed or its state begun.
            ShapeError: an array of another shape than the parameter's was put into its state.

        All checks are made before the first parameter is changed.
        """
        work = [entry for entry in self._parameters() if entry[1].grad is not None]
        waiting = [entry for entry in self._parameters() if isinstance(entry[1], Uninitialized)]
        if not work and waiting:
            raise UninitializedError(
                message(
                    f"{self._op}.step",
                    "parameters with gradients",
                    f"{len(waiting)} of lazy layers that have not seen an input",
                    fix="Call the network and backward() first; the optimiser may be made before.",
                )
            )
        if not work and not any(p.requires_grad for _, p, _ in self._parameters()):
            raise GraphError(
                message(
                    f"{self._op}.step",
                    "parameters that require a gradient",
                    f"{len([*self._parameters()])} that are all frozen",
                    fix="Call requires_grad_(True) on what is to be trained.",
                )
            )
        self._check_arrays(work)
        call(self._check_groups)
        op = f"{self._op}.step"
        updates = [
            (p._to_write(op, _called(*name)), p.grad._array, self.state[p], group)
            for name, p, group in work
        ]
        for same in _by_device(updates):
            with beside(same[0][:1]):
                self._update_together(same)
        for _, p, _ in work:
            p.bump_version()

    def _check_arrays(self, work: list[Any]) -> None:
        """Check that gradients and state arrays can be combined with their parameters, entry by
        entry, and that what a step writes can be written. Kernels trust in that: some know an
        address and a size alone."""
        for name, p, _ in work:
            like, state = _facts(p._array), self.state.get(p, {})
            kept = [state.get(key) for key in self._arrays]
            for array in (p.grad._array, *kept):
                if array is not None and _facts(array) != like:
                    raise self._unlike(name, p, array)
            for array in kept:
                if array is not None and not writeable(array):
                    key = next(k for k, value in state.items() if value is array)
                    what, fix = f"{key} of {_called(*name)}", "Put a copy of it into the state."
                    check_writeable(f"{self._op}.step", what, array, fix)

    def _unlike(self, name: tuple[int, str | None], p: Tensor, array: Any) -> Exception:
        """The error for a gradient or a state array that has another shape, dtype or device than
        its parameter."""
        what, fix = "a gradient", ""
        if array is not p.grad._array:
            what = next(kept for kept, value in self.state[p].items() if value is array)
            fix = "Convert or move a network before its optimizer is built."
        words = ((ShapeError, "of shape"), (DTypeError, "of dtype"), (DeviceError, "on"))
        facts = zip(words, _facts(p._array), _facts(array))
        (error, fact), wanted, got = next(each for each in facts if each[1] != each[2])
        expected, label = f"{what} {fact} {wanted}", _label(*name, p)
        return error(message(f"{self._op}.step", expected, str(got), label, fix))

    def _check_groups(self) -> None:
        for group in self.param_groups:
            group.update(self._checked(f"{self._op}.step", group))

    def _checked(self, op: str, group: Group) -> Group:
        """The options of a group as they may be in the middle of training, as plain Python: a
        schedule may have taken the rate below 0, where PyTorch's would."""
        lr = float(number(op, "lr", group.get("lr", 0)))
        checked = {**group, "lr": abs(lr)}
        self._check_options(checked)
        return {**checked, "lr": lr}

    def _needs(self, group: Group) -> tuple[str, ...]:
        """The names that must be in the state of a parameter of this group, if it has a state."""
        return ()

    def _check_options(self, group: Group) -> None:
        """Check the options of ``group`` and turn them into plain Python numbers, in place."""
        raise NotImplementedError

    def _update(self, data: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        """Write the new values of one parameter into the array ``data``. The array ``grad`` must
        not be changed."""
        raise NotImplementedError

    def _update_together(self, updates: list[Update]) -> None:
        """Update all parameters on one device: by :meth:`_update`, one after the other, unless a
        subclass has an operation for all of them."""
        for one in updates:
            call(self._update, *one)

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything a later run needs, with parameters as indices.

        ``{"state": {index: {name: array or number}}, "param_groups": [{..., "params": [index]}]}``
        """
        parameters = [p for _, p, _ in self._parameters()]
        index = {id(p): i for i, p in enumerate(parameters)}
        return {
            "state": {
                i: deepcopy(self.state[p]) for i, p in enumerate(parameters) if p in self.state
            },
            "param_groups": [
                {
                    **deepcopy({k: v for k, v in group.items() if k != "params"}),
                    "params": [index[id(p)] for p in group["params"]],
                }
                for group in self.param_groups
            ],
        }

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing.

        Raises:
            ArgumentError: groups, group sizes or options that differ from this optimiser's, state
                that is unknown or missing, a count of steps that is no whole number >= 0.
            ShapeError, DTypeError: state arrays that do not fit their parameters.
        """
        fitting(self, state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state of :meth:`state_dict`'s result, or of what PyTorch's
        optimiser of this name saved; arrays are copied.

        Arrays may be NumPy's or Tensors, as :func:`minires.load` gives them. Names of parameters
        stay this optimiser's.

        Raises:
            ArgumentError, ShapeError, DTypeError: see :meth:`check_state_dict`. Nothing is
                changed then.
        """
        groups, remembered = fitting(self, state_dict)
        for state, (_, p, _) in zip(remembered, self._parameters()):
            self.state.pop(p, None)
            if state is not None:
                self.state[p] = state
        for group, options in zip(self.param_groups, groups):
            group.update(options)

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            options = ", ".join(f"{name}={group[name]}" for name in self.defaults)
            lines.append(f"  {len(group['params'])} parameters: {options}")
        return "\n".join([f"{self._op}(", *lines, ")"])


def _facts(array: Any) -> tuple[Any, ...]:
    """Shape, dtype and device: what arrays that are combined entry by entry have in common."""
    return array.shape, array.dtype, device_of(array)


def _by_device(updates: list[Any]) -> Iterator[list[Any]]:
    """Tuples that begin with an array, each time as many as follow each other on one device."""
    for _, same in groupby(updates, key=lambda one: device_of(one[0])):
        yield [*same]


def _label(index: int, name: str | None, p: Tensor) -> str:
    shape = "unknown shape" if isinstance(p, Uninitialized) else f"shape {p.shape}"
    return f"{_called(index, name)} of {shape}"


def _called(index: int, name: str | None) -> str:
    return name or f"parameter {index}"


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    return f"{type(value).__name__}"

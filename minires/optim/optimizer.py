"""What all optimisers share: parameter groups, state, and the walk over the gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np

from minires.arguments import flag, iterator, number
from minires.autograd import call
from minires.device import backend_name
from minires.errors import ArgumentError, DTypeError, GraphError, message, unknown
from minires.optim.states import fitting
from minires.tensor import Tensor

Group = dict[str, Any]
Update = tuple[np.ndarray, np.ndarray, dict[str, Any], Group]  # data, gradient, state, options

_KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

# Group entries that are not options of the update rule: labels, and what schedules remember.
_BOOKKEEPING = frozenset({"params", "param_names", "name", "initial_lr"})


class Optimizer:
    """Base of the optimisers: changes parameters in place by their gradients.

    A subclass gives the options of its update rule as ``defaults``, checks them in
    :meth:`_check_options` and applies the rule to one parameter in :meth:`_update`; to be fast, to
    all of them in :meth:`_update_together`.

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
        """``params`` as a list, refusing the two things people pass by mistake."""
        if isinstance(params, Tensor):
            raise ArgumentError(
                message(self._op, "an iterable of tensors", _describe(params), fix="Pass [tensor].")
            )
        if isinstance(params, dict | np.ndarray) or not isinstance(params, Iterable):
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
            ArgumentError: ``set_to_none`` is no flag.
        """
        set_to_none = flag(f"{self._op}.zero_grad", "set_to_none", set_to_none)
        gradients = []
        for _, p, _ in self._parameters():
            if p.grad is None:
                continue
            if set_to_none:
                p.grad = None
            else:
                gradients.append(p.grad.detach())
                p.grad = gradients[-1]
        _zero(gradients)

    def step(self) -> None:
        """Change every parameter that has a gradient, in place; the others are left alone.

        Raises:
            ArgumentError: an option that was changed to what is none.
            GraphError: no parameter requires a gradient, so that no step can ever change one.
            DTypeError: a parameter whose ``data`` got another dtype after its gradient was
                computed. All are looked at before the first parameter is changed.
        """
        work = [entry for entry in self._parameters() if entry[1].grad is not None]
        if not work and not any(p.requires_grad for _, p, _ in self._parameters()):
            raise GraphError(
                message(
                    f"{self._op}.step",
                    "parameters that require a gradient",
                    f"{len([*self._parameters()])} that are all frozen",
                    fix="Call requires_grad_(True) on what is to be trained.",
                )
            )
        for name, p, _ in work:
            if p.grad.dtype != p.dtype:
                wanted, got = f"a gradient of dtype {p.dtype}", p.grad.dtype
                raise DTypeError(message(f"{self._op}.step", wanted, got, _label(*name, p)))
        call(self._check_groups)
        together: list[Update] = []
        for _, p, group in work:
            update = (p._to_write(), p.grad._array, self.state[p], group)
            if _suits_kernels(update[0], update[2]):
                together.append(update)
            else:
                call(self._update, *update)
        if together:
            self._update_together(together)
        for _, p, _ in work:
            p.bump_version()

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
        """What a parameter of this group that has a state must have in it."""
        return ()

    def _check_options(self, group: Group) -> None:
        """Check the options of ``group`` and turn them into plain Python numbers, in place."""
        raise NotImplementedError

    def _update(
        self, data: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: Group
    ) -> None:
        """Write the new values of one parameter into ``data``; ``grad`` must not be changed.

        These are the formulas as array expressions, for arrays of any kind and on any device.
        """
        raise NotImplementedError

    def _update_together(self, updates: list[Update]) -> None:
        """:meth:`_update` for parameters that live in contiguous memory of the CPU. A subclass that
        has a kernel for all of them at once puts it here."""
        for update in updates:
            self._update(*update)

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


def _suits_kernels(data: Any, state: dict[str, Any]) -> bool:
    """Whether the kernels of :mod:`~minires.optim.kernel_numba` may write into a parameter and what
    is remembered of it: contiguous float32 or float64 in the memory of the CPU."""
    if backend_name(data) != "numba":
        return False
    for array in (data, *state.values()):
        if isinstance(array, np.ndarray) and not (
            array.dtype in _KERNEL_DTYPES and array.flags.carray
        ):
            return False
    return True


def _zero(tensors: list[Tensor]) -> None:
    """Fill tensors with zeros: those that the kernels may write into in one launch."""
    together = []
    for t in tensors:
        array = t._to_write()
        if _suits_kernels(array, {}):
            together.append(array)
        else:
            call(array.fill, 0)
    if together:
        from minires.optim.kernel_numba import zero

        zero(together)
    for t in tensors:
        t.bump_version()


def _label(index: int, name: str | None, p: Tensor) -> str:
    return f"{name or f'parameter {index}'} of shape {p.shape}"


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    return f"{type(value).__name__}"

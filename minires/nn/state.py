"""State dicts: what may be a value in one, and what to say when one does not fit a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minires.errors import ArgumentError, CheckpointError, DTypeError, message, quoted
from minires.nn.parameter import Uninitialized
from minires.tensor import Tensor, from_dlpack, from_numpy

_SHOWN = 20  # names per kind of mismatch in an error
COUNTER = "num_batches_tracked"


def as_tensors(op: str, state: Any) -> dict[str, Tensor]:
    """Every value of a state dict as a detached tensor, sharing memory where it can.

    Values may be tensors, NumPy arrays, what ``numpy.asarray`` takes, or what speaks DLPack
    (PyTorch, CuPy, JAX, ...).

    Raises:
        ArgumentError: ``state`` is no dict, or one of its values is a dict or text.
        DTypeError: a value that is no array of numbers, or of a dtype that minires does not take.
    """
    if not isinstance(state, Mapping):
        fix = ""
        if isinstance(state, str | os.PathLike):
            fix = "Read the file first: minires.load(path)."
        elif hasattr(state, "state_dict"):
            fix = "Pass its state_dict()."
        raise ArgumentError(
            message(op, "a dict of names and tensors", f"a {type(state).__name__}", fix=fix)
        )
    for name in state:
        if not isinstance(name, str):
            raise ArgumentError(message(op, "names that are text", quoted(name)))
    return {name: _as_tensor(op, name, value) for name, value in state.items()}


def _as_tensor(op: str, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        raise ArgumentError(
            message(
                op,
                "names and tensors",
                f"a dict of {len(value)} entries under {quoted(name)}",
                fix=f"If those are the tensors, pass checkpoint[{name!r}].",
            )
        )
    if isinstance(value, str | bytes | type(None)):
        raise ArgumentError(
            message(op, "names and tensors", f"{quoted(value)} under {quoted(name)}")
        )
    try:
        if hasattr(value, "detach"):  # a parameter of PyTorch refuses to be converted
            value = value.detach()
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
            return from_numpy(np.asarray(value))
        return from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        dtype = getattr(value, "dtype", type(value).__name__)
        raise DTypeError(
            message(
                op,
                "tensors of float32, float64, bool or an integer dtype",
                f"{dtype!s:.60} under {quoted(name)}",
                fix="Convert it first, for instance to float32.",
            )
        ) from error


def fits(own: Tensor, given: Tensor) -> bool:
    """Whether a value may be written into a parameter or buffer: precision may differ."""
    if isinstance(given, Uninitialized):
        return isinstance(own, Uninitialized)
    same = own._fits(given.shape) if isinstance(own, Uninitialized) else own.shape == given.shape
    return same and (own.dtype.kind == "f") == (given.dtype.kind == "f")


def _facts(tensor: Tensor) -> str:
    return (
        "not initialized yet"
        if isinstance(tensor, Uninitialized)
        else f"{tensor.shape} {tensor.dtype}"
    )


def missing_keys(own: Iterable[str], given: Mapping[str, Any]) -> list[str]:
    """Names of the model that a state dict lacks.

    The count of a batch norm whose statistics are there is not one of them: PyTorch before 0.4.1
    had none, other libraries have none, and it matters only for ``momentum=None``.
    """

    def needed(name: str) -> bool:
        if not name.endswith(COUNTER):
            return True
        return name.removesuffix(COUNTER) + "running_mean" not in given

    return [name for name in own if name not in given and needed(name)]


def load_error(
    model: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor], missing: list[str]
) -> CheckpointError:
    """The error for a state dict that does not belong to this model."""
    matched = sum(name in given for name in own)
    unexpected = [name for name in given if name not in own]
    misfits = [
        f"{name} (model {_facts(own[name])}, given {_facts(given[name])})"
        for name in own
        if name in given and not fits(own[name], given[name])
    ]
    lines = [f"load_state_dict: {matched} of {len(own)} keys of {model} match, nothing was loaded"]
    for what, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape or kind of dtype", misfits),
    ):
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"  {what} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
    if any(isinstance(given[name], Uninitialized) for name in own if name in given):
        lines.append(
            "  given are parameters of lazy layers: call the network that they come from once, on "
            "a batch or on zeros of its shape, before its state_dict()"
        )
    prefix, hits = _best_prefix(own, given)
    if hits > matched:
        origin = " (saved from a parallel wrapper)" if prefix == "module." else ""
        lines.append(
            f'  every key starts with "{prefix}"{origin}: stripping it matches {hits} of '
            f'{len(own)}. Use minires.interop.strip_prefix(state, "{prefix}")'
        )
    return CheckpointError("\n".join(lines))


def _best_prefix(own: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, int]:
    """The dotted prefix of all keys without which most of them are the model's, and how many."""
    first, *others = given or [""]
    best, most = "", 0
    for end in (i + 1 for i, letter in enumerate(first) if letter == "."):
        if all(name.startswith(first[:end]) for name in others):
            hits = sum(name[end:] in own for name in given)
            if hits > most:
                best, most = first[:end], hits
    return best, most

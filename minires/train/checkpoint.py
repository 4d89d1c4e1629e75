"""One file with everything a run needs to go on: weights, optimiser, schedule, random state.

The file is an ordinary safetensors file, so it holds no code and other tools can open it. Tensors
are named ``model/<name>``, ``averaged/<name>`` (of an average of the weights, if there is one) and
``optimizer/<parameter index>/<name>``. What is not a tensor is JSON in the file's metadata.
``minires.load`` reads the weights of the model from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from minires import random
from minires.device import CPU, is_array, move
from minires.errors import ArgumentError, CheckpointError, MiniresError, message, quoted
from minires.interop.safetensors_ import damaged, read_safetensors, write_safetensors
from minires.optim import LRScheduler, Optimizer, ReduceLROnPlateau
from minires.optim.swa_utils import AveragedModel
from minires.tensor import Tensor, from_numpy
from minires.train import schema

FORMAT = 2
Content = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays by name, and what is JSON
_SHOWN = 5  # names per kind of mismatch in an error


class Stateful(Protocol):
    """What checkpoints need of a model."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any: ...


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Stateful,
    optimizer: Optimizer | None = None,
    schedule: LRScheduler | ReduceLROnPlateau | None = None,
    averaged: AveragedModel | None = None,
    progress: dict[str, Any],
) -> None:
    """Write model, optimiser, schedule, minires' random state and ``progress`` to one file.

    The file is replaced atomically: killed at any moment, the old or the new one is there.

    Args:
        path: the file; its folder is made if need be.
        progress: JSON values of the caller's own (the epoch, the history, ...).

    Raises:
        ArgumentError: ``progress`` holds something that JSON cannot, or model, optimiser or
            schedule is none.
        CheckpointError: the folder cannot be written.
    """
    _check_kinds("save_checkpoint", model, optimizer, schedule, averaged)
    state_dict = model.state_dict()
    # not by numpy(): whoever has that array may write to it unseen, and what is derived from the
    # weights could no longer be remembered
    arrays = {f"model/{name}": move(tensor._array, CPU) for name, tensor in state_dict.items()}
    if averaged is not None:
        for name, tensor in averaged.state_dict().items():
            arrays[f"averaged/{name}"] = move(tensor._array, CPU)
    content: dict[str, Any] = {
        "optimizer": None,
        "schedule": schedule.state_dict() if schedule is not None else None,
        "random": random.get_state(),
        "progress": progress,
    }
    if optimizer is not None:
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            numbers[str(index)] = {}
            for name, value in values.items():
                if is_array(value):
                    arrays[f"optimizer/{index}/{name}"] = move(value, CPU)
                else:
                    numbers[str(index)][name] = value
        content["optimizer"] = {"param_groups": state["param_groups"], "numbers": numbers}
    try:
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            message("save_checkpoint", "progress of plain JSON values", error)
        ) from error
    write_safetensors(path, arrays, {"minires_checkpoint": str(FORMAT), "content": text})


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Stateful,
    optimizer: Optimizer | None = None,
    schedule: LRScheduler | ReduceLROnPlateau | None = None,
    averaged: AveragedModel | None = None,
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote, minires' random state included.

    Args:
        path: the file.
        model, optimizer, schedule, averaged: built as in the run that was saved. Without optimiser,
            schedule or average, their part of the file is left alone.

    Returns:
        The ``progress`` that was saved.

    Raises:
        ArgumentError: model, optimiser or schedule is none.
        CheckpointError: the file is missing, damaged or not a checkpoint, or its tensors,
            groups or schedule are not those of the objects given. Nothing is changed then.
    """
    _check_kinds("load_checkpoint", model, optimizer, schedule, averaged)
    return restore_checkpoint(
        path, read_checkpoint(path), model=model, optimizer=optimizer, schedule=schedule,
        averaged=averaged,
    )  # fmt: skip


def restore_checkpoint(
    path: str | os.PathLike[str],
    there: Content,
    *,
    model: Stateful,
    optimizer: Optimizer | None,
    schedule: LRScheduler | ReduceLROnPlateau | None,
    averaged: AveragedModel | None,
) -> dict[str, Any]:
    """What :func:`load_checkpoint` does with what :func:`read_checkpoint` found at ``path``."""
    _check_kinds("load_checkpoint", model, optimizer, schedule, averaged)
    arrays, content = there
    weights = _below(arrays, "model/")
    _check_model(path, weights, model)
    average = _below(arrays, "averaged/")
    if averaged is not None:
        if not average:
            raise _lacks(path, "averaged")
        _check_model(path, average, averaged)
    optimizer_state = None
    if optimizer is not None:
        optimizer_state = _optimizer_state(path, arrays, content)
        _check(path, optimizer, optimizer_state)
    if schedule is not None:
        if content["schedule"] is None:
            raise _lacks(path, "schedule")
        _check(path, schedule, content["schedule"])

    model.load_state_dict({name: from_numpy(array) for name, array in weights.items()})
    if averaged is not None:
        averaged.load_state_dict({name: from_numpy(array) for name, array in average.items()})
    if optimizer is not None and optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    if schedule is not None:
        schedule.load_state_dict(content["schedule"])
    random.set_state(content["random"])
    return content["progress"]


def read_progress(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``progress`` of a checkpoint, restoring nothing.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint.
    """
    return read_checkpoint(path)[1]["progress"]


def read_checkpoint(path: str | os.PathLike[str]) -> Content:
    """All arrays and the JSON part of a checkpoint, the checksum verified.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint.
    """
    op = "load_checkpoint"
    arrays, metadata, _, verified = read_safetensors(path, op)
    if "minires_checkpoint" not in metadata:
        raise CheckpointError(
            message(
                op,
                f"a minires checkpoint at {path}",
                "a safetensors file without optimiser and progress",
                fix="Load weights alone: model.load_state_dict(minires.load(path)).",
            )
        )
    if metadata["minires_checkpoint"] != str(FORMAT):
        raise CheckpointError(
            message(
                op,
                f"checkpoint format {FORMAT}",
                metadata["minires_checkpoint"],
                str(path),
                "It was written by another version of minires; use that one.",
            )
        )
    if not verified:
        raise damaged(path, op)
    try:
        content = json.loads(metadata.get("content", ""))
    except (ValueError, RecursionError) as error:
        fix = "Restore the file from a copy, or train anew."
        raise CheckpointError(message(op, f"JSON in {path}", error, fix=fix)) from error
    schema.check(_CONTENT, content, f"{op} {path}", "Restore the file from a copy, or train anew.")
    return arrays, content


_STATE, _WORD = schema.whole(0, 2**128 - 1), schema.whole(0, 2**64 - 1)
_GENERATOR = schema.record(  # see random.get_state
    {
        "bit_generator": schema.one_of(("PCG64",)),
        "state": schema.record({"state": _STATE, "inc": _STATE}),
        "has_uint32": schema.whole(0, 1),
        "uinteger": schema.whole(0, 2**32 - 1),
    },
    {"gpu": schema.record({"key": _WORD, "calls": schema.mapping(_WORD)})},
)
_OBJECT = schema.mapping(schema.anything)
_CONTENT = schema.record(
    {
        "optimizer": schema.optional(
            schema.record(
                {"param_groups": schema.listing(_OBJECT), "numbers": schema.mapping(_OBJECT)}
            )
        ),
        "schedule": schema.optional(_OBJECT),  # both are checked by what they are loaded into
        "random": _GENERATOR,
        "progress": _OBJECT,
    }
)


def _check_kinds(op: str, model: Any, optimizer: Any, schedule: Any, averaged: Any) -> None:
    parts = (getattr(model, part, None) for part in ("state_dict", "load_state_dict"))
    if isinstance(model, type) or not all(map(callable, parts)):
        raise ArgumentError(message(op, "a module as model", quoted(model)))
    kinds: list[tuple[tuple[type, ...], Any]] = [
        ((Optimizer,), optimizer),
        ((LRScheduler, ReduceLROnPlateau), schedule),
        ((AveragedModel,), averaged),
    ]
    for kind, value in kinds:
        if value is not None and not isinstance(value, kind):
            raise ArgumentError(message(op, f"None or an {kind[0].__name__}", quoted(value)))


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _optimizer_state(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], content: dict[str, Any]
) -> dict[str, Any]:
    saved = content["optimizer"]
    if saved is None:
        raise _lacks(path, "optimizer")
    state: dict[int, dict[str, Any]] = {}
    entries: list[tuple[str, dict[str, Any]]] = list(saved["numbers"].items())
    for key, array in _below(arrays, "optimizer/").items():
        index, _, name = key.partition("/")
        entries.append((index, {name: array}))
    for index, values in entries:
        if not index.isdecimal() or not index.isascii() or len(index) > 9:
            expected = "optimizer state by the number of its parameter"
            raise CheckpointError(message("load_checkpoint", expected, quoted(index), str(path)))
        state.setdefault(int(index), {}).update(values)
    return {"state": state, "param_groups": saved["param_groups"]}


def _lacks(path: str | os.PathLike[str], what: str) -> CheckpointError:
    return CheckpointError(
        message(
            "load_checkpoint",
            f"a checkpoint with {what} state",
            "one without",
            str(path),
            f"Load without {what}=, or save with it.",
        )
    )


def _check(
    path: str | os.PathLike[str], part: Optimizer | LRScheduler | ReduceLROnPlateau, state: Any
) -> None:
    try:
        part.check_state_dict(state)
    except MiniresError as error:
        raise CheckpointError(
            f"load_checkpoint: {path} does not fit, nothing was changed: {error}"
        ) from error


def _check_model(
    path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], model: Stateful
) -> None:
    """Raise one error with every kind of mismatch between the file and the model."""
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    other = [
        f"{name} (file {weights[name].shape} {weights[name].dtype}, "
        f"model {own[name].shape} {own[name].dtype})"
        for name in own
        if name in weights
        and (weights[name].shape, weights[name].dtype) != (own[name].shape, own[name].dtype)
    ]
    kinds = [
        ("missing in the file", missing),
        ("not in the model", unexpected),
        ("of other shape or dtype", other),
    ]
    found = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]
    if found:  # each kind is told, so that one run is enough to see what is wrong
        raise CheckpointError(
            f"load_checkpoint: expected the {len(own)} tensors of this model in {path}, got "
            f"{'; '.join(found)}. Nothing was changed. Build the model with the arguments it was "
            "saved with."
        )


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(name if len(name) <= 100 else f"{name[:97]}..." for name in names[:_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")

"""One file with everything a run needs to go on: weights, optimiser, schedule, random state.

The file is an ordinary safetensors file, so it holds no code and other tools can open it. Tensors
are named ``model/<name>`` and ``optimizer/<parameter index>/<name>``. What is not a tensor is JSON
in the file's metadata. ``minires.load`` reads the weights of the model from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from minires import random
from minires.device import CPU, move
from minires.errors import ArgumentError, CheckpointError, MiniresError, message
from minires.interop.safetensors_ import damaged, read_safetensors, write_safetensors
from minires.optim import LRScheduler, Optimizer
from minires.tensor import Tensor, from_numpy

FORMAT = 2
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
    schedule: LRScheduler | None = None,
    progress: dict[str, Any],
) -> None:
    """Write model, optimiser, schedule, minires' random state and ``progress`` to one file.

    The file is replaced atomically: killed at any moment, the old or the new one is there.

    Args:
        path: the file; its folder is made if need be.
        progress: JSON values of the caller's own (the epoch, the history, ...).

    Raises:
        ArgumentError: ``progress`` holds something that JSON cannot.
        CheckpointError: the folder cannot be written.
    """
    state_dict = model.state_dict()
    # not by numpy(): whoever has that array may write to it unseen, and what is derived from the
    # weights could no longer be remembered
    arrays = {f"model/{name}": move(tensor._array, CPU) for name, tensor in state_dict.items()}
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
                if isinstance(value, np.ndarray):
                    arrays[f"optimizer/{index}/{name}"] = value
                else:
                    numbers[str(index)][name] = value
        content["optimizer"] = {"param_groups": state["param_groups"], "numbers": numbers}
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            message("save_checkpoint", "progress of plain JSON values", error)
        ) from error
    write_safetensors(path, arrays, {"minires_checkpoint": str(FORMAT), "content": text})


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Stateful,
    optimizer: Optimizer | None = None,
    schedule: LRScheduler | None = None,
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote, minires' random state included.

    Args:
        path: the file.
        model, optimizer, schedule: built as in the run that was saved. Without optimiser or
            schedule, their part of the file is left alone.

    Returns:
        The ``progress`` that was saved.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint, or its tensors,
            groups or schedule are not those of the objects given. Nothing is changed then.
    """
    arrays, content = _read(path)
    weights = _below(arrays, "model/")
    _check_model(path, weights, model)
    optimizer_state = None
    if optimizer is not None:
        optimizer_state = _optimizer_state(path, arrays, content)
        _check(path, optimizer, optimizer_state)
    if schedule is not None:
        if content["schedule"] is None:
            raise _lacks(path, "schedule")
        _check(path, schedule, content["schedule"])

    model.load_state_dict({name: from_numpy(array) for name, array in weights.items()})
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
    return _read(path)[1]["progress"]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the JSON part of a checkpoint, the checksum verified."""
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
    return arrays, json.loads(metadata["content"])


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _optimizer_state(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], content: dict[str, Any]
) -> dict[str, Any]:
    saved = content["optimizer"]
    if saved is None:
        raise _lacks(path, "optimizer")
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in saved["numbers"].items()
    }
    for key, array in _below(arrays, "optimizer/").items():
        index, name = key.split("/", 1)
        state[int(index)][name] = array
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


def _check(path: str | os.PathLike[str], part: Optimizer | LRScheduler, state: Any) -> None:
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
    if found:
        raise CheckpointError(
            message(
                "load_checkpoint",
                f"the {len(own)} tensors of this model in {path}",
                "; ".join(found),
                fix="Nothing was changed. Build the model with the arguments it was saved with.",
            )
        )


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""``save`` and ``load``: weights as safetensors, and PyTorch's checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minires import arguments
from minires.device import CPU, Device, move
from minires.errors import ArgumentError, CheckpointError, DTypeError, message, quoted
from minires.files import as_path, write_atomic
from minires.interop.pth import read_pth
from minires.interop.pth_writer import write_pth
from minires.interop.safetensors_ import (
    DTYPES,
    damaged,
    read_safetensors,
    write_safetensors,
)
from minires.nn import Module
from minires.nn.state import as_tensors
from minires.tensor import Tensor, from_numpy
from minires.version import __version__

_PYTORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # the last for NAME.pth.tar, never a tar
_JSON = "minires_json"  # the metadata key that lists the keys whose text is JSON
_VERSION = "minires_version"


def save(
    state: Any,
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write weights to a ``.safetensors`` file, or anything made of tensors to a ``.pth`` file.

    A ``.safetensors`` file is names, shapes and bytes: it holds no code, and others can read it. A
    ``.pth`` file (``.pt``, ``.bin``, ``.ckpt``, ``.pth.tar``) is as ``torch.save`` writes it, and
    PyTorch loads it with ``weights_only=True``. Either is replaced in one step: whatever happens,
    the old or the new one is there, whole.

    Args:
        state: a module, which stands for its ``state_dict()``; for ``.safetensors`` a flat dict of
            names and tensors; for ``.pth`` tensors in dicts, lists and tuples, nested in any way,
            with numbers, text, True, False and None. Arrays will do in place of tensors: NumPy's
            and CuPy's, in ``.safetensors`` those of PyTorch and others too. Tensors that share
            memory share it in a ``.pth`` file; in ``.safetensors`` they are written each.
        path: folders are made if need be.
        metadata: only for ``.safetensors``: what else a reader has to know (the configuration of
            the model, classes, the accuracy), values that JSON can hold. The version of minires is
            added.

    >>> import minires as mr
    >>> net = mr.nn.Linear(4, 2)
    >>> mr.save(net, "linear.safetensors", metadata={"classes": ["cat", "dog"]})
    >>> net.load_state_dict(mr.load("linear.safetensors"))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> mr.load_metadata("linear.safetensors")["classes"]
    ['cat', 'dog']
    >>> mr.save({"epoch": 3, "model": net.state_dict()}, "checkpoint.pth")
    >>> mr.load("checkpoint.pth")["epoch"]
    3

    Raises:
        ArgumentError: another suffix, a value that the format cannot hold, or metadata that JSON
            cannot.
        DTypeError: a tensor of a dtype that the format does not have.
        UninitializedError: a parameter of a lazy layer that has no values yet.
        CheckpointError: the file cannot be written.
    """
    if isinstance(path, Module | Mapping):  # as if it were a method of the path
        got = f"{type(path).__name__} as path"
        raise ArgumentError(message("save", "save(state, path)", got))
    file = as_path("save", path)
    values = state.state_dict() if isinstance(state, Module) else state
    if file.suffix in _PYTORCH:
        if metadata is not None:
            fix = 'Save it in the object: {"model": ..., "classes": ...}.'
            raise ArgumentError(message("save", "metadata only in .safetensors", file, fix=fix))
        write_atomic(file, write_pth(values))
        return
    if file.suffix != ".safetensors":
        near = file if file.name else Path("weights")
        names = [near.with_suffix(suffix).name for suffix in (".safetensors", ".pth")]
        fix = f"Save to {names[0]}, or for PyTorch to {names[1]}"
        expected = "a path that ends in .safetensors, .pth or .pt"
        raise ArgumentError(message("save", expected, file, fix=fix))
    tensors = as_tensors("save", values)
    for name, tensor in tensors.items():
        if name == "__metadata__" or not _is_text(name):
            raise ArgumentError(message("save", "names that are text", ascii(name)))
        if isinstance(values[name], int | float):
            raise ArgumentError(
                message(
                    "save",
                    "tensors",
                    f"the number {values[name]} under {name!r}",
                    fix=f"Pass it as metadata={{{name!r}: ...}}.",
                )
            )
        if tensor.dtype.name not in DTYPES:
            raise DTypeError(
                message("save", "float, integer or bool tensors", f"{tensor.dtype} under {name!r}")
            )
    arrays = {name: move(tensor._array, CPU) for name, tensor in tensors.items()}
    write_safetensors(file, arrays, _as_text({} if metadata is None else metadata))


def load(
    path: str | os.PathLike[str], *, map_location: Any = None, weights_only: bool = True
) -> Any:
    """Read weights: ``.safetensors``, or a PyTorch checkpoint (``.pth``, ``.pt``, ``.bin``, ...).

    PyTorch is not needed, and code in a file is never run: of a checkpoint's pickle, only
    tensors, containers, numbers and text are read, and anything else is refused by its name.

    Args:
        path: of the file.
        map_location: the device that tensors are to be on, the CPU by default.
        weights_only: as PyTorch calls it; never anything else here.

    Returns:
        From ``.safetensors`` a dict of names and tensors, for ``load_state_dict``; from a
        checkpoint of :func:`minires.train.save_checkpoint` the weights of the model. From
        PyTorch's files whatever was saved, as plain dicts, lists, tuples, numbers and text;
        devices and dtypes are text such as ``"torch.float32"``. Tensors are on the CPU and do not
        require grad; those that shared memory still do. float16 and bfloat16 become float32,
        exactly, with a warning.

    Raises:
        ArgumentError: another suffix; ``weights_only=False``.
        CheckpointError: no such file; a truncated or damaged one; another format under that name;
            a pickle with more than data in it.
    """
    file = as_path("load", path)
    if not arguments.flag("load", "weights_only", weights_only):
        raise ArgumentError(
            message(
                "load",
                "weights_only=True",
                weights_only,
                "code in a file is never run",
                "Open the file with PyTorch, and save the state dict alone.",
            )
        )
    device = Device.parse("cpu" if map_location is None else map_location)
    if file.suffix == ".safetensors":
        arrays, metadata, widened = _read(file, "load")
        if "minires_checkpoint" in metadata:
            begin = "model/"
            arrays = {k.removeprefix(begin): v for k, v in arrays.items() if k.startswith(begin)}
        content: Any = {name: from_numpy(array) for name, array in arrays.items()}
    elif file.suffix in _PYTORCH:
        content, widened = _within_memory(file, "load", lambda: read_pth(file, "load"))
    else:
        raise ArgumentError(
            message(
                "load",
                f"a file that ends in .safetensors or {', '.join(_PYTORCH)}",
                file,
                fix="Rename it if it is one of these; else convert it where it was made",
            )
        )
    if widened:
        warnings.warn(
            f"load: {file.name} has tensors of {' and '.join(widened)}, which minires does not "
            "have: they became float32, with the same values.",
            UserWarning,
            stacklevel=2,
        )
    return content if device == CPU else _moved(content, device, {})


def _moved(content: Any, device: Device, done: dict[int, Any]) -> Any:
    """Containers with their tensors on another device; ``done``: by id, what was moved before."""
    if id(content) in done:
        return done[id(content)]
    moved = content
    if isinstance(content, Tensor):
        moved = content.to(device)
    elif isinstance(content, dict):
        moved = {name: _moved(value, device, done) for name, value in content.items()}
    elif isinstance(content, list | tuple):
        moved = type(content)(_moved(value, device, done) for value in content)
    done[id(content)] = moved
    return moved


def _within_memory(file: Path, op: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives, or an error of ours where the system has no memory for it."""
    with contextlib.suppress(MemoryError):
        return read()
    # Only here is everything free again that was read so far, so that there is room for a text.
    raise CheckpointError(
        message(
            op,
            f"memory for the {file.stat().st_size:,} bytes of {file}",
            "too little",
            fix="Close other programs, or raise the limit of this one (ulimit -v)",
        )
    )


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`save` was given as ``metadata``, and ``minires_version``.

    Of another program's file, its metadata as it is: text by name, often nothing.

    Raises:
        ArgumentError: not a ``.safetensors`` file; PyTorch's have no metadata.
        CheckpointError: it is missing, truncated or damaged.
    """
    file = as_path("load_metadata", path)
    if file.suffix != ".safetensors":
        raise ArgumentError(message("load_metadata", "a file that ends in .safetensors", file))
    metadata: dict[str, Any] = dict(_read(file, "load_metadata")[1])
    try:
        for key in json.loads(metadata.pop(_JSON, "[]")):
            metadata[key] = json.loads(metadata[key])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            message("load_metadata", f"metadata that minires wrote in {file}", repr(error))
        ) from error
    return metadata


def _read(file: Path, op: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Arrays, metadata and widened dtypes; of a file from here, only with the right checksum."""
    read = _within_memory(file, op, lambda: read_safetensors(file, op))
    arrays, metadata, widened, verified = read
    if _VERSION in metadata and not verified:
        raise damaged(file, op)
    return arrays, metadata, widened


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as the format has it: text stays as it is, other values become JSON."""
    if not isinstance(metadata, Mapping):
        raise ArgumentError(message("save", "metadata as a dict", type(metadata).__name__))
    text = {}
    for key, value in metadata.items():
        if not isinstance(key, str) or key.startswith("minires_"):
            raise ArgumentError(
                message("save", 'metadata keys that are text without "minires_"', repr(key))
            )
        try:
            text[key] = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                message("save", f"metadata[{key!r}] that JSON can hold", error)
            ) from error
    encoded = [key for key, value in metadata.items() if not isinstance(value, str)]
    return {**text, _JSON: json.dumps(encoded), _VERSION: __version__}


def strip_prefix(state: Mapping[str, Any], prefix: str = "module.") -> dict[str, Any]:
    """The same state dict without a prefix that all its names have.

    ``nn.DataParallel`` and its kin put "module." there, ``torch.compile`` "_orig_mod.".

    >>> strip_prefix({"module.fc.weight": 1, "module.fc.bias": 2})
    {'fc.weight': 1, 'fc.bias': 2}

    Raises:
        ArgumentError: a name does not start with ``prefix``.
    """
    if not isinstance(prefix, str):
        raise ArgumentError(message("strip_prefix", "prefix as text", quoted(prefix)))
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ArgumentError(
            message("strip_prefix", "a state dict, its names text", type(state).__name__)
        )
    without = [name for name in state if not name.startswith(prefix)]
    if without:
        raise ArgumentError(
            message(
                "strip_prefix",
                f"names that start with {quoted(prefix)}",
                f"{len(without)} of {len(state)} that do not: {', '.join(without[:5])}",
                fix="Select them first: {k: v for k, v in state.items() if k.startswith(prefix)}",
            )
        )
    return {name.removeprefix(prefix): value for name, value in state.items()}

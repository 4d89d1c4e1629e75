"""Devices: where an array lives, which array module serves it, and which kernels run on it.

There are two kinds of array, NumPy's on ``cpu`` and CuPy's on ``cuda:<index>``. An operation asks
:func:`kernels` for the module that implements it for the array in hand. A kernel that does not
exist is an error; nothing ever falls back to another device or backend.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .arguments import as_integer, choice
from .errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    KernelMissing,
    message,
    quoted,
    unknown,
)
from .find_cupy import import_cupy
from .mode import Mode, setting

# What checks its arguments; the other functions here trust the engine, which calls them.
__all__ = [
    "CPU",
    "Device",
    "array_module",
    "as_array",
    "available",
    "backend",
    "backend_name",
    "backend_of",
    "cupy",
    "device_of",
    "is_array",
    "kernels",
    "memory",
    "move",
    "peak_memory",
    "synchronize",
]

OWN_MEMORY = "Give it memory of its own: p.data = p.data.copy()."  # the way out of a parameter
OLDEST_GPU = 80  # sm_80, the first with asynchronous copies into shared memory and tf32
_BACKENDS = ("auto", "numpy")
_backend = setting("backend", "auto")
current_gpu = setting("current_gpu", 0)  # which one "cuda" is without a number


@dataclass(frozen=True)
class Device:
    """``cpu``, or ``cuda`` with an index: ``Device("cuda", 1)``, ``Device("cuda:1")``. Without an
    index it is the current GPU, the first one unless :mod:`minires.cuda` was told otherwise.

    ``minires.device`` is this class, as ``torch.device`` is PyTorch's.

    Raises:
        ArgumentError: a device of another name.
    """

    type: str
    index: int = None  # type: ignore[assignment]  # a number once it is made

    def __post_init__(self) -> None:
        kind = self.type if isinstance(self.type, str) else ""
        match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,9}))?", kind, re.ASCII)
        number = 0 if self.index is None else as_integer(self.index)
        if match is None or number is None or number < 0 or (match.group(2) and number):
            known = isinstance(self.index, int | float)
            name = f"{kind}:{self.index}" if known else self.index
            name = self.type if number == 0 else name
            raise unknown("device", name, ["cpu", "cuda", "cuda:0"])
        index = int(match.group(2) or number)
        if self.index is None and self.type == "cuda":
            index = current_gpu.get().value
        if match.group(1) == "cpu" and index:
            raise ArgumentError(f"device: there is one cpu, got 'cpu:{index}'. Use 'cpu'.")
        object.__setattr__(self, "type", match.group(1))
        object.__setattr__(self, "index", index)

    def __str__(self) -> str:
        return self.type if self.type == "cpu" else f"{self.type}:{self.index}"

    @staticmethod
    def parse(name: str | Device) -> Device:
        """``"cpu"``, ``"cuda"``, ``"cuda:1"`` or a Device; anything else is an ArgumentError."""
        return name if isinstance(name, Device) else Device(name)

    @staticmethod
    def gpu(number: str | int | Device) -> Device:
        """A GPU by its number; or what :meth:`parse` takes."""
        whole = as_integer(number)
        return Device("cuda", whole) if whole is not None else Device.parse(number)  # type: ignore[arg-type]


CPU = Device("cpu")


class Gpus:
    """What is known of the GPUs of this machine.

    Attributes:
        several: whether CuPy was loaded and found more than one. Only then an operation has to
            make the GPU of its arrays CuPy's current one.
    """

    several = False


@functools.cache
def cupy() -> ModuleType:
    """CuPy, imported on first use.

    Raises:
        DeviceError: CuPy is not installed, or finds no driver, no GPU or no CUDA library
            (:mod:`minires.find_cupy`); says which, and what to do.
    """
    module = import_cupy()
    Gpus.several = module.cuda.runtime.getDeviceCount() > 1
    return module


def on(device: Device) -> Any:
    """A context in which a GPU is CuPy's current one: the one on which CuPy makes arrays and
    launches kernels.

    Raises:
        DeviceError: there is no such GPU, or one that is too old.
    """
    module = cupy()
    _check_gpu(module, device.index)
    return module.cuda.Device(device.index)


def existing(name: str | Device) -> Device:
    """The device of this name, if it can be used here.

    Raises:
        ArgumentError: no name of a device.
        DeviceError: it is not there; says what to do.
    """
    device = Device.parse(name)
    if device.type == "cuda":
        on(device)
    return device


@functools.cache
def _check_gpu(module: ModuleType, index: int) -> None:
    count = module.cuda.runtime.getDeviceCount()
    if index >= count:
        last = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        fix = 'minires.cuda.device_count() says how many there are, "cuda" is the first.'
        got, known = f"cuda:{index}", f"{count} GPU{'s' if count > 1 else ''}"
        raise DeviceError(message("device", f"a GPU from {last}", got, known, fix))
    capability = str(module.cuda.Device(index).compute_capability)  # "90" for 9.0
    if int(capability) < OLDEST_GPU:
        expected = "a GPU of compute capability 8.0 (Ampere, 2020) or newer"
        got, fix = f"{capability[:-1]}.{capability[-1]}", "Stay on 'cpu', or choose another GPU."
        raise DeviceError(message("device", expected, got, f"cuda:{index}", fix))


_nowhere = contextlib.nullcontext()


def beside(values: Iterable[Any]) -> Any:
    """A context in which CuPy's current GPU is that of the first of these that is on one: of
    arrays, tensors, or devices; the current one where none is."""
    if Gpus.several:
        for value in values:
            place: Any = value if isinstance(value, Device) else getattr(value, "device", None)
            if isinstance(place, Device):
                if place.type == "cuda":
                    return on(place)
            elif hasattr(place, "id"):  # CuPy's own word for it
                return cupy().cuda.Device(place.id)
            elif type(value) is tuple or type(value) is list:
                inner = beside(value)
                if inner is not _nowhere:
                    return inner
    return _nowhere


def memory(array: Any) -> Any:
    """The array that owns the memory of this one; an object that is no array owns itself."""
    while True:
        base = getattr(array, "base", None)
        if base is None or not hasattr(base, "dtype"):
            return array
        array = base


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy or CuPy."""
    return isinstance(value, np.ndarray) or hasattr(type(value), "__cuda_array_interface__")


def as_array(value: Any) -> Any:
    """NumPy's reductions return numbers: these as arrays. An array as it is."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def writeable(array: Any) -> bool:
    """Whether an array may be written to: on a GPU every one may."""
    return getattr(array.flags, "writeable", True)


def check_writeable(op: str, name: str, array: Any, fix: str) -> None:
    """Refuse an array that is to be written and may not be. Kernels see addresses alone: they would
    change what nobody may change, or end the process where the system forbids it.

    Raises:
        ArgumentError: the array, which messages call ``name``, is read-only.
    """
    if not writeable(array):
        raise ArgumentError(
            f"{op}: {name} of shape {array.shape} looks at read-only memory (an expanded tensor, "
            f"or a NumPy array marked so). {fix}"
        )


def zeros_on(device: Device, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros on a device."""
    if device.type == "cpu":
        return np.zeros(shape, dtype)
    with on(device):
        return cupy().zeros(shape, dtype)


def device_of(array: Any) -> Device:
    """The device an array lives on.

    Raises:
        DTypeError: no array.
    """
    if isinstance(array, np.ndarray | np.generic):
        return CPU
    return Device("cuda", _on_gpu("device_of", array).device.id)


def array_module(array: Any) -> ModuleType:
    """``numpy`` or ``cupy``: the module whose functions take this array.

    Raises:
        DTypeError: no array.
    """
    if isinstance(array, np.ndarray | np.generic):
        return np
    _on_gpu("array_module", array)
    return cupy()


def _on_gpu(op: str, array: Any) -> Any:
    """``array``, which is not NumPy's, if it is CuPy's."""
    if not hasattr(type(array), "__cuda_array_interface__"):
        raise DTypeError(message(op, "an array of NumPy or CuPy", type(array).__name__))
    return array


def move(array: Any, device: Device) -> Any:
    """The same values on ``device`` (the same array if it is there already).

    Raises:
        DTypeError: no array.
        ArgumentError: no device.
    """
    device = Device.parse(device)
    if device_of(array) == device:
        return array
    if device.type == "cpu":
        return cupy().asnumpy(array)
    with on(device):
        return cupy().asarray(array)


def fetched(*values: Any) -> list[Any]:
    """The numbers in arrays of one entry each, as Python's; whatever is no array as it is.

    The host waits once for a GPU, after everything that was launched before, however many arrays
    it has: a look at one after the other would wait for each. They come as float64, in which the
    float32 are the same, and so are whole numbers up to 2^53.
    """
    on_gpu = [v for v in values if is_array(v) and not isinstance(v, np.ndarray)]
    if on_gpu:
        with beside(on_gpu):
            doubles = [v.reshape(()).astype(np.float64) for v in on_gpu]
            numbers = iter(cupy().stack(doubles).get().tolist())
    found = []
    for v in values:
        if isinstance(v, np.ndarray | np.generic):
            found.append(v.item())
        else:
            found.append(next(numbers) if is_array(v) else v)
    return found


def assign(array: Any, values: Any) -> None:
    """Write the values of another array, which may be on any device, into an array."""
    with beside((array,)):
        array[...] = move(values, device_of(array))


def backend(name: str) -> Mode:
    """Run with other kernels: ``"numpy"`` for the plain references, ``"auto"`` for the fast ones.
    A context manager and a decorator, as all modes are.

    >>> import minires as mr
    >>> with mr.backend("numpy"):
    ...     y = mr.ops.relu(mr.ones(2))
    """
    return Mode("backend", _backend, choice("backend", name, _BACKENDS))


def backend_name(place: Any) -> str:
    """Which kernels serve an array, or the arrays of a :class:`Device`: "numpy", "numba" or "cuda".

    Raises:
        DTypeError: no array.
        DeviceError: an array on a GPU under ``backend("numpy")``.
    """
    on_references = _backend.get().value == "numpy"
    if place is CPU or isinstance(place, np.ndarray | np.generic):
        return "numpy" if on_references else "numba"
    if not isinstance(place, Device):
        _on_gpu("backend_name", place)
    elif place == CPU:
        return "numpy" if on_references else "numba"
    if on_references:
        fix = 'Move the tensors with .to("cpu").'
        raise DeviceError(message('backend("numpy")', "tensors on cpu", "one on a GPU", fix=fix))
    return "cuda"


def backend_of(place: Any) -> ModuleType:
    """The backend of an array, or of a :class:`Device`: :mod:`minires.kernels.numba`, whose
    docstring lists what every backend offers, or a sibling.

    Raises:
        KernelMissing, DTypeError, DeviceError: there is none.
    """
    return backend_module(backend_name(place))


@functools.cache
def backend_module(name: str) -> ModuleType:
    """``minires.kernels.<name>``.

    Raises:
        KernelMissing: there is none.
    """
    path = f"minires.kernels.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # it lacks something else
            raise
        fix = 'Move the tensors with .to("cpu").'
        text = message("device", f"kernels for {name!r}", "none", f"{path} does not exist", fix)
        raise KernelMissing(text) from None


def kernels(op: str, array: Any) -> ModuleType:
    """The kernel module that serves this array: of ``minires.ops.<op>``, or of a package of your
    own if ``op`` is its dotted name.

    Raises:
        KernelMissing: the op has no kernel on the array's device.
        ArgumentError: ``op`` is no name.
        DTypeError: no array.
    """
    if not isinstance(op, str) or not _is_dotted_name(op):
        raise ArgumentError(message("kernels", "op the name of an operation", quoted(op)))
    return _kernel_module(op, backend_name(array))


@functools.cache
def _is_dotted_name(op: str) -> bool:
    return all(part.isidentifier() for part in op.split("."))


@functools.cache
def _kernel_module(op: str, name: str) -> ModuleType:
    package = op if "." in op else f"minires.ops.{op}"
    path = f"{package}.kernel_{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # a kernel that lacks something else
        context, fix = f"{path} does not exist", 'Move the tensors with .to("cpu").'
        text = message(quoted(op).strip("'"), f"a kernel for {name!r}", "none", context, fix)
        raise KernelMissing(text) from None


def synchronize(device: str | Device = CPU) -> None:
    """Wait until the device has done all it was given; CPU kernels return when they are done.

    Raises:
        DeviceError: there is no such device; or one of its kernels failed.
    """
    device = Device.parse(device)
    if device.type == "cuda":
        with on(device):
            try:
                cupy().cuda.Device(device.index).synchronize()  # all its streams
            except cupy().cuda.runtime.CUDARuntimeError as error:
                context = "a kernel that was launched before failed"
                fix = "Run with CUDA_LAUNCH_BLOCKING=1 to see which, in a new process."
                expected = f"all work on {device} to be done"
                text = message("synchronize", expected, str(error), context, fix)
                raise DeviceError(text) from error


def available() -> list[Device]:
    """Every device that can be used here, the CPU first."""
    devices = [CPU]
    with contextlib.suppress(DeviceError):  # no CuPy or no GPU: the CPU is the whole list
        count = cupy().cuda.runtime.getDeviceCount()
        devices += [Device("cuda", index) for index in range(count)]
    return devices


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB

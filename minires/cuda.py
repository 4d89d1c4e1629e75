"""GPUs, under the names of ``torch.cuda``. Nothing here imports CuPy before it is asked for.

Where a function takes a device, it takes ``"cuda:1"``, ``1`` or a :class:`~minires.device.Device`.
``"cuda"`` without a number, here and everywhere, and no device at all are the current GPU: the
first one, unless :func:`set_device` or :func:`device` chose another. Operations run on the GPU of
their tensors, whichever is the current one.

Functions that need a GPU raise a DeviceError where there is none, which says what is missing and
what to install.
"""

from __future__ import annotations

from typing import Any

from . import random
from .arguments import flag
from .device import Device, available, cupy, current_gpu, on
from .device import synchronize as _synchronize
from .errors import ArgumentError, message
from .mode import Mode, state

Place = str | int | Device | None


def is_available() -> bool:
    """Whether there is a GPU that CuPy can use; False, too, where CuPy is not installed."""
    return device_count() > 0


def device_count() -> int:
    """How many GPUs CuPy can use."""
    return len(available()) - 1


def current_device() -> int:
    """The number of the GPU that ``"cuda"`` means here and now."""
    return int(current_gpu.get().value)


def set_device(device: str | int | Device) -> None:
    """Choose the GPU that ``"cuda"`` means in this thread from now on.

    Raises:
        DeviceError: there is no such GPU.
    """
    state(current_gpu, _existing("set_device", device))


def device(device: str | int | Device) -> Mode:
    """Choose the GPU that ``"cuda"`` means inside ``with``; a decorator too, as all modes are::

        with minires.cuda.device(1):
            x = minires.ones(3, device="cuda")  # on cuda:1

    Raises:
        DeviceError: there is no such GPU.
    """
    return Mode("cuda.device", current_gpu, _existing("device", device))


def _existing(op: str, device: str | int | Device) -> int:
    gpu = _gpu(op, device)
    on(gpu)
    return gpu.index


def get_device_name(device: Place = None) -> str:
    """What the maker calls a GPU.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    return str(_properties("get_device_name", device)["name"].decode())


def get_device_capability(device: Place = None) -> tuple[int, int]:
    """The generation of a GPU, as (9, 0) for Hopper.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    found = _properties("get_device_capability", device)
    return int(found["major"]), int(found["minor"])


def synchronize(device: Place = None) -> None:
    """Wait until a GPU has done all it was given.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    _synchronize(_gpu("synchronize", device))


def manual_seed(seed: int) -> None:
    """:func:`minires.manual_seed`: one generator serves every device."""
    random.manual_seed(seed)


manual_seed_all = manual_seed


# **** memory ****


def memory_allocated(device: Place = None) -> int:
    """How many bytes of a GPU arrays occupy.

    There is no ``max_memory_allocated``: CuPy's pool does not keep the largest value, and a hook
    that did would run Python at every allocation. :func:`memory_reserved` is at least as large as
    what arrays have occupied at any time since :func:`empty_cache`, unless memory ran out.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    with on(_gpu("memory_allocated", device)):
        return int(cupy().get_default_memory_pool().used_bytes())


def memory_reserved(device: Place = None) -> int:
    """How many bytes of a GPU this process holds: those of arrays, and those that are kept for
    later arrays (:func:`empty_cache` gives them back). Graphs of :func:`minires.capture` hold
    memory of their own besides.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    with on(_gpu("memory_reserved", device)):
        return int(cupy().get_default_memory_pool().total_bytes())


def mem_get_info(device: Place = None) -> tuple[int, int]:
    """The bytes of a GPU that nobody holds, and all that it has.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    with on(_gpu("mem_get_info", device)):
        free, total = cupy().cuda.runtime.memGetInfo()
        return int(free), int(total)


def memory_summary(device: Place = None, abbreviated: bool = False) -> str:
    """Who holds the memory of a GPU, as a table to print.

    Memory that an array gives back stays reserved for the next one: "out of memory" in another
    program, or nvidia-smi showing more than the arrays have, is mended by :func:`empty_cache`.

    Args:
        device: which GPU.
        abbreviated: leave out what lines mean.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    gpu = _gpu("memory_summary", device)
    brief = flag("memory_summary", "abbreviated", abbreviated)
    used, held = memory_allocated(gpu), memory_reserved(gpu)
    free, total = mem_get_info(gpu)
    lines = [
        ("arrays", used, "of tensors and of kernels at work"),
        ("reserved", held - used, "kept for later arrays; empty_cache() gives it back"),
        ("others", total - free - held, "captured graphs, CUDA itself, and other programs"),
        ("free", free, ""),
        ("in all", total, ""),
    ]
    rows = [
        f"{name:<10}{count / 2**20:>12,.1f} MiB" + ("" if brief or not what else f"   {what}")
        for name, count, what in lines
    ]
    return "\n".join([f"memory of {gpu} ({get_device_name(gpu)})", *rows])


def empty_cache() -> None:
    """Give memory of all GPUs that is reserved for later arrays back; nothing without a GPU."""
    for gpu in available()[1:]:
        with on(gpu):
            cupy().get_default_memory_pool().free_all_blocks()


def _properties(op: str, device: Place) -> Any:
    gpu = _gpu(op, device)
    with on(gpu):
        return cupy().cuda.runtime.getDeviceProperties(gpu.index)


def _gpu(op: str, device: Place) -> Device:
    """The GPU that is meant; the current one by None."""
    found = Device("cuda") if device is None else Device.gpu(device)
    if found.type != "cuda":
        raise ArgumentError(message(f"cuda.{op}", "a GPU", str(found), fix="As in 'cuda:0' or 0."))
    return found

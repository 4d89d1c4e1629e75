"""The GPU, under the names of ``torch.cuda``. Nothing here imports CuPy before it is asked for."""

from __future__ import annotations

from . import random
from .device import Device, available, cupy
from .device import synchronize as _synchronize


def is_available() -> bool:
    """Whether there is a GPU that CuPy can use; False, too, where CuPy is not installed."""
    return device_count() > 0


def device_count() -> int:
    """How many GPUs CuPy can use."""
    return len(available()) - 1


def get_device_name(device: str | int | Device = "cuda") -> str:
    """What the maker calls a GPU.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    properties = cupy().cuda.runtime.getDeviceProperties(Device.gpu(device).index)
    return str(properties["name"].decode())


def synchronize(device: str | int | Device = "cuda") -> None:
    """Wait until a GPU has done all it was given.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    _synchronize(Device.gpu(device))


def empty_cache() -> None:
    """Give memory that is held for later allocations back to the GPU; nothing without one."""
    if is_available():
        cupy().get_default_memory_pool().free_all_blocks()


def manual_seed(seed: int) -> None:
    """:func:`minires.manual_seed`: one generator serves every device."""
    random.manual_seed(seed)


manual_seed_all = manual_seed

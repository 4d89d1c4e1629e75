"""What a GPU can do: its limits for a launch, and errors that name the launch they come from.

CUDA reports what goes wrong by a number, and what goes wrong while a kernel runs with a later call,
whichever that is. So a launch that cannot work is refused before CUDA sees it; and where CUDA
refuses one, or reports a kernel that failed, the error names the launch at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...device import cupy, is_array
from ...errors import DeviceError, message

LATE = (
    "CUDA may report here what an earlier kernel did: run with CUDA_LAUNCH_BLOCKING=1 to see "
    "which. If whatever comes next fails, too, the process has lost the GPU and must be started "
    "anew."
)


class Limits(NamedTuple):
    """What one launch may ask of a GPU.

    Attributes:
        threads: of a block.
        shared: bytes of shared memory of a block.
        grid: blocks along each axis.
    """

    threads: int
    shared: int
    grid: tuple[int, int, int]


@functools.cache
def limits(device: int) -> Limits:
    """The limits of a GPU, by its number."""
    of = cupy().cuda.Device(device).attributes
    grid = of["MaxGridDimX"], of["MaxGridDimY"], of["MaxGridDimZ"]
    return Limits(of["MaxThreadsPerBlock"], of["MaxSharedMemoryPerBlockOptin"], grid)


def check_launch(name: str, device: int, grid: Sequence[int], block: int, shared: int) -> None:
    """Refuse a launch that the GPU cannot do.

    Raises:
        DeviceError: more threads, shared memory or blocks than it has.
    """
    most = limits(device)
    facts = (
        ("threads in a block", most.threads, block),
        ("bytes of shared memory in a block", most.shared, shared),
        *((f"blocks along {axis}", m, n) for axis, m, n in zip("xyz", most.grid, grid)),
    )
    for what, allowed, asked in facts:
        if asked > allowed:
            where = f"cuda:{device}, {_launch(grid, block, shared)}"
            fix = "Use smaller tensors, or split them along the batch."
            raise DeviceError(
                message(name, f"at most {allowed:,} {what}", f"{asked:,}", where, fix)
            )


def failed(
    name: str,
    error: Exception,
    grid: Sequence[int],
    block: int,
    shared: int,
    arguments: Sequence[Any],
) -> DeviceError:
    """The error for a launch that CUDA refused, or during which it reported an earlier one."""
    launch = f"{_launch(grid, block, shared)}; {', '.join(map(_argument, arguments))}"
    return DeviceError(f"{name}: expected a launch that CUDA takes, got {error} ({launch}). {LATE}")


def graph_failed(error: Exception, names: Sequence[str]) -> DeviceError:
    """The error for a CUDA graph that was not made or not launched, by the names of its parts."""
    known = [*dict.fromkeys(names)]
    listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return DeviceError(
        f"capture: expected a CUDA graph that can be launched, got {error} (of {listed}). "
        f"Inside of minires.profile() its kernels are launched one by one. {LATE}"
    )


def _launch(grid: Sequence[int], block: int, shared: int) -> str:
    return f"grid {'x'.join(map(str, grid))}, block {block}, shared {shared}"


def _argument(value: Any) -> str:
    """An argument of a launch, as a message shows it."""
    if value is None:
        return "none"
    if is_array(value):
        return f"{value.dtype if value.dtype.kind != 'V' else 'struct'}{[*value.shape]}"
    return f"{value}"

"""The accelerator of this machine, under the names of ``torch.accelerator``: a GPU, or none."""

from __future__ import annotations

from . import cuda
from .device import Device


def is_available() -> bool:
    """Whether there is a GPU that can be used."""
    return cuda.is_available()


def device_count() -> int:
    """How many GPUs can be used."""
    return cuda.device_count()


def current_accelerator() -> Device | None:
    """The current GPU; None where there is none.

    >>> import minires as mr
    >>> place = mr.accelerator.current_accelerator()
    >>> device = place.type if mr.accelerator.is_available() else "cpu"
    """
    return Device("cuda", cuda.current_device()) if is_available() else None

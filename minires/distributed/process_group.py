"""Which rank this process is, and PyTorch's functions that begin and end a group.

The group begins by itself when somebody first asks for it, so none of them has to be called.
"""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from typing import Any

from minires import arguments
from minires.distributed.collectives import check_group
from minires.distributed.group import begun, current_group
from minires.errors import ArgumentError, DistributedError, message, quoted, unknown

BACKENDS = ("gloo", "mpi", "nccl")  # of PyTorch; here it is MPI on CPUs, and NCCL on GPUs
TORCHRUN = "TORCHELASTIC_RUN_ID"  # what torchrun sets

_destroyed = False
_backend = "mpi"  # what init_process_group was given


def get_backend(group: None = None) -> str:
    """The backend that :func:`init_process_group` was given, "mpi" if none was. Programs ask it
    whether tensors have to be on a GPU: here they may be anywhere."""
    check_group("get_backend", group)
    return _backend


def get_rank(group: None = None) -> int:
    """Which process this is, from 0; 0 without a launcher.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    check_group("get_rank", group)
    return current_group().rank


def get_world_size(group: None = None) -> int:
    """How many processes were started together; 1 without a launcher.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    check_group("get_world_size", group)
    return current_group().size


def get_local_rank() -> int:
    """Which process this is of those on the same machine, from 0.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    return current_group().local_rank


def is_available() -> bool:
    """Whether mpi4py is installed, without which there are groups of one alone."""
    return importlib.util.find_spec("mpi4py") is not None


def is_initialized() -> bool:
    """Whether the group has begun: by :func:`init_process_group`, or by whoever first asked for
    something of it."""
    return begun() and not _destroyed


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
) -> None:
    """Begin the group now, so that MPI starts here; what a program for PyTorch passes is taken.

    Args:
        backend: None, or a name of PyTorch's: "gloo", "mpi" or "nccl". Whatever it is, arrays in
            the memory of CPUs are sent by MPI, those of GPUs by NCCL.
        init_method: None or "env://": the launcher brings the processes together.
        timeout: is not needed. Ranks wait for one another as long as all of them live.
        world_size: how many processes there are, if it is to be checked.
        rank: which one this is, if it is to be checked.

    Raises:
        ArgumentError: a backend that is not known, another way to meet.
        DistributedError: another number of processes, another rank; processes of ``torchrun``; or
            MPI cannot be started.
    """
    global _destroyed, _backend
    name = "init_process_group"
    _check_backend(name, backend)
    if not (init_method is None or (isinstance(init_method, str) and init_method == "env://")):
        fix = "mpiexec or srun brings the processes together."
        raise ArgumentError(message(name, 'init_method "env://"', quoted(init_method), fix=fix))
    if timeout is not None and not isinstance(timeout, timedelta):
        raise ArgumentError(message(name, "timeout a timedelta or None", quoted(timeout)))
    world_size = arguments.integer(name, "world_size", world_size, -1)
    rank = arguments.integer(name, "rank", rank, -1)
    group = current_group()
    if group.size == 1 and TORCHRUN in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        fix = "Start them by mpiexec -n 4 python ..."
        raise DistributedError(message(name, "processes that MPI knows", "torchrun's", fix=fix))
    if world_size not in (-1, group.size):
        fix = f"Start them by mpiexec -n {max(world_size, 1)} python ..."
        raise DistributedError(message(name, f"{world_size} processes", group.size, fix=fix))
    if rank not in (-1, group.rank):
        fix = "The launcher gives ranks: leave it out."
        raise DistributedError(message(name, f"this to be rank {rank}", group.rank, fix=fix))
    _destroyed, _backend = False, (backend or "mpi").lower()


def _check_backend(name: str, backend: Any) -> None:
    """Refuse what is no backend of PyTorch's: "gloo", "cpu:gloo,cuda:nccl"."""
    if backend is None:
        return
    if not isinstance(backend, str):
        raise ArgumentError(message(name, "backend a name or None", quoted(backend)))
    for part in backend.lower().split(","):
        if part.rpartition(":")[2] not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)


def destroy_process_group(group: None = None) -> None:
    """Note that the group is not needed any more; :func:`is_initialized` is False then. MPI itself
    ends with the process."""
    global _destroyed
    check_group("destroy_process_group", group)
    _destroyed = True

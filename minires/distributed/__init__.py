"""Several processes that train together, on one machine or many: MPI, and NCCL on GPUs.

They are started by a launcher, ``mpiexec -n 4 python program.py``, and are numbered: each has a
*rank*. Without a launcher a process is a group of one, in which each function here has its result
at once, so that programs need no ``if``; and MPI is not started. The names are PyTorch's.

>>> from minires import distributed as dist
>>> dist.get_rank(), dist.get_world_size()
(0, 1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minires.distributed import exits, launch
from minires.distributed.collectives import (
    ReduceOp,
    all_gather,
    all_gather_into_tensor,
    all_gather_object,
    all_reduce,
    barrier,
    broadcast,
    broadcast_object_list,
)
from minires.distributed.group import Group, alone, current_group
from minires.distributed.process_group import (
    destroy_process_group,
    get_backend,
    get_local_rank,
    get_rank,
    get_world_size,
    init_process_group,
    is_available,
    is_initialized,
)

__all__ = [
    "DistributedDataParallel",
    "DistributedSampler",
    "Group",
    "ReduceOp",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "alone",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "current_group",
    "destroy_process_group",
    "get_backend",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "is_available",
    "is_initialized",
]

if TYPE_CHECKING:
    DistributedDataParallel: Any
    DistributedSampler: Any

if launch.told().size != 1:  # others may start MPI, and wait for a rank that failed before
    exits.install()

# What stands above this package, and is looked for here, too: imported when it is first named.
_ABOVE = {
    "DistributedDataParallel": "minires.nn.parallel",
    "DistributedSampler": "minires.data.distributed",
}


def __getattr__(name: str) -> Any:
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ABOVE[name]), name)

"""Several processes that train together, on one machine or many: MPI, and NCCL on GPUs."""

from minires.distributed.group import Group, alone, current_group

__all__ = ["Group", "alone", "current_group"]

"""PyTorch's path to its sampler for several processes, which lives in :mod:`minires.data`."""

from minires.data import DistributedSampler

__all__ = ["DistributedSampler"]

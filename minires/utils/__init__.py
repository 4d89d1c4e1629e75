"""PyTorch's path to data sets and loaders, ``utils.data``; what is there lives in
:mod:`minires.data`."""

from minires.utils import data

__all__ = ["data"]

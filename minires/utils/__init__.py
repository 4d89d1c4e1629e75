"""PyTorch's paths: to data sets and loaders, ``utils.data``, which live in :mod:`minires.data`; and
to TensorBoard, ``utils.tensorboard``."""

from minires.utils import data, tensorboard

__all__ = ["data", "tensorboard"]

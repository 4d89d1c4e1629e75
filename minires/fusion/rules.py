"""The rules of fusion: functions that the engine calls in place of ``forward`` and ``backward``.

A rule gets the arguments of the function, with tensors in place of arrays, and may decline by
returning None. A function without a rule runs as it is written in :mod:`minires.ops`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..autograd import Eager, Variable, is_grad_enabled
from ..autograd.engine import Rule, use
from ..ops.batch_norm.op import BatchNorm, BatchNormStatistics
from ..ops.batch_norm.sync import SyncBatchNorm
from ..ops.conv2d.op import Conv2d
from ..ops.elementwise import Add
from ..ops.max_pool2d.op import MaxPool2d
from ..ops.relu.op import ReLU
from . import backward, forward

FORWARD: Mapping[Any, Rule] = {
    Conv2d: forward.conv2d,
    BatchNormStatistics: forward.batch_norm_statistics,
    BatchNorm: forward.batch_norm,
    SyncBatchNorm: forward.sync_batch_norm,
    ReLU: forward.relu,
    Add: forward.add,
    MaxPool2d: forward.max_pool2d,
}
BACKWARD: Mapping[Any, Rule] = {
    Conv2d: backward.conv2d,
    BatchNorm: backward.batch_norm,
    SyncBatchNorm: backward.sync_batch_norm,
    ReLU: backward.relu,
}


class Fusing(Eager):
    """An engine that defers operations which can share their passes over memory."""

    rules: ClassVar[Mapping[Any, Rule]] = FORWARD
    backward_rules: ClassVar[Mapping[Any, Rule]] = BACKWARD

    def add_gradients(self, a: Any, b: Any) -> Any:
        if is_grad_enabled() or a._version.escaped or b._version.escaped:
            return a + b
        return Variable._defer(backward.LazySum(a, b))


FUSING = Fusing()
use(FUSING)

"""Batch normalisation over the batches of several processes, each of which has a part of the whole.

Of the M values of a channel rank r has m[r], with their own mean and variance. Those of all are put
together from the ranks' (Chan, Golub and LeVeque, 1983, doi:10.1080/00031305.1983.10483115)::

    mean = sum(m[r] * mean[r]) / M        var = sum(m[r] * (var[r] + (mean[r] - mean)²)) / M

Backward sums gy and gy * x_hat over all ranks too, for the gradient of x alone::

    gx = w * inv_std * (gy - all_gb / M - x_hat * all_gw / M)

On every rank gy has to be the derivative of the loss of the whole batch, so a rank's own loss, a
mean, is scaled by its share of the samples. gw and gb stay the rank's own sums: like the gradients
of all parameters they are added up over the ranks when the backward pass is over.

All else is as in :mod:`.op`. Each direction costs one collective operation, of two vectors and a
number or two.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import Context, Function, current, is_grad_enabled
from ...device import array_module, beside, kernels
from ...errors import CaptureError, DistributedError, GraphError, ShapeError, message
from ...kernels.operand import SHARE, SLOPE
from ...memory import allocate
from ...tensor import Tensor
from .op import (
    BatchNorm,
    BatchNormStatistics,
    _affine,
    _check,
    _check_count,
    _laid_out,
    _parameters,
    _rows,
    _to_write,
    _unrows,
)

if TYPE_CHECKING:  # what `import minires` need not import
    from ...distributed.group import Group

NAME = "SyncBatchNorm"  # in messages: what users call
_numbers = itertools.count(1)


class Meeting:
    """Where the ranks meet that normalise one layer together.

    Ranks that are in different layers at one time would mix up their statistics, without a word
    where the layers have as many channels. So a layer gets a number when it is used for the first
    time, which is the same on all ranks, and each exchange compares it.
    """

    def __init__(self) -> None:
        self.number = 0  # not used yet

    def __reduce__(self) -> Any:
        return Meeting, ()  # a copy of a layer is another layer


class Whole:
    """The batch of all ranks, as seen from one layer of one rank.

    Args:
        group: the ranks.
        meeting: of the layer.

    Attributes:
        m: the values of a channel on all ranks together.
    """

    def __init__(self, group: Group, meeting: Meeting) -> None:
        self.group, self.meeting, self.m = group, meeting, 0

    def moments(self, m: int, mean: Any, var: Any) -> tuple[Any, Any]:
        """The mean and the biased variance of each channel over all ranks, from this rank's, which
        are of ``m`` values.

        Raises:
            ShapeError: a rank without values.
            DistributedError: ranks in different layers.
        """
        numbers, moments = self._gathered(np.array([self.meeting.number, m], float), mean, var)
        if (numbers[:, 0] != numbers[0, 0]).any():
            raise self._apart()
        if not numbers[:, 1].all():
            got = f"none on rank {int(numbers[:, 1].argmin())}"
            fix = "Use a larger batch, or drop_last=True in the loader."
            raise ShapeError(message(NAME, "one sample or more on each rank", got, fix=fix))
        self.meeting.number = self.meeting.number or next(_numbers)
        self.m = int(numbers[:, 1].sum())
        weights = array_module(mean).asarray(numbers[:, 1:] / self.m)  # (size, 1)
        means, variances = moments[:, 0], moments[:, 1]
        with np.errstate(all="ignore"):  # inf and nan are results
            center = (weights * means).sum(0)
            distance = means - center
            spread = (weights * (variances + distance * distance)).sum(0)
            return center.astype(mean.dtype), spread.astype(var.dtype)

    def shares(self, gw: Any, gb: Any) -> tuple[Any, Any]:
        """(gw, gb) of all ranks, over the values of a channel, in float64.

        Raises:
            DistributedError: ranks in different layers.
        """
        number = np.array([self.meeting.number], float)
        total, sums = self._added(number, gw, gb)
        if total[0] != number[0] * self.group.size:
            raise self._apart()
        return sums[0] / self.m, sums[1] / self.m

    def _gathered(self, numbers: Any, a: Any, b: Any) -> tuple[Any, Any]:
        """Numbers (k,) of the host and vectors (c,), of all ranks: (size, k), (size, 2, c)."""
        if not isinstance(a, np.ndarray):  # no rank waits for its GPU to see the numbers
            carrier, vectors = _to_carry(self.group, a, b)
            return self.group.gather(numbers), carrier.gather(vectors)
        gathered = self.group.gather(np.concatenate([numbers, a, b]))
        k = len(numbers)
        return gathered[:, :k], gathered[:, k:].reshape(len(gathered), 2, -1)

    def _added(self, numbers: Any, a: Any, b: Any) -> tuple[Any, Any]:
        """The sums over all ranks of numbers (k,) and of vectors (c,): (k,), (2, c)."""
        k = len(numbers)
        if not isinstance(a, np.ndarray):
            carrier, vectors = _to_carry(self.group, a, b)
            numbers = numbers.copy()
            self.group.reduce(numbers)
            carrier.reduce(vectors)
            return numbers, vectors
        packed = np.concatenate([numbers, a, b])
        self.group.reduce(packed)
        return packed[:k], packed[k:].reshape(2, -1)

    def _apart(self) -> DistributedError:
        expected = f"all {self.group.size} ranks in the same layer"
        fix = (
            "In training all ranks run the same layers; stochastic depth leaves some out by chance."
        )
        return DistributedError(message(NAME, expected, "ranks in different ones", fix=fix))


def _to_carry(group: Group, a: Any, b: Any) -> tuple[Any, Any]:
    """Vectors (c,) of a GPU as one array (2, c) of float64, behind what carries it."""
    from ...distributed.nccl import carrier

    vectors = array_module(a).stack([a, b]).astype(np.float64)
    return carrier(group, vectors), vectors


class SyncBatchNorm(BatchNorm):
    """(x, w, b) → y with the statistics of ``whole``, a :class:`Whole` of which x is a part."""

    complex_safe = False

    @staticmethod
    def forward(
        ctx: Context,
        x: Any,
        w: Any,
        b: Any,
        mean: Any,
        inv_std: Any,
        whole: Any,
        affine: Any = None,
    ) -> Any:
        ctx.whole = whole
        return BatchNorm.forward(ctx, x, w, b, mean, inv_std, True)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        if is_grad_enabled():
            fix = "Take second derivatives in one process, or in eval()."
            expected = "a backward pass without create_graph in a group of several processes"
            raise GraphError(message(NAME, expected, "create_graph=True", fix=fix))
        x, w = ctx.saved
        gx, gw, gb = SyncBatchNormGradients.apply(_laid_out(gy), x, w, *ctx.constants, ctx.whole)
        return gx, gw, gb, None, None, None


class SyncBatchNormGradients(Function):
    """(gy, x, w) → (gx, gw, gb): gx of the whole batch, gw and gb of this rank's part."""

    constant = True

    @staticmethod
    def forward(ctx: Context, gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, whole: Any) -> Any:
        xp, kernel, rows = array_module(x), kernels("batch_norm", x), _rows(x)
        gx, gw, gb = allocate(rows.shape, x.dtype, x), xp.empty_like(w), xp.empty_like(w)
        kernel.batch_norm_bwd_affine(_rows(gy), rows, mean, inv_std, gw, gb)
        # the kernel divides by its own rows, and is given so much more or less
        of_w, of_b = ((len(rows) * share).astype(w.dtype) for share in whole.shares(gw, gb))
        kernel.batch_norm_bwd_x(_rows(gy), rows, w, mean, inv_std, of_w, of_b, True, gx)
        return _unrows(gx, x.shape), gw, gb


def fill_slopes(slopes: Any, gw: Any, gb: Any, inv_std: Any, whole: Whole) -> None:
    """Put share and slope of the whole batch into the coefficients (5, c) of a gradient."""
    of_w, of_b = whole.shares(gw, gb)
    with np.errstate(all="ignore"):  # inf and nan are results
        slopes[SHARE] = of_b
        slopes[SLOPE] = of_w * inv_std


def sync_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    momentum: float,
    eps: float,
    num_batches_tracked: Tensor | None,
    group: Group,
    meeting: Meeting,
) -> Tensor:
    """:func:`minires.ops.batch_norm` in training, with the statistics of all ranks' batches.

    Args:
        x: this rank's part (n, c, h, w), (n, c) or any (n, c, d1, ...); n may differ by rank.
        running_mean, running_var, weight, bias, momentum, eps, num_batches_tracked: as there. The
            running statistics get the same bits on all ranks.
        group: the ranks, two or more.
        meeting: of the layer.

    Returns:
        The shape of ``x``.

    Raises:
        ShapeError: shapes that do not fit; a rank without samples.
        CaptureError: under :func:`minires.capture`.
        DistributedError: ranks in different layers; one that has ended.
        GraphError: in a backward pass with ``create_graph=True``.
    """
    if current().recording:
        expected = "steps outside of mr.capture in a group of several processes"
        fix = "fit(capture=True) trains networks with SyncBatchNorm uncaptured."
        raise CaptureError(message(NAME, expected, "one that is being recorded", fix=fix))
    shape = x.shape
    if len(shape) not in (2, 4):
        n, c, *places = shape
        x = x.reshape(n, c, math.prod(places), 1)
    vectors = running_mean, running_var, weight, bias
    _check(x, vectors, False)
    _check_count(x, num_batches_tracked)
    followers = running_mean, running_var, num_batches_tracked
    follow = running_mean is not None and running_var is not None
    written = _to_write(followers) if follow else []
    x = _laid_out(x)
    m, whole = x.numel() // x.shape[1], Whole(group, meeting)
    with beside((x,)):
        mean, var = whole.moments(m, *_own_moments(x, m))
        running = None
        if follow:
            running = (*written[:2], momentum, whole.m / (whole.m - 1), written[2])
            for tensor in followers:
                if tensor is not None:
                    tensor.bump_version()
        affine = _affine(weight, bias, mean, var, eps, running)
    w, b = _parameters(x, weight, bias)
    y = SyncBatchNorm.apply(x, w, b, affine.mean, affine.inv_std, whole, affine=affine)
    return y if len(shape) in (2, 4) else y.reshape(shape)


def _own_moments(x: Tensor, m: int) -> tuple[Any, Any]:
    """Mean and biased variance of this rank's values; of none, zeros: the others wait for them."""
    if not m:
        nothing = array_module(x._array).zeros(x.shape[1], x.dtype)
        return nothing, nothing
    mean, var = BatchNormStatistics.apply(x)
    return mean._array, var._array

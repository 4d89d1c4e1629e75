"""Batch norm: layers around :func:`minires.ops.batch_norm`, with their running statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from minires import arguments
from minires.autograd import host_read
from minires.creation import ones, zeros
from minires.errors import ShapeError, message
from minires.nn.layers import parameter
from minires.nn.module import Module
from minires.nn.parameter import UninitializedBuffer
from minires.ops.batch_norm import batch_norm
from minires.ops.checks import given
from minires.tensor import Tensor, tensor


class _BatchNorm(Module):
    """What batch norms of any number of dimensions share."""

    _least_inputs: ClassVar[int] = 1  # 0, which a lazy layer has, means: not known yet
    _shapes: ClassVar[tuple[str, ...]]  # of x, for any channels c

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = c = arguments.integer(
            name, "num_features", num_features, self._least_inputs
        )
        self.eps = arguments.number(name, "eps", eps, above=0)
        if momentum is not None:
            momentum = arguments.number(name, "momentum", momentum, least=0, most=1)
        self.momentum = momentum
        self.affine = arguments.flag(name, "affine", affine)
        self.track_running_stats = tracked = arguments.flag(
            name, "track_running_stats", track_running_stats
        )
        if momentum is not None and momentum >= 0.5:
            warnings.warn(
                f"{name}: momentum={momentum} means running = {1 - momentum:g} * old + "
                f"{momentum:g} * new here (PyTorch's convention). TensorFlow's and Chainer's "
                f"{momentum:g} is {1 - momentum:g} here.",
                UserWarning,
                stacklevel=2,
            )
        self.weight = parameter(name, ones, c) if affine else None
        self.bias = parameter(name, zeros, c) if affine else None
        self.register_buffer("running_mean", _statistic(zeros, c) if tracked else None)
        self.register_buffer("running_var", _statistic(ones, c) if tracked else None)
        count = tensor(np.array(0, dtype=np.int64))
        self.register_buffer("num_batches_tracked", count if tracked else None)

    def forward(self, x: Tensor) -> Tensor:
        shape = self._checked_shape(x)
        if shape[1] != self.num_features:
            raise self._wrong(shape, self.num_features)
        if not self.training and self.track_running_stats:
            self._warn_if_untrained()
        use_batch = self.training or not self.track_running_stats
        count = self.num_batches_tracked if self.training else None
        momentum = self.momentum
        if momentum is None:
            host_read("the count of batches, as momentum=None asks for,")
            momentum = 0.0 if count is None else 1.0 / (int(count.item()) + 1)
        return self._normalised(x, use_batch, momentum, count)

    def _normalised(
        self, x: Tensor, use_batch: bool, momentum: float, count: Tensor | None
    ) -> Tensor:
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=use_batch,
            momentum=momentum,
            eps=self.eps,
            num_batches_tracked=count,
        )

    def _checked_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of x, if it has one of the numbers of dimensions that the layer takes."""
        shape = given(type(self).__name__, x).shape
        if len(shape) not in [text.count(",") + 1 for text in self._shapes]:
            raise self._wrong(shape, self.num_features or "c")
        return shape

    def _wrong(self, shape: tuple[int, ...], c: int | str) -> ShapeError:
        expected = " or ".join(text.format(c=c) for text in self._shapes)
        name = f"{type(self).__name__}({c})"
        return ShapeError(message(name, f"x of shape {expected}", f"shape {shape}"))

    def reset_running_stats(self) -> None:
        """Forget the batches seen so far: mean 0, variance 1, count 0."""
        start = (self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)
        for buffer, value in start:
            if buffer is not None:
                buffer.fill_(value)

    def _warn_if_untrained(self) -> None:
        """Warn if the statistics are still the initial ones: neither trained nor loaded."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or mean._version.count:  # written since the constructor
            return
        if count is None or count._array:
            return
        if not mean._array.any() and (var._array == 1).all():
            warnings.warn(
                f"{type(self).__name__}: running statistics have never been updated "
                "(num_batches_tracked=0), "
                "so eval() normalises nothing. Train first, or load a state dict.",
                UserWarning,
                stacklevel=4,  # forward, __call__: the line that called this layer
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )


def _statistic(make: Callable[..., Tensor], c: int) -> Tensor:
    """A running statistic of c channels; 0 channels are not known yet."""
    return make(c) if c else UninitializedBuffer._of(0)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of ``x (n, c, h, w)`` per channel (Ioffe & Szegedy, arXiv:1502.03167)::

        training:  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
                   running = (1 - momentum) * running + momentum * batch
        eval:      y = (x - running_mean) / sqrt(running_var + eps) * weight + bias

    ``mean`` and ``var`` are over n, h and w. The biased variance normalises, the unbiased one
    enters ``running_var``. ``momentum`` is the weight of the *new* batch, as in PyTorch;
    TensorFlow and Chainer give the weight of the old value, so their 0.9 is 0.1 here. With
    ``momentum=None`` batch number k has weight 1 / k, which makes ``running`` the plain average of
    all batches.

    Args:
        num_features: channels c.
        affine: whether to learn ``weight`` and ``bias``.
        track_running_stats: False keeps no statistics and uses the batch's in evaluation too.

    Raises:
        ArgumentError: ``num_features`` below 1, ``eps`` not positive, ``momentum`` outside 0..1.
        ShapeError: at the call: not four dimensions, or not ``num_features`` channels.
    """

    _shapes = ("(n, {c}, h, w)",)


class BatchNorm1d(_BatchNorm):
    """:class:`BatchNorm2d` of ``x (n, c)`` or ``(n, c, l)``: per channel, over n and l.

    Raises:
        ArgumentError: as for :class:`BatchNorm2d`.
        ShapeError: at the call: another number of dimensions, or not ``num_features`` channels.
    """

    _shapes = ("(n, {c})", "(n, {c}, l)")

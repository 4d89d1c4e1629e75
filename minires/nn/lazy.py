"""Lazy layers: what they leave out of their arguments they take from the first input.

``LazyLinear(10)`` has no ``in_features``; called on ``x (n, 4)`` it becomes a ``Linear(4, 10)``:
the same object with the same parameters in it, which were
:class:`~minires.nn.UninitializedParameter` until then. So a network can be written down without
counting the channels between its layers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from minires.errors import ArgumentError, ShapeError, message
from minires.nn.batch_norm import BatchNorm1d, BatchNorm2d, _BatchNorm
from minires.nn.conv import Conv1d, Conv2d, _Conv
from minires.nn.functional import Line, Size
from minires.nn.layers import Linear, reset_affine, reset_bias
from minires.nn.module import Module
from minires.nn.parameter import Uninitialized, UninitializedParameter
from minires.tensor import Tensor, given


class _Lazy(Module):
    """A layer that waits for its first input. It stands before the plain class among the bases.

    An input that the layer cannot take, and whatever else goes wrong in the first call, leaves it
    as it was.
    """

    _least_inputs: ClassVar[int] = 0
    _becomes: ClassVar[type[Module]]
    _inputs: ClassVar[str] = "in_channels"  # the attribute that the first input tells

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer has no shape yet. After ``load_state_dict`` all have."""
        return bool(self._uninitialized())

    def initialize_parameters(self, x: Tensor) -> None:
        """Give the parameters the shapes that ``x`` asks for, and draw their values.

        Raises:
            ShapeError, ArgumentError, DTypeError: ``x`` is no input of this layer.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters anew, once their shapes are known."""
        if not self.has_uninitialized_params():
            super().reset_parameters()  # type: ignore[misc]

    def _uninitialized(self) -> list[Uninitialized]:
        tensors = (*self._parameters.values(), *self._buffers.values())
        return [tensor for tensor in tensors if isinstance(tensor, Uninitialized)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        waiting = [(tensor, tensor._values(), type(tensor)) for tensor in self._uninitialized()]
        lazy, before = type(self), getattr(self, self._inputs)
        try:
            for x in (*args, *kwargs.values())[:1]:
                self.initialize_parameters(x)
            self.__class__ = self._becomes  # type: ignore[assignment]
            return self(*args, **kwargs)
        except BaseException:
            self.__class__ = lazy
            setattr(self, self._inputs, before)
            for tensor, array, kind in waiting:
                tensor._hold(array)
                tensor.grad = None
                tensor.__class__ = kind
            raise

    def _size(self, x: Tensor, axis: int, *ranks: int, expected: str) -> int:
        """The size of ``x`` that the parameters depend on."""
        shape = given(type(self).__name__, x).shape
        if len(shape) not in ranks or not shape[axis]:
            raise ShapeError(message(type(self).__name__, f"x of shape {expected}", shape))
        return shape[axis]


def _materialize(layer: Any, shape: tuple[int, ...]) -> None:
    """Give the weight this shape, and draw it and the bias; what was loaded stays as it is."""
    weight, bias = layer.weight, layer.bias
    drawn = [isinstance(tensor, Uninitialized) for tensor in (weight, bias)]
    if drawn[0]:
        weight.materialize(shape)
        reset_affine(weight, None)
    if drawn[1]:
        bias.materialize(shape[:1])
        reset_bias(weight, bias)


class LazyLinear(_Lazy, Linear):
    """A :class:`~minires.nn.Linear` whose ``in_features`` is the last size of its first input.

    >>> import minires as mr
    >>> layer = mr.nn.LazyLinear(2)
    >>> layer
    LazyLinear(in_features=0, out_features=2, bias=True)
    >>> layer(mr.zeros(5, 3)).shape
    (5, 2)
    >>> layer
    Linear(in_features=3, out_features=2, bias=True)

    Raises:
        ArgumentError: see :class:`~minires.nn.Linear`.
        UninitializedError: who asks for the shape or the values of a parameter before.
    """

    _becomes = Linear
    _inputs = "in_features"

    def __init__(self, out_features: int, bias: bool = True) -> None:
        super().__init__(0, out_features, bias)
        if self.bias is not None:
            self.bias = UninitializedParameter._of(self.out_features)

    def initialize_parameters(self, x: Tensor) -> None:
        if self.has_uninitialized_params():
            size = self._size(x, -1, *range(1, 65), expected="(..., in_features), of features")
            _materialize(self, (self.out_features, size))
        self.in_features = self.weight.shape[1]


class _LazyConv(_Lazy, _Conv):
    """What lazy convolutions share."""

    _expected: ClassVar[str]

    def __init__(
        self, out_channels: int, sizes: tuple[Any, Any, Any, Any], groups: int, bias: bool
    ) -> None:
        _Conv.__init__(self, 0, out_channels, *sizes, groups, bias)
        if self.bias is not None:
            self.bias = UninitializedParameter._of(self.out_channels)

    def initialize_parameters(self, x: Tensor) -> None:
        if self.has_uninitialized_params():
            axes = len(self.kernel_size)
            c = self._size(x, -axes - 1, axes + 1, axes + 2, expected=self._expected)
            if c % self.groups:
                name, expected = type(self).__name__, f"channels divisible by groups={self.groups}"
                raise ArgumentError(message(name, expected, f"{c} (x {x.shape})"))
            _materialize(self, (self.out_channels, c // self.groups, *self.kernel_size))
        self.in_channels = self.weight.shape[1] * self.groups


class LazyConv2d(_LazyConv, Conv2d):
    """A :class:`~minires.nn.Conv2d` whose ``in_channels`` are those of its first input.

    Raises:
        ArgumentError: see :class:`~minires.nn.Conv2d`; at the first call: channels that ``groups``
            does not divide.
        UninitializedError: who asks for the shape or the values of a parameter before.
    """

    _becomes = Conv2d
    _expected = "(n, c_in, h, w)"

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = kernel_size, stride, padding, dilation
        _LazyConv.__init__(self, out_channels, sizes, groups, bias)


class LazyConv1d(_LazyConv, Conv1d):
    """A :class:`~minires.nn.Conv1d` whose ``in_channels`` are those of its first input.

    Raises:
        ArgumentError, UninitializedError: see :class:`LazyConv2d`.
    """

    _becomes = Conv1d
    _expected = "(n, c_in, l)"

    def __init__(
        self,
        out_channels: int,
        kernel_size: Line,
        stride: Line = 1,
        padding: Line | str = 0,
        dilation: Line = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = kernel_size, stride, padding, dilation
        _LazyConv.__init__(self, out_channels, sizes, groups, bias)


class _LazyBatchNorm(_Lazy, _BatchNorm):
    """What lazy batch norms share."""

    _inputs = "num_features"

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats)

    def initialize_parameters(self, x: Tensor) -> None:
        known = next((t.shape[0] for t in self._vectors() if not isinstance(t, Uninitialized)), 0)
        c = known or self._checked_shape(x)[1]
        for tensor in self._uninitialized():
            tensor.materialize((c,))
            if tensor is self.weight or tensor is self.running_var:
                tensor._array[...] = 1
        self.num_features = c

    def _vectors(self) -> list[Tensor]:
        all_of_them = self.weight, self.bias, self.running_mean, self.running_var
        return [tensor for tensor in all_of_them if tensor is not None]


class LazyBatchNorm2d(_LazyBatchNorm, BatchNorm2d):
    """A :class:`~minires.nn.BatchNorm2d` whose ``num_features`` are the channels of its first
    input.

    Raises:
        ArgumentError: see :class:`~minires.nn.BatchNorm2d`.
        UninitializedError: who asks for the shape or the values of a parameter before.
    """

    _becomes = BatchNorm2d


class LazyBatchNorm1d(_LazyBatchNorm, BatchNorm1d):
    """A :class:`~minires.nn.BatchNorm1d` whose ``num_features`` are the channels of its first
    input.

    Raises:
        ArgumentError, UninitializedError: see :class:`LazyBatchNorm2d`.
    """

    _becomes = BatchNorm1d

"""Convolutions: layers around :func:`minires.ops.conv2d` and its relatives, with PyTorch's names,
arguments and initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from minires import arguments
from minires.creation import zeros
from minires.errors import ArgumentError, message
from minires.nn import functional as F
from minires.nn.functional import Line, Size
from minires.nn.layers import parameter, reset_affine
from minires.nn.module import Module
from minires.nn.parameter import Parameter
from minires.tensor import Tensor


def _check_groups(layer: str, in_channels: int, out_channels: int, groups: int) -> None:
    if in_channels % groups or out_channels % groups:
        raise ArgumentError(
            message(
                layer,
                "in_channels and out_channels divisible by groups",
                f"{in_channels} and {out_channels} with groups={groups}",
            )
        )


class _Conv(Module):
    """What convolutions in any number of directions share."""

    _least_inputs: ClassVar[int] = 1  # 0, which a lazy layer has, means: not known yet
    _sizes: ClassVar[Callable[..., tuple[int, ...]]]  # checks an option, one size per direction

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        name, sizes = type(self).__name__, type(self)._sizes
        self.in_channels = arguments.integer(name, "in_channels", in_channels, self._least_inputs)
        self.out_channels = arguments.integer(name, "out_channels", out_channels, 1)
        self.kernel_size = sizes(name, "kernel_size", kernel_size, 1)
        self.stride = sizes(name, "stride", stride, 1)
        self.dilation = sizes(name, "dilation", dilation, 1)
        self.groups = arguments.integer(name, "groups", groups, 1)
        _check_groups(name, self.in_channels, self.out_channels, self.groups)
        bias = arguments.flag(name, "bias", bias)
        self.padding: str | tuple[int, ...]
        if isinstance(padding, str):
            arguments.choice("padding", padding, ("same", "valid"))
            if padding == "same" and set(self.stride) != {1}:
                raise ArgumentError(
                    message(name, 'stride 1 with padding="same"', f"stride={self.stride}")
                )
            self.padding = padding
        else:
            self.padding = sizes(name, "padding", padding, 0)
        c_in = self.in_channels // self.groups
        self.weight = parameter(name, zeros, self.out_channels, c_in, *self.kernel_size)
        self.bias = Parameter(zeros(self.out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from U(±1/sqrt(fan_in))."""
        reset_affine(self.weight, self.bias)

    @property
    def _options(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        if isinstance(self.padding, str) or any(self.padding):
            parts.append(f"padding={self.padding!r}")
        if set(self.dilation) != {1}:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class Conv2d(_Conv):
    """2-d convolution of ``x (n, c_in, h, w)`` with weight ``(c_out, c_in / groups, k_h, k_w)``.

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are integers or (rows, columns);
    ``padding`` may be ``"valid"`` (none) or, with stride 1, ``"same"`` (keeps height and width).

    Raises:
        ArgumentError: an argument out of range, channels that ``groups`` does not divide, or
            ``padding="same"`` with a stride.
    """

    _sizes = staticmethod(arguments.pair)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = kernel_size, stride, padding, dilation
        super().__init__(in_channels, out_channels, *sizes, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, *self._options)


class Conv1d(_Conv):
    """1-d convolution of ``x (n, c_in, l)`` with weight ``(c_out, c_in / groups, k)``: that of
    images one pixel high (:func:`minires.ops.conv1d`).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are integers, or tuples of one;
    ``padding`` may be ``"valid"`` (none) or, with stride 1, ``"same"`` (keeps the length).

    Raises:
        ArgumentError: as for :class:`Conv2d`.
    """

    _sizes = staticmethod(arguments.single)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Line,
        stride: Line = 1,
        padding: Line | str = 0,
        dilation: Line = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = kernel_size, stride, padding, dilation
        super().__init__(in_channels, out_channels, *sizes, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, *self._options)


class ConvTranspose2d(Module):
    """Transposed convolution of ``x (n, c_in, h, w)``: a convolution's gradient, as a layer.

    ``kernel_size``, ``stride``, ``padding``, ``output_padding`` and ``dilation`` are integers or
    (rows, columns); the weight is ``(c_in, c_out / groups, k_h, k_w)``. With the arguments of a
    :class:`Conv2d` it maps that layer's output shape back to its input shape, and
    ``output_padding`` chooses among the input shapes that a stride maps to one.

    Raises:
        ArgumentError: an argument out of range, or channels that ``groups`` does not divide.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
    ) -> None:
        super().__init__()
        name = "ConvTranspose2d"
        self.in_channels = arguments.integer(name, "in_channels", in_channels, 1)
        self.out_channels = arguments.integer(name, "out_channels", out_channels, 1)
        self.kernel_size = arguments.pair(name, "kernel_size", kernel_size, 1)
        self.stride = arguments.pair(name, "stride", stride, 1)
        self.padding = arguments.pair(name, "padding", padding, 0)
        self.output_padding = arguments.pair(name, "output_padding", output_padding, 0)
        self.dilation = arguments.pair(name, "dilation", dilation, 1)
        self.groups = arguments.integer(name, "groups", groups, 1)
        _check_groups(name, self.in_channels, self.out_channels, self.groups)
        bias = arguments.flag(name, "bias", bias)
        c_out = self.out_channels // self.groups
        self.weight = parameter(name, zeros, self.in_channels, c_out, *self.kernel_size)
        self.bias = Parameter(zeros(self.out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from U(±1/sqrt(weight.shape[1] * k_h * k_w)), as PyTorch."""
        reset_affine(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        for name, usual in (
            ("padding", (0, 0)),
            ("dilation", (1, 1)),
            ("output_padding", (0, 0)),
            ("groups", 1),
        ):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)

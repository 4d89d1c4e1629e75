"""Pooling layers, around the operations of the same names in ``minires/ops``."""

from __future__ import annotations

from typing import Any

from minires import arguments
from minires.nn import functional as F
from minires.nn.functional import Line, Size
from minires.nn.module import Module
from minires.ops.avg_pool2d.op import divisor
from minires.tensor import Tensor


class MaxPool2d(Module):
    """Maximum over windows; padding counts as minus infinity. ``stride`` defaults to the kernel.

    With ``return_indices`` a pair of the maxima and of where they stood, as h * width + w.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        name, size = "MaxPool2d", arguments.size
        self.kernel_size = size(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else size(name, "stride", stride, 1)
        self.padding = size(name, "padding", padding, 0)
        self.dilation = size(name, "dilation", dilation, 1)
        self.return_indices = arguments.flag(name, "return_indices", return_indices)
        self.ceil_mode = arguments.flag(name, "ceil_mode", ceil_mode)

    def forward(self, x: Tensor) -> Any:
        options = (self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return F.max_pool2d(x, self.kernel_size, self.stride, *options)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean over windows; zeros of the padding count unless ``count_include_pad=False``.

    ``divisor_override``, if there is one, is divided by in place of the number of pixels.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        name, size = "AvgPool2d", arguments.size
        self.kernel_size = size(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else size(name, "stride", stride, 1)
        self.padding = size(name, "padding", padding, 0)
        self.ceil_mode = arguments.flag(name, "ceil_mode", ceil_mode)
        self.count_include_pad = arguments.flag(name, "count_include_pad", count_include_pad)
        self.divisor_override = divisor_override
        if divisor_override is not None:
            self.divisor_override = divisor("AvgPool2d", divisor_override)

    def forward(self, x: Tensor) -> Tensor:
        options = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, *options)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Mean over windows that divide any input into ``output_size`` parts; 1 is the global mean.

    ``None`` in place of a number of rows or columns keeps the input's.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        name = "AdaptiveAvgPool2d"
        self.output_size: int | tuple[int | None, int | None]
        if isinstance(output_size, tuple | list):
            given = [1 if n is None else n for n in output_size]
            h, w = arguments.sizes(name, "output_size", given, 1, 2)
            rows, columns = output_size
            self.output_size = None if rows is None else h, None if columns is None else w
        else:
            self.output_size = arguments.integer(name, "output_size", output_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class MaxPool1d(Module):
    """Maximum over windows of ``x (n, c, l)``; padding counts as minus infinity.

    ``stride`` defaults to the kernel. With ``return_indices`` a pair of the maxima and of where
    they stood.
    """

    def __init__(
        self,
        kernel_size: Line,
        stride: Line | None = None,
        padding: Line = 0,
        dilation: Line = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        name = "MaxPool1d"
        self.kernel_size = _one(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _one(name, "stride", stride, 1)
        self.padding = _one(name, "padding", padding, 0)
        self.dilation = _one(name, "dilation", dilation, 1)
        self.return_indices = arguments.flag(name, "return_indices", return_indices)
        self.ceil_mode = arguments.flag(name, "ceil_mode", ceil_mode)

    def forward(self, x: Tensor) -> Any:
        options = (self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return F.max_pool1d(x, self.kernel_size, self.stride, *options)

    extra_repr = MaxPool2d.extra_repr


class AvgPool1d(Module):
    """Mean over windows of ``x (n, c, l)``; zeros of the padding count unless
    ``count_include_pad=False``."""

    def __init__(
        self,
        kernel_size: Line,
        stride: Line | None = None,
        padding: Line = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        name, single = "AvgPool1d", arguments.single
        self.kernel_size = single(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else single(name, "stride", stride, 1)
        self.padding = single(name, "padding", padding, 0)
        self.ceil_mode = arguments.flag(name, "ceil_mode", ceil_mode)
        self.count_include_pad = arguments.flag(name, "count_include_pad", count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        options = self.ceil_mode, self.count_include_pad
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, *options)

    extra_repr = AvgPool2d.extra_repr


class AdaptiveAvgPool1d(Module):
    """Mean over windows that divide ``x (n, c, l)`` into ``output_size`` parts; 1 is the mean."""

    def __init__(self, output_size: Line) -> None:
        super().__init__()
        self.output_size = _one("AdaptiveAvgPool1d", "output_size", output_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(x, self.output_size)

    extra_repr = AdaptiveAvgPool2d.extra_repr


def _one(op: str, name: str, value: Line, least: int) -> Line:
    """A size of one direction, kept as it was given: an integer, or a tuple of one."""
    one = arguments.single(op, name, value, least)
    return one if isinstance(value, tuple | list) else one[0]

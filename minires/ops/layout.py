"""Memory order: the same values, laid out as a kernel or a user wants them."""

from __future__ import annotations

from typing import Any

from ..autograd import Function
from ..device import array_module
from ..tensor import Tensor, tensor_method


class Contiguous(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.copy(order="C")

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        return gy


class ChannelsLast(Function):
    """The same values, in the memory order (n, h, w, c) that kernels work on."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        return gy


@tensor_method("contiguous")
def contiguous(x: Tensor) -> Tensor:
    """The same values in row-major memory; this tensor itself if it is so already."""
    if x._array.flags.c_contiguous:
        return x
    return Contiguous.apply(x)


def channels_last(x: Tensor) -> Tensor:
    """``x``, (n, c, h, w), with memory in the order (n, h, w, c); itself if it is so already."""
    if x._array.transpose(0, 2, 3, 1).flags.c_contiguous:
        return x
    return ChannelsLast.apply(x)

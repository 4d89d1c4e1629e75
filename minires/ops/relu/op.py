"""The rectifier: y = max(x, 0), entry by entry (Nair and Hinton, 2010).

gx = 0 where y <= 0, else gy: at x = 0 the derivative is taken as 0. It needs the output only, so
the input's memory may be reused. NaN stays NaN, and lets the gradient through.
"""

from __future__ import annotations

from typing import Any

from ...autograd import Context, Function, replace, switch
from ...device import array_module, kernels
from ...tensor import Tensor, tensor_method
from ..checks import as_laid_out, dense, flat, real


class ReLU(Function):
    """x → y."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        x = dense(x)
        y = array_module(x).empty_like(x)
        ctx.save(y)
        kernels("relu", x).relu_fwd(flat(x), flat(y))
        switch("relu", lambda: y.real > 0)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (y,) = ctx.saved
        return ReLUInput.apply(gy, y)


class ReLUInput(Function):
    """(gy, y) → gx. Linear in gy; constant in y wherever it has a derivative."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, gy: Any, y: Any) -> Any:
        ctx.save(y)
        gx = array_module(y).empty_like(y)
        kernels("relu", y).relu_bwd_x(flat(as_laid_out(gy, y)), flat(y), flat(gx))
        return gx

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        (y,) = ctx.saved
        return ReLUInput.apply(ggx, y), None


@tensor_method("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0), for a tensor of any shape.

    Raises:
        DTypeError: not a floating-point tensor.

    >>> import minires as mr
    >>> mr.relu(mr.tensor([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    return ReLU.apply(real("relu", x))


@tensor_method("relu_")
def relu_(x: Tensor) -> Tensor:
    """:func:`relu`, in place."""
    replace(x, relu(x))
    return x

"""The rectifier: y = max(x, 0), entry by entry (Nair and Hinton, 2010).

gx = 0 where y <= 0, else gy: at x = 0 the derivative is taken as 0. It needs the output only, so
the input's memory may be reused. NaN stays NaN, and lets the gradient through.
"""

from __future__ import annotations

from typing import Any

from ...autograd import Function, Variable, is_grad_enabled, may_wait, replace, switch
from ...device import array_module, kernels
from ...tensor import Tensor, tensor_method
from ..checks import as_laid_out, dense, flat, real
from ..fusion import Gated, can_fuse, going_back, note_of


class ReLU(Function):
    """x → y."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        x = dense(x)
        y = array_module(x).empty_like(x)
        ctx.save(y)
        kernels("relu", x).relu_fwd(flat(x), flat(y))
        switch("relu", lambda: y.real > 0)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        (y,) = ctx.saved
        if ctx.constants and going_back() and can_fuse(gy) and may_wait(gy, y):
            return Variable._defer(Gated(gy, y, *ctx.constants))
        return ReLUInput.apply(gy, y)


class ReLUInput(Function):
    """(gy, y) → gx. Linear in gy; constant in y wherever it has a derivative."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Any, gy: Any, y: Any) -> Any:
        ctx.save(y)
        gx = array_module(y).empty_like(y)
        kernels("relu", y).relu_bwd_x(flat(as_laid_out(gy, y)), flat(y), flat(gx))
        return gx

    @staticmethod
    def backward(ctx: Any, ggx: Tensor) -> Any:
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
    real("relu", x)
    note = note_of(x) if can_fuse(x) else None
    rectified = None if note is None else note.rectified()
    if rectified is None:
        return ReLU.apply(x)
    if not is_grad_enabled():
        return Variable._defer(rectified)
    ctx = ReLU.context(x)
    ctx.save_constants(rectified)
    return ReLU.defer(ctx, (x,), rectified, keep=True)


@tensor_method("relu_")
def relu_(x: Tensor) -> Tensor:
    """:func:`relu`, in place."""
    y = relu(x)
    note = note_of(y)
    if note is not None and y.requires_grad:
        y._pending = note.again()  # x may be written once more, and what ReLU saved may not
    replace(x, y)
    return x

"""The remainder of a division, whose quotient is a whole number and moves by steps."""

from __future__ import annotations

from typing import Any

from ..autograd import Context, Function, Variable, in_complex_step, switch
from ..device import array_module
from ..tensor import Tensor, tensor_method
from .checks import binary_operands, comparable
from .compare import whole_remainder
from .elementwise import sum_to


class Remainder(Function):
    """x - y * floor(x / y), in which the whole number moves by steps."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        ctx.shapes = getattr(x, "shape", ()), getattr(y, "shape", ())
        whole = array_module(y if isinstance(x, int | float) else x).asarray(x.real // y.real)
        ctx.save_constants(whole)
        switch("%", lambda: whole)
        return x - y * whole if in_complex_step() else x % y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        gx = sum_to(gy, ctx.shapes[0]) if ctx.needs_grad[0] else None
        gz = sum_to(-gy * Tensor(ctx.constants[0]), ctx.shapes[1]) if ctx.needs_grad[1] else None
        return gx, gz


@tensor_method("__mod__", "remainder")
def remainder(x: Any, y: Any) -> Tensor:
    """``x - y * floor(x / y)``, broadcast: of y's sign, as in Python.

    Raises:
        ArgumentError: integers divided by 0.
        DTypeError: complex numbers.
    """
    x, y = binary_operands("%", x, y)
    like = x if isinstance(x, Variable) else y
    comparable("%", like)
    return Remainder.apply(x, y) if like.dtype.kind in "fc" else whole_remainder(x, y)


tensor_method("__rmod__")(lambda x, y: remainder(y, x))

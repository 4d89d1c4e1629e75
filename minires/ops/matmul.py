"""Matrix products: on the CPU by NumPy's BLAS, on a GPU by a kernel and by cuBLAS."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np

from ..autograd import Context, Function, call
from ..errors import ShapeError, message
from ..forks import new_lock_in_children
from ..tensor import Tensor, tensor_method
from .checks import analytic, check_same, operand
from .elementwise import add, sum_to

TINY, LARGE = 2**13, 2**28  # multiply-adds between which a product gains little by several threads

_product = threading.RLock()  # a garbage collection may come meanwhile, and end up in here again
_threads: list[int] = []  # of each BLAS library, before the product that is being computed
new_lock_in_children(globals(), "_product")


@functools.cache
def _blas() -> Any:
    """The BLAS libraries in this process, whose threads can be counted and set."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def _multiply(x: Any, w: Any) -> Any:
    """x @ w, where x and w are."""
    if isinstance(x, np.ndarray):
        return call(_by_blas, x, w)
    from ..kernels.cuda.matmul import multiply

    return multiply(x, w)


def _by_blas(x: Any, w: Any) -> Any:
    """x @ w, on one thread unless it is large.

    OpenBLAS's threads go on spinning for some 25 ms after a product, lest the next one wait for
    them, and hold the cores that the kernels of the next layer would run on, which costs more than
    a classifier gains. (For products below TINY it takes one thread itself.)
    """
    if not TINY <= math.prod(x.shape) * w.shape[-1] <= LARGE:
        return x @ w
    with _product:
        if not _threads:  # else an interrupt kept the last product from setting them back
            _threads[:] = [library.get_num_threads() for library in _blas()]
        try:
            for library in _blas():
                library.set_num_threads(1)
            return x @ w
        finally:
            for library, count in zip(_blas(), _threads):
                library.set_num_threads(count)
            _threads.clear()


class MatMul(Function):
    """y = x @ w over the last two dimensions; leading dimensions are broadcast.

    gx = gy @ wᵀ and gw = xᵀ @ gy, summed over what was broadcast.
    """

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, w: Any) -> Any:
        ctx.save(x if ctx.needs_grad[1] else None, w if ctx.needs_grad[0] else None)
        ctx.shapes = x.shape, w.shape
        return _multiply(x, w)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, w = ctx.saved
        gx = gw = None
        if ctx.needs_grad[0]:
            gx = sum_to(MatMul.apply(gy, w.transpose(-1, -2)), ctx.shapes[0])
        if ctx.needs_grad[1]:
            gw = sum_to(MatMul.apply(x.transpose(-1, -2), gy), ctx.shapes[1])
        return gx, gw


@tensor_method("__matmul__", "matmul")
def matmul(x: Any, y: Any) -> Tensor:
    """The matrix product: (..., n, k) @ (..., k, m) gives (..., n, m).

    A vector counts as a row on the left and as a column on the right, and loses that
    dimension again in the result.

    Raises:
        ShapeError: inner sizes that differ, scalars, or leading sizes that do not broadcast.
    """
    like = x if isinstance(x, Tensor) else analytic("matmul", y)
    x, y = (analytic("matmul", operand("matmul", v, like)) for v in (x, y))
    check_same("matmul", x, y)
    a, b = x.shape, y.shape
    if not a or not b:
        raise ShapeError(message("matmul", "at least one dimension each", f"{a} and {b}"))
    if a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ShapeError(
            message(
                "matmul", "x.shape[-1] == y.shape[-2]", f"{a[-1]} and {b[-2:][0]}", f"{a} @ {b}"
            )
        )
    for m, n in zip(reversed(a[:-2]), reversed(b[:-2])):
        if m != n and 1 not in (m, n):
            raise ShapeError(message("matmul", "leading sizes that broadcast", f"{a} and {b}"))
    left = x if len(a) > 1 else x.unsqueeze(0)
    right = y if len(b) > 1 else y.unsqueeze(1)
    result = MatMul.apply(left, right)
    if len(a) == 1:
        result = result.squeeze(-2)
    return result if len(b) > 1 else result.squeeze(-1)


@tensor_method("__rmatmul__")
def _reflected(x: Tensor, other: Any) -> Tensor:
    return matmul(other, x)


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """y = x @ wᵀ + b.

    Args:
        x: inputs, (..., in).
        w: weights, (out, in).
        b: bias, (out,), or None.

    Returns:
        (..., out).

    Raises:
        ShapeError: sizes that do not fit.
    """
    check_same("linear", analytic("linear", x), w, *(() if b is None else (b,)))
    if w.ndim != 2 or (b is not None and b.shape != w.shape[:1]):
        raise ShapeError(
            message(
                "linear",
                "w (out, in) and b (out,)",
                f"w {w.shape}, b {None if b is None else b.shape}",
            )
        )
    if not x.ndim or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            message(
                "linear",
                "x.shape[-1] == w.shape[1]",
                f"{x.shape[-1] if x.ndim else 'a scalar'} and {w.shape[1]}",
                f"x {x.shape}, w {w.shape}",
                "Flatten feature maps first: x.flatten(1)." if x.ndim == 4 else "",
            )
        )
    y = matmul(x, w.T)
    return y if b is None else add(y, b)

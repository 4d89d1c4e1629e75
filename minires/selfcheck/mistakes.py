"""The mistakes that :mod:`minires.selfcheck.planted` plants, and how they are planted.

Each is a context: inside it a backward kernel, the ``backward`` of a Function or the skip of a
residual block is wrong. Forward passes stay right, so that the numerical derivative is the truth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..autograd import Context, Function, switch
from ..device import kernels
from ..models.blocks import BasicBlock
from ..ops.batch_norm.op import BatchNorm
from ..ops.elementwise import Sub
from ..ops.max_pool2d.op import MaxPool2d
from ..tensor import Tensor

Plant = Callable[[], AbstractContextManager[None]]


# --------------------------------------------------------------------------------- how to plant


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name = value`` inside a ``with``; what was inherited is inherited again after it."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _in_kernel(op: str, name: str, wrong: Callable[..., None]) -> Plant:
    """Call ``wrong(kernel, *arguments)`` instead of the kernel."""

    @contextmanager
    def plant() -> Iterator[None]:
        module = kernels(op, np.empty(0))
        with _replaced(module, name, partial(wrong, getattr(module, name))):
            yield

    return plant


def _in_function(function: type[Function], **wrong: Callable[..., Any]) -> Plant:
    """Call ``wrong(method, ctx, *arguments)`` instead of the Function's methods."""

    @contextmanager
    def plant() -> Iterator[None]:
        with ExitStack() as stack:
            for name, method in wrong.items():
                lie = staticmethod(partial(method, getattr(function, name)))
                stack.enter_context(_replaced(function, name, lie))
            yield

    return plant


def _in_block(name: str, wrong: Callable[..., Tensor]) -> Plant:
    """Call ``wrong(method, block, x)`` instead of a method of BasicBlock."""
    right = getattr(BasicBlock, name)
    return lambda: _replaced(BasicBlock, name, lambda self, x: wrong(right, self, x))


# ------------------------------------------------------------------------------- wrong operations


def _weight_forgotten(right: Any, gy: Any, x: Any, gw: Any, g: Any) -> None:
    gw[...] = 0


def _minus_forgotten(right: Any, ctx: Context, gy: Tensor) -> Any:
    gx, gz = right(ctx, gy)
    return gx, -gz


def _mean_forgotten(right: Any, gy: Any, gx: Any, g: Any) -> None:
    right(gy, gx, replace(g, scale=np.ones_like(g.scale)))


def _x_hat_forgotten(
    right: Any, gy: Any, x: Any, w: Any, m: Any, s: Any, gw: Any, *rest: Any
) -> None:
    right(gy, x, w, m, s, np.zeros_like(gw), *rest)


def _average_forgotten(
    right: Any, gy: Any, x: Any, w: Any, m: Any, s: Any, gw: Any, gb: Any, *rest: Any
) -> None:
    right(gy, x, w, m, s, gw, np.zeros_like(gb), *rest)


def _kernel_transposed(right: Any, gy: Any, w: Any, gx: Any, g: Any) -> None:
    right(gy, np.ascontiguousarray(w.swapaxes(2, 3)), gx, g)


def _column_twice(right: Any, gy: Any, x: Any, gw: Any, g: Any) -> None:
    right(gy, x, gw, g)
    gw[..., 1] *= 2


def _padding_replicated(right: Any, gy: Any, w: Any, gx: Any, g: Any) -> None:
    """As if the border had been repeated outside the image, where there were zeros."""
    (p_h, p_w), (n, h, w_in, c) = g.padding, gx.shape
    padded = np.empty((n, h + 2 * p_h, w_in + 2 * p_w, c), gx.dtype)
    right(gy, w, padded, replace(g, h_in=padded.shape[1], w_in=padded.shape[2], padding=(0, 0)))
    rows = np.clip(np.arange(padded.shape[1]) - p_h, 0, h - 1)
    columns = np.clip(np.arange(padded.shape[2]) - p_w, 0, w_in - 1)
    gx[...] = 0
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            gx[:, row, column] += padded[:, i, j]


def _remainder_dropped(right: Any, gy: Any, w: Any, gx: Any, g: Any) -> None:
    """As if every position of the kernel owned ``stride`` pixels and no more."""
    right(gy, w, gx, g)
    gx[:, :, g.w_out * g.stride[1] :] = 0


def _stride_and_dilation_exchanged(right: Any, gy: Any, w: Any, gx: Any, g: Any) -> None:
    right(gy, w, gx, replace(g, stride=g.dilation, dilation=g.stride))


def _keeping_the_maxima(right: Any, ctx: Context, x: Any, geometry: Any) -> Any:
    y = right(ctx, x, geometry)
    ctx.save(x, y)
    return y


def _to_every_maximum(right: Any, ctx: Context, gy: Tensor) -> Any:
    """To all entries that equal the maximum, instead of the one that was chosen."""
    x, y = (t.data for t in ctx.saved)
    g, gx = ctx.geometry, np.zeros_like(x)
    for i, j in np.ndindex(g.h_out, g.w_out):
        top, left = i * g.stride[0], j * g.stride[1]
        window = (..., slice(top, top + g.kernel[0]), slice(left, left + g.kernel[1]))
        here = (..., slice(i, i + 1), slice(j, j + 1))
        gx[window] += (x[window] == y[here]) * gy.data[here]
    return Tensor(gx), None


def _parameters_exchanged(right: Any, ctx: Context, gy: Tensor) -> Any:
    gx, gw, gb, *rest = right(ctx, gy)
    return gx, gb, gw, *rest


@contextmanager
def _handing_out_the_cotangent() -> Iterator[None]:
    """Add gives its upstream gradient on as it is; the walk copies it before a user sees it."""
    walk = sys.modules["minires.autograd.walk"]  # the package's attribute is the function
    with _replaced(walk, "_unaliased", lambda gradient, escaped, create_graph: gradient):
        yield


def _centred_in_place(right: Any, gy: Any, x: Any, w: Any, mean: Any, *rest: Any) -> None:
    """Saves the memory of x - mean, and ruins the x that was saved."""
    x -= mean
    right(gy, x, w, np.zeros_like(mean), *rest)


class Mixing(Function):
    """y = a x + b (c · x): a Jacobian diag(a) + b cᵀ without a zero, at the cost of a vector."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, a: Any, b: Any, c: Any) -> Any:
        ctx.save_constants(a, b, c)
        return a * x + b * (c @ x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        a, b, c = ctx.constants
        return Tensor(a * gy.data + c * (b @ gy.data)), None, None, None


def _one_entry_off(right: Any, ctx: Context, gy: Tensor) -> Any:
    gx, *rest = right(ctx, gy)
    _, b, c = ctx.constants
    gx.data[456] += 0.1 * b[123] * c[456] * gy.data[123]
    return gx, *rest


# ------------------------------------------------------------------------------------- wrong skips


class _Through(Function):
    """x → x, with the backward it is given."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, backward: Callable[[Tensor], Tensor | None]) -> Any:
        ctx.wrong = backward
        return x

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return ctx.wrong(gy), None


class _ReLUOfSum(Function):
    """relu(F + x), whose backward sends x what came in at the end, past the ReLU's mask."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, residual: Any, x: Any) -> Any:
        total = residual + x
        open_ = total.real > 0
        switch("relu", lambda: open_)
        ctx.save_constants(open_)
        return np.where(open_, total, 0)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Tensor(gy.data * ctx.constants[0]), gy


def _on_the_skip(backward: Callable[[Tensor], Tensor | None]) -> Plant:
    return _in_block("skip", lambda skip, block, x: _Through.apply(skip(block, x), backward))


def _without_channel_1(gy: Tensor) -> Tensor:
    gx = gy.data.copy()
    gx[:, 1] = 0
    return Tensor(gx)


def _added_after_relu(forward: Any, block: BasicBlock, x: Tensor) -> Tensor:
    return _ReLUOfSum.apply(block.residual(x), block.skip(x))


# ---------------------------------------------------------------------------------------- the list

# Gradients that miss something
WEIGHT_FORGOTTEN = _in_kernel("conv2d", "conv2d_bwd_weight", _weight_forgotten)
MINUS_FORGOTTEN = _in_function(Sub, backward=_minus_forgotten)
MEAN_FORGOTTEN = _in_kernel("avg_pool2d", "avg_pool2d_bwd_x", _mean_forgotten)
X_HAT_FORGOTTEN = _in_kernel("batch_norm", "batch_norm_bwd_x", _x_hat_forgotten)
AVERAGE_FORGOTTEN = _in_kernel("batch_norm", "batch_norm_bwd_x", _average_forgotten)
# Gradients that land elsewhere
KERNEL_TRANSPOSED = _in_kernel("conv2d", "conv2d_bwd_input", _kernel_transposed)
COLUMN_TWICE = _in_kernel("conv2d", "conv2d_bwd_weight", _column_twice)
PADDING_REPLICATED = _in_kernel("conv2d", "conv2d_bwd_input", _padding_replicated)
REMAINDER_DROPPED = _in_kernel("conv2d", "conv2d_bwd_input", _remainder_dropped)
TIE_SENT_TWICE = _in_function(MaxPool2d, forward=_keeping_the_maxima, backward=_to_every_maximum)
STRIDE_AND_DILATION_EXCHANGED = _in_kernel(
    "conv2d", "conv2d_bwd_input", _stride_and_dilation_exchanged
)
PARAMETERS_EXCHANGED = _in_function(BatchNorm, backward=_parameters_exchanged)
ONE_ENTRY_OFF = _in_function(Mixing, backward=_one_entry_off)
# Memory that is not backward's to share or change
COTANGENT_HANDED_OUT = _handing_out_the_cotangent
CENTRED_IN_PLACE = _in_kernel("batch_norm", "batch_norm_bwd_x", _centred_in_place)
# Residual blocks
SKIP_DROPPED = _on_the_skip(lambda gy: None)
SKIP_SCALED = _on_the_skip(lambda gy: gy * 1.001)
SKIP_WITHOUT_CHANNEL = _on_the_skip(_without_channel_1)
SKIP_ADDED_AFTER_RELU = _in_block("forward", _added_after_relu)
SKIP_DETACHED = _in_block("skip", lambda skip, block, x: skip(block, x).detach())
SKIP_TWICE = _on_the_skip(lambda gy: gy + gy)

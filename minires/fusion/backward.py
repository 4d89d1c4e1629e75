"""Lazy tensors of the backward pass: gradients that the operation in front takes over."""

from __future__ import annotations

import operator
from typing import Any

from ..autograd import Context, Lazy, Variable, call, is_grad_enabled, no_grad
from ..device import array_module, backend_of, kernels
from ..kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, SCALE, Operand
from ..memory import allocate
from ..ops.batch_norm.sync import fill_slopes
from ..ops.conv2d.op import Conv2dGeometry
from ..ops.reduce import sum
from .forward import (
    LazyBatchNorm,
    LazyImages,
    buffer,
    lazy_of,
    operand_of,
    packed,
    packs_at_once,
    rows,
    takes,
)


class LazySum(Lazy):
    """The sum of two gradients, which a ReLU in front adds in its own pass."""

    def __init__(self, a: Any, b: Any) -> None:
        if isinstance(a._lazy, LazySum):  # of three gradients, two are added now
            a._lazy.realize()
        self.a, self.b = a, b
        super().__init__(a.shape, a.dtype, a.device, (a, b))

    def _compute(self) -> Any:
        with no_grad():
            return (self.a + self.b)._array

    def _forget(self) -> None:
        self.a = self.b = None


class LazyReLUGradient(LazyImages):
    """gy where the ReLU's output y is positive, else 0. ``batch_norm`` is the lazy batch norm that
    computed y."""

    def __init__(self, gy: Variable, y: Variable, batch_norm: LazyBatchNorm) -> None:
        meeting = lazy_of(gy)
        self.parts = (meeting.a, meeting.b) if isinstance(meeting, LazySum) else (gy,)
        self.y, self.batch_norm = y, batch_norm
        super().__init__(y.shape, y.dtype, y.device, (*self.parts, y))

    def _compute(self) -> Any:
        y = buffer(self.y)
        g = buffer(self.parts[0])
        if len(self.parts) == 2:
            g = call(operator.add, g, buffer(self.parts[1]))
        gx = allocate(y.shape, y.dtype, y)
        kernels("relu", y).relu_bwd_x(g.reshape(-1), y.reshape(-1), gx.reshape(-1))
        return gx.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.parts, self.y


class LazyBatchNormGradient(LazyImages):
    """scale * (g - share - (y - mean) * slope): batch norm's gradient for its input y; scale * g
    without ``batch``, where the statistics do not depend on y.

    If ``gated``, g counts only where the normalised y is positive.
    """

    def __init__(
        self, g: Variable, y: Variable, coefficients: Any, gated: bool, batch: bool
    ) -> None:
        self.g, self.y, self.coefficients, self.gated = g, y, coefficients, gated
        self.batch = batch
        super().__init__(y.shape, y.dtype, y.device, (g, y))

    def prologue(self) -> int:
        if self.gated:
            return GATED if self.batch else PASSED
        return GRADIENT if self.batch else NORMALISED

    def operand(self) -> Operand:
        kind = self.prologue()
        if kind == NORMALISED:
            return Operand(buffer(self.g), kind, call(_scale_alone, self.coefficients))
        return Operand(buffer(self.g), kind, self.coefficients, buffer(self.y))

    def _compute(self) -> Any:
        y = buffer(self.y)
        gx = allocate(y.shape, self.dtype, y)
        backend_of(y).write(self.operand(), gx)
        return gx.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.g, self.y


def _scale_alone(coefficients: Any) -> Any:
    """The coefficients with their scale alone: mean and shift are 0."""
    k = array_module(coefficients).zeros_like(coefficients)
    k[SCALE] = coefficients[SCALE]
    return k


def conv2d(ctx: Context, gy: Any) -> Any:
    """Read gy and x with their prologues."""
    if is_grad_enabled() or not takes(gy, "gradient"):
        return None
    needs, g = ctx.needs_grad, ctx.geometry
    x, w = ctx.saved
    gb = sum(gy, (0, 2, 3)) if needs[2] else None
    gx, gw = _conv2d_gradients(gy, x if needs[1] else None, w if needs[0] else None, g)
    return gx, gw, gb, None


def _conv2d_gradients(
    gy: Variable, x: Variable | None, w: Variable | None, geometry: Conv2dGeometry
) -> tuple[Any, Any]:
    """(gx, gw): gx if w is given, gw if x is."""
    g, gy_operand = geometry, operand_of(gy)
    gx = gw = None
    if w is not None:
        array = allocate((g.n, g.h_in, g.w_in, g.c_in), gy.dtype, gy.device)
        weights = packed(w, None) if packs_at_once(gy.device) else w._array
        kernels("conv2d", array).conv2d_bwd_input(gy_operand, weights, array, g)
        gx = Variable._wrap(array.transpose(0, 3, 1, 2))
    if x is not None:
        array = allocate((g.c_out, g.c_in // g.groups, g.k_h, g.k_w), gy.dtype, gy.device)
        kernels("conv2d", array).conv2d_bwd_weight(gy_operand, operand_of(x), array, g)
        gw = Variable._wrap(array)
    return gx, gw


def relu(ctx: Context, gy: Any) -> Any:
    """Defer the gradient where a batch norm's backward can take it."""
    if not ctx.constants or is_grad_enabled() or gy._version.escaped or not takes(gy, "gated"):
        return None
    (y,) = ctx.saved
    if y._version.escaped:
        return None
    return Variable._defer(LazyReLUGradient(gy, y, *ctx.constants))


def batch_norm(ctx: Context, gy: Any, whole: Any = None) -> Any:
    """Take a ReLU's gradient in the pass that sums, and defer the gradient of the input."""
    if is_grad_enabled() or "affine" not in vars(ctx):
        return None
    if gy._version.escaped or not takes(gy, "gradient"):
        return None
    x, _ = ctx.saved
    if x._version.escaped:
        return None
    mean, inv_std = ctx.constants
    gx, gw, gb = _batch_norm_gradients(gy, x, mean, inv_std, ctx.affine, ctx.batch, whole)
    return gx, gw, gb, None, None, None


def sync_batch_norm(ctx: Context, gy: Any) -> Any:
    """The same with the sums of all ranks in the gradient of the input."""
    return batch_norm(ctx, gy, ctx.whole)


def _batch_norm_gradients(
    gy: Variable, y: Variable, mean: Any, inv_std: Any, affine: Any, batch: bool, whole: Any
) -> tuple[Any, Any, Any]:
    """(gx, gw, gb), gx lazy; gy may be a ReLU's gradient, lazy too. ``whole``: the batch of all
    ranks, where y is a part of one."""
    x = rows(buffer(y))  # (m, c)
    c, coefficients = x.shape[1], affine.coefficients
    xp = array_module(x)
    gw, gb = xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    gated = lazy_of(gy)
    g, own_gate, options = gy, False, {}
    if isinstance(gated, LazyReLUGradient):
        g, *second = gated.parts
        own_gate = gated.batch_norm.alone and gated.batch_norm.affine is affine
        if own_gate:
            options = {"coefficients": coefficients}
        else:
            options = {"gate": rows(buffer(gated.y))}
        if second or not own_gate:  # the sum of two, or what others read too, is written
            masked = allocate(x.shape, x.dtype, x)
            options |= {"masked": masked, "second": rows(buffer(second[0])) if second else None}
    slopes = coefficients
    if batch:
        slopes = xp.empty_like(coefficients)
        options |= {"forward": coefficients, "slopes": slopes}
    kernel = kernels("batch_norm", x)
    kernel.batch_norm_bwd_affine(rows(buffer(g)), x, mean, inv_std, gw, gb, **options)
    if whole is not None:
        fill_slopes(slopes, gw, gb, inv_std, whole)
    if "masked" in options and gated is not None:
        n, _, h, w = y.shape
        found = options["masked"].reshape(n, h, w, c).transpose(0, 3, 1, 2)
        gated.realize_by(lambda: found)
        g, own_gate = gy, False
    gx = Variable._defer(LazyBatchNormGradient(g, y, slopes, own_gate, batch))
    return gx, Variable._wrap(gw), Variable._wrap(gb)

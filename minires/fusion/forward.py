"""Lazy tensors of the forward pass: convolution; batch norm with an addition and a ReLU."""

from __future__ import annotations

import functools
from typing import Any

from ..autograd import Context, Lazy, Variable, call, copied, current, is_grad_enabled, memo
from ..autograd.lazy import computing
from ..device import backend_module, backend_name, backend_of, kernels
from ..kernels.epilogue import NOTHING, Epilogue
from ..kernels.operand import KINDS, NORMALISED, POOLED, RECTIFIED, Operand
from ..kernels.packed import PackedWeights
from ..memory import allocate
from ..ops.checks import nhwc
from ..ops.conv2d.op import Conv2dGeometry
from ..ops.layout import channels_last
from ..ops.max_pool2d.op import MaxPool2dGeometry, pooled


def takes(x: Variable, kind: str) -> bool:
    """Whether the kernels that serve this tensor take something over from their neighbours: a kind
    of prologue or epilogue, one of ``minires.kernels.operand.PROLOGUES`` or
    ``minires.kernels.epilogue.EPILOGUES``; or ``POOLED``."""
    lazy = x._lazy
    if lazy is None:
        return x.dtype.kind == "f" and kind in _fuses(backend_name(x._array))
    return lazy.dtype.kind == "f" and kind in _fuses(backend_name(lazy.device))


@functools.cache
def _fuses(name: str) -> frozenset[str]:
    return backend_module(name).fuses


def lazy_of(x: Any) -> Lazy | None:
    """The lazy array of a tensor, or None if the array is there."""
    lazy: Lazy | None = x._lazy
    return None if lazy is None or lazy.array is not None else lazy


def buffer(x: Any) -> Any:
    """The contiguous (n, h, w, c) array of a tensor, computed if need be."""
    array = nhwc(x._array)
    return array if array.flags.c_contiguous else nhwc(channels_last(x)._array)


def operand_of(x: Variable) -> Any:
    """A tensor as an operand with a prologue, if it can be read so; else its array."""
    lazy = lazy_of(x)
    operand = lazy.operand() if isinstance(lazy, LazyImages) else None
    return buffer(x) if operand is None else operand


def rows(operand: Any) -> Any:
    """An (n, h, w, c) array, or an operand over one, as (m, c)."""
    if operand is None:
        return None
    if not isinstance(operand, Operand):
        return operand.reshape(-1, operand.shape[-1])
    c = operand.x.shape[-1]
    return Operand(operand.x.reshape(-1, c), operand.kind, operand.coefficients)


class LazyImages(Lazy):
    """An (n, c, h, w) tensor that is still to be computed."""

    channels_last = True

    def prologue(self) -> int | None:
        """The kind of prologue with which a kernel may read the result while nobody has written
        it; None if it cannot."""
        return None

    def operand(self) -> Operand | None:
        """The result as an operand whose prologue computes it; None if no prologue does."""
        return None


def packs_at_once(device: Any) -> bool:
    """Whether weights that are being trained are memoised, too: in a step that becomes one graph,
    which then begins with the packing of all weights, in one launch."""
    return bool(current().recording) and backend_of(device).as_one is not None


def packed(w: Variable, b: Variable | None) -> PackedWeights:
    """Memoised weights, with the forms that kernels bring them into."""

    def make() -> PackedWeights:
        return PackedWeights(w._array, None if b is None else b._array)

    found: PackedWeights = memo("packed weights", [w] if b is None else [w, b], make)
    return found


class LazyConv2d(LazyImages):
    """conv2d(x, w) + b."""

    def __init__(self, x: Variable, w: Variable, b: Variable | None, geometry: Conv2dGeometry):
        g = geometry
        reads = (x, w) if b is None else (x, w, b)
        self.x, self.w, self.b, self.geometry = x, w, b, geometry
        self.memoises = not is_grad_enabled() or packs_at_once(x.device)
        super().__init__((g.n, g.c_out, g.h_out, g.w_out), x.dtype, x.device, reads)

    def _packed(self) -> PackedWeights:
        """The weights; memoised with their packed forms while they are not being trained."""
        if not self.memoises:
            return PackedWeights(self.w._array, None if self.b is None else self.b._array)
        return packed(self.w, self.b)

    def parameters(self) -> list[Any]:
        """The weights, and the bias if there is one."""
        return [self.w] if self.b is None else [self.w, self.b]

    def _run(self, w: PackedWeights, epilogue: Epilogue) -> Any:
        g = self.geometry
        y = allocate((g.n, g.h_out, g.w_out, g.c_out), self.dtype, self.device)
        kernels("conv2d", y).conv2d_fwd(operand_of(self.x), w, y, g, epilogue)
        return y.transpose(0, 3, 1, 2)

    def _compute(self) -> Any:
        return self._run(self._packed(), NOTHING)

    def _forget(self) -> None:
        del self.x, self.w, self.b

    def realize_with_statistics(self, mean: Any, var: Any) -> bool:
        """Compute the convolution, and fill the mean and the biased variance of each channel;
        False if it was computed before."""
        epilogue = Epilogue(statistics=(mean, var))
        return self.realize_by(lambda: self._run(self._packed(), epilogue))

    def normalised(self, coefficients: Any, epilogue: Epilogue) -> Any:
        """(this - mean) * scale + shift, and the epilogue, as one convolution."""

        def make() -> PackedWeights:
            b = None if self.b is None else self.b._array
            return PackedWeights(*call(_scaled, self.w._array, b, coefficients))

        w = memo("normalised weights", self.parameters(), make, by=coefficients)
        return self._run(w, epilogue)


def _scaled(w: Any, b: Any, coefficients: Any) -> tuple[Any, Any]:
    """Weights and bias of a convolution, with the batch norm behind it."""
    mean, scale, shift = coefficients[:3]
    bias = shift - mean * scale
    if b is not None:
        bias = bias + b * scale
    return w * scale[:, None, None, None], bias


class LazyBatchNorm(LazyImages):
    """(y - mean) * scale + shift + residual, through a ReLU.

    Args:
        y: the tensor to normalise.
        affine: the scale and shift of each channel, an :class:`~minires.ops.batch_norm.op.Affine`.
        residual: a tensor of the shape of y, or None.
        rectify: whether the ReLU is there.
    """

    def __init__(
        self, y: Variable, affine: Any, residual: Variable | None = None, rectify: bool = False
    ):
        reads = (y,) if residual is None else (y, residual)
        self.y, self.affine, self.residual, self.rectify = y, affine, residual, rectify
        self.alone = residual is None
        super().__init__(*y._meta, reads)

    def plus(self, other: Variable) -> LazyBatchNorm | None:
        """This plus another tensor; None where the addition cannot be taken over."""
        if self.rectify or not self.alone or other._version.escaped:
            return None
        if not takes(other, "residual"):
            return None
        lazy = lazy_of(other)
        if isinstance(lazy, LazyBatchNorm) and not lazy.alone:
            lazy.realize()  # so that a long sum does not become as deep a recursion
        return self._extended(other)

    def rectified(self) -> LazyBatchNorm | None:
        """max(this, 0); None where the ReLU cannot be taken over."""
        return None if self.rectify else self._extended(None, rectify=True)

    def again(self) -> LazyBatchNorm | None:
        return self._extended(None, self.rectify)

    def _extended(self, residual: Variable | None, rectify: bool = False) -> LazyBatchNorm | None:
        with computing:  # another thread may look at the array at this moment
            if self.array is not None:
                return None
            residual = self.residual if residual is None else residual
            return LazyBatchNorm(self.y, self.affine, residual, rectify)

    def prologue(self) -> int | None:
        with computing:
            if not self.alone or self.array is not None or lazy_of(self.y) is not None:
                return None
            kind = RECTIFIED if self.rectify else NORMALISED
            return kind if takes(self.y, KINDS[kind]) else None

    def operand(self) -> Operand | None:
        with computing:
            kind = self.prologue()
            if kind is None:
                return None
            return Operand(buffer(self.y), kind, self.affine.coefficients)

    def _added(self) -> Any:
        """The residual as the kernel may read it: itself normalised on the way, or an array."""
        if self.residual is None:
            return None
        lazy = lazy_of(self.residual)
        operand = lazy.operand() if isinstance(lazy, LazyBatchNorm) and not lazy.rectify else None
        return buffer(self.residual) if operand is None else operand

    def _compute(self) -> Any:
        convolution = lazy_of(self.y)
        if isinstance(convolution, LazyConv2d) and not convolution.geometry.direct:
            residual = None if self.residual is None else buffer(self.residual)
            return convolution.normalised(
                self.affine.coefficients, Epilogue(residual, self.rectify)
            )
        y = buffer(self.y)
        out = allocate(y.shape, y.dtype, y)
        c = y.shape[-1]
        kernels("batch_norm", y).batch_norm_fwd(
            y.reshape(-1, c),
            *self.affine.vectors,
            out.reshape(-1, c),
            Epilogue(rows(self._added()), self.rectify),
        )
        return out.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.y, self.residual


def conv2d(ctx: Context, x: Any, w: Any, b: Any, geometry: Conv2dGeometry) -> Any:
    """Defer a convolution, for a batch norm that may follow to take over."""
    if not takes(x, "statistics"):
        return None
    before = lazy_of(x)
    if not isinstance(before, LazyImages) or before.prologue() is None:
        _ = x._array  # realized
    # Images are handed in by users, who have their arrays; a stem makes ten times as much of them,
    # and to copy them costs less than a pass over that.
    g = geometry
    small = 4 * g.n * g.c_in * g.h_in * g.w_in <= g.n * g.c_out * g.h_out * g.w_out
    read = _copied(x) if small and x._version.escaped else x
    lazy = LazyConv2d(read, _unescaped(w), None if b is None else _unescaped(b), geometry)
    if read._version.escaped:
        lazy.realize()
    if ctx.recorded:
        ctx.geometry = geometry
        needs = ctx.needs_grad
        ctx.save_tensors(x if needs[1] else None, w if needs[0] else None)
    return Variable._defer(lazy)


def _copied(x: Variable) -> Any:
    """Images in memory of their own."""
    return Variable._wrap(call(_copy, nhwc(x._array)).transpose(0, 3, 1, 2))


def _copy(array: Any) -> Any:
    copy = allocate(array.shape, array.dtype, array)
    copy[...] = array
    return copy


def _unescaped(parameter: Variable) -> Any:
    """The parameter, or a copy if its array escaped. (Many users look at weights, to draw or to
    compare them; few write there.)"""
    if parameter._version.escaped and not current().recording:
        return Variable._wrap(copied(parameter._array))
    return parameter


def batch_norm_statistics(ctx: Context, x: Any) -> Any:
    """Take mean and variance of each channel from the convolution in front, while it runs."""
    lazy = lazy_of(x)
    if not isinstance(lazy, LazyConv2d) or not takes(x, "statistics"):
        return None
    mean, var = (allocate((x.shape[1],), x.dtype, x.device) for _ in range(2))
    if not lazy.realize_with_statistics(mean, var):
        return None
    return Variable._wrap(mean), Variable._wrap(var)


def batch_norm(
    ctx: Context, x: Any, w: Any, b: Any, mean: Any, inv_std: Any, batch: bool, affine: Any = None
) -> Any:
    """Defer a normalisation, for an addition, a ReLU or a convolution to take over."""
    if affine is None or len(x.shape) != 4 or x._version.escaped or not takes(x, "normalised"):
        return None
    if ctx.recorded or not isinstance(lazy_of(x), LazyConv2d):
        _ = x._array  # the backward pass needs it; else no pass is saved by waiting
    if ctx.recorded:
        ctx.batch, ctx.affine = batch, affine
        ctx.save_tensors(x, w)
        ctx.save_constants(mean, inv_std)
    return Variable._defer(LazyBatchNorm(x, affine))


def sync_batch_norm(
    ctx: Context, x: Any, w: Any, b: Any, mean: Any, inv_std: Any, whole: Any, affine: Any = None
) -> Any:
    """The same with the statistics of all ranks."""
    y = batch_norm(ctx, x, w, b, mean, inv_std, True, affine)
    if y is not None:
        ctx.whole = whole
    return y


def relu(ctx: Context, x: Any) -> Any:
    """Let a batch norm in front rectify its result."""
    lazy = lazy_of(x)
    if not isinstance(lazy, LazyBatchNorm) or not takes(x, "relu"):
        return None
    rectified = lazy.rectified()
    if rectified is None:
        return None
    y = Variable._defer(rectified)
    if ctx.recorded:
        ctx.save_constants(rectified)
        ctx.save_lazy_output(y)
    return y


def add(ctx: Context, x: Any, y: Any) -> Any:
    """Let a batch norm in front add the other tensor to its result."""
    if getattr(x, "_lazy", None) is None and getattr(y, "_lazy", None) is None:
        return None  # most sums are not of interest, and may be small: quick
    if not (isinstance(x, Variable) and isinstance(y, Variable) and x.shape == y.shape):
        return None
    for one, other in ((x, y), (y, x)):
        lazy = lazy_of(one)
        total = lazy.plus(other) if isinstance(lazy, LazyBatchNorm) else None
        if total is not None:
            ctx.shapes = x.shape, y.shape
            return Variable._defer(total)
    return None


def max_pool2d(ctx: Context, x: Any, geometry: MaxPool2dGeometry) -> Any:
    """Read a normalised input with its prologue: behind a network's stem it is the largest array of
    all, and nobody else may want it."""
    lazy = lazy_of(x)
    if not isinstance(lazy, LazyBatchNorm) or not takes(x, POOLED):
        return None
    operand = lazy.operand()
    return None if operand is None else Variable._wrap(pooled(ctx, operand, geometry))

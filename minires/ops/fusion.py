"""Fusion: what convolution, batch norm, addition and ReLU make of each other's pending work.

``relu(bn2(conv2(relu(bn1(conv1(x))))) + x)`` is written as seven calls and runs in fewer passes
over memory. Each call returns a tensor that stands for a *note*
(:class:`~minires.autograd.Pending`), and the next call extends the note instead of computing:

==================  =================================  ============================================
note                stands for                         how it is done
==================  =================================  ============================================
Convolution         conv2d(x, w) + b                   when batch norm in training comes: at once,
                                                       with the statistics taken on the way out;
                                                       when batch norm in evaluation comes without
                                                       gradients: as one convolution with
                                                       normalised weights, add and ReLU at its end
Normalised          batch_norm(y), plus another        in one pass; or not at all, where the next
                    tensor, through a ReLU             convolution can apply it while it reads y
Gated               a ReLU's gradient                  by batch norm's backward, in the pass that
                                                       takes its two sums
NormalisedGradient  batch norm's gradient for its      by the convolution in front, while it reads
                    input
==================  =================================  ============================================

A note that nobody takes over is computed like the plain operation (``finish``). The rules for when
work may be put off at all are in :mod:`minires.autograd.pending`; ``docs/architecture.md`` tells
the story of one residual block.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Pending, Sum, Variable, computed, derived, fusing, is_grad_enabled
from ..autograd import pending as notes
from ..device import ON_CPU, backend_name, kernels
from ..kernels.numba.allocator import allocate
from ..kernels.packed import Weights
from ..tensor import Tensor
from .checks import nhwc
from .layout import channels_last

if TYPE_CHECKING:
    from ..kernels.operand import Operand
    from .conv2d.op import Conv2dGeometry


def can_fuse(x: Variable) -> bool:
    """Whether work on this tensor may be put off: a float tensor on the CPU's fast kernels."""
    if x._pending is not None:
        array, dtype = ON_CPU, x._pending.dtype
    else:
        array = x._array
        dtype = array.dtype
    return fusing() and dtype.kind == "f" and backend_name(array) == "numba"


def going_back() -> bool:
    """Whether a backward pass runs that is not itself recorded, so that it may fuse."""
    return fusing() and not is_grad_enabled()


def note_of(x: Variable) -> Any:
    """The note that a tensor stands for, or None if it is computed already."""
    note = x._pending
    return None if note is None or note.array is not None else note


def buffer(x: Variable) -> Any:
    """The contiguous (n, h, w, c) array of a tensor, computed if need be."""
    return nhwc(channels_last(x)._array)  # type: ignore[arg-type]


def source_of(x: Variable) -> Any:
    """How a kernel may read a tensor: through its note, where that works, else as an array."""
    note = note_of(x)
    source = note.source() if isinstance(note, Note) else None
    return buffer(x) if source is None else source


class Note(Pending):
    """Pending work on an (n, c, h, w) tensor. What cannot be taken over, these methods decline."""

    def source(self) -> Operand | None:
        """How a kernel may read the result while nobody has written it."""
        return None

    def finish_by(self, compute: Callable[[], Any]) -> bool:
        """Finish by ``compute`` instead, unless it was finished before; says whether it was."""
        with notes.computing:
            if self.array is not None:
                return False
            self.array = compute()
            self._forget()
        return True


class Convolution(Note):
    """conv2d(x, w) + b."""

    def __init__(self, x: Variable, w: Variable, b: Variable | None, geometry: Conv2dGeometry):
        g = geometry
        reads = (x, w) if b is None else (x, w, b)
        super().__init__((g.n, g.c_out, g.h_out, g.w_out), x.dtype, reads)
        self.x, self.w, self.b, self.geometry = x, w, b, geometry
        self.passing = not is_grad_enabled()  # the weights serve as they are again and again

    def _weights(self) -> Weights:
        """The weights; where they are not being trained, with what kernels made of them."""
        if not self.passing:
            return self._as_they_are()
        return derived(self._parameters(), "weights", self._as_they_are)

    def _as_they_are(self) -> Weights:
        return Weights(self.w._array, None if self.b is None else self.b._array)

    def _parameters(self) -> list[Any]:
        return [self.w] if self.b is None else [self.w, self.b]

    def _run(self, w: Weights, **finish: Any) -> Any:
        g = self.geometry
        y = allocate((g.n, g.h_out, g.w_out, g.c_out), self.dtype)
        kernels("conv2d", y).conv2d_fwd(source_of(self.x), w, None, y, g, **finish)
        return y.transpose(0, 3, 1, 2)

    def _compute(self, **finish: Any) -> Any:
        return self._run(self._weights(), **finish)

    def _forget(self) -> None:
        del self.x, self.w, self.b

    def finish_with_statistics(self) -> tuple[Any, Any] | None:
        """Finish, and return the mean and biased variance of each channel; None if too late."""
        mean, var = (np.empty(self.geometry.c_out, self.dtype) for _ in range(2))
        done = self.finish_by(lambda: self._compute(statistics=(mean, var)))
        return (mean, var) if done else None

    def normalised(self, coefficients: Any, residual: Any, rectify: bool) -> Any:
        """(this - mean) * scale + shift + residual, through a ReLU, as one convolution."""

        def make() -> Weights:
            b = None if self.b is None else self.b._array
            return Weights(*computed(_scaled, self.w._array, b, coefficients))

        w = derived(self._parameters(), "normalised weights", make, by=coefficients)
        return self._run(w, residual=residual, relu=rectify)


def _scaled(w: Any, b: Any, coefficients: Any) -> tuple[Any, Any]:
    """Weights and bias of a convolution, with the batch norm behind it."""
    mean, scale, shift = coefficients[:3]
    with np.errstate(all="ignore"):  # inf and nan are results
        bias = shift - mean * scale
        if b is not None:
            bias = bias + b * scale
        return w * scale[:, None, None, None], bias


class Normalised(Note):
    """(y - mean) * scale + shift + residual, through a ReLU.

    ``coefficients`` are (5, c) as in :class:`~minires.kernels.operand.Operand`; the arrays that the
    kernel wants them from (w, b, mean, inv_std) are ``affine``.
    """

    def __init__(
        self,
        y: Variable,
        coefficients: Any,
        affine: tuple[Any, Any, Any, Any],
        residual: Variable | None = None,
        rectify: bool = False,
    ):
        super().__init__(y.shape, y.dtype, (y,) if residual is None else (y, residual))
        self.y, self.coefficients, self.affine = y, coefficients, affine
        self.residual, self.rectify = residual, rectify
        self.alone = residual is None

    def plus(self, other: Variable) -> Note | None:
        if self.rectify or not self.alone or other._version.exposed or not can_fuse(other):
            return None
        note = note_of(other)
        if isinstance(note, Normalised) and not note.alone:
            note.finish()  # so that a long sum does not become as deep a recursion
        return self._extended(other)

    def rectified(self) -> Note | None:
        return None if self.rectify else self._extended(None, rectify=True)

    def again(self) -> Note | None:
        """The same once more, to be computed on its own."""
        return self._extended(None, self.rectify)

    def _extended(self, residual: Variable | None, rectify: bool = False) -> Note | None:
        with notes.computing:  # another thread may look at the array at this moment
            if self.array is not None:
                return None
            residual = self.residual if residual is None else residual
            return Normalised(self.y, self.coefficients, self.affine, residual, rectify)

    def source(self) -> Operand | None:
        with notes.computing:
            if not self.alone or self.array is not None or note_of(self.y) is not None:
                return None
            from ..kernels.operand import NORMALISED, RECTIFIED, Operand

            kind = RECTIFIED if self.rectify else NORMALISED
            return Operand(buffer(self.y), kind, self.coefficients)

    def _added(self) -> Any:
        """The residual as the kernel may read it: itself normalised on the way, or an array."""
        if self.residual is None:
            return None
        note = note_of(self.residual)
        source = note.source() if isinstance(note, Normalised) and not note.rectify else None
        return buffer(self.residual) if source is None else source

    def _compute(self) -> Any:
        convolution = note_of(self.y)
        if isinstance(convolution, Convolution) and not convolution.geometry.direct:
            residual = None if self.residual is None else buffer(self.residual)
            return convolution.normalised(self.coefficients, residual, self.rectify)
        y = buffer(self.y)
        out = allocate(y.shape, y.dtype)
        c = y.shape[-1]
        with np.errstate(all="ignore"):  # inf and nan are results
            kernels("batch_norm", y).batch_norm_fwd(
                y.reshape(-1, c), *self.affine, out.reshape(-1, c),
                residual=_rows(self._added()), relu=self.rectify,
            )  # fmt: skip
        return out.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.y, self.residual


def _rows(operand: Any) -> Any:
    """An (n, h, w, c) array, or a source of one, as (m, c)."""
    if operand is None or isinstance(operand, np.ndarray):
        return None if operand is None else operand.reshape(-1, operand.shape[-1])
    from ..kernels.operand import Operand

    c = operand.x.shape[-1]
    return Operand(operand.x.reshape(-1, c), operand.kind, operand.coefficients)


class Gated(Note):
    """A ReLU's gradient: gy where its output y is positive, else 0. ``note`` is that of y."""

    def __init__(self, gy: Variable, y: Variable, note: Normalised):
        meeting = note_of(gy)
        self.parts = (meeting.a, meeting.b) if isinstance(meeting, Sum) else (gy,)
        super().__init__(y.shape, y.dtype, (*self.parts, y))
        self.y, self.note = y, note

    def _compute(self) -> Any:
        y = buffer(self.y)
        g = buffer(self.parts[0])
        if len(self.parts) == 2:
            with np.errstate(all="ignore"):
                g = computed(operator.add, g, buffer(self.parts[1]))
        gx = allocate(y.shape, y.dtype)
        kernels("relu", y).relu_bwd_x(g.reshape(-1), y.reshape(-1), gx.reshape(-1))
        return gx.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.parts, self.y


class NormalisedGradient(Note):
    """scale * (g - share - (y - mean) * slope): batch norm's gradient for its input y; scale * g
    where the statistics were not those of the ``batch``.

    If ``gated``, g counts only where the normalised y is positive.
    """

    def __init__(self, g: Variable, y: Variable, coefficients: Any, gated: bool, batch: bool):
        super().__init__(y.shape, y.dtype, (g, y))
        self.g, self.y, self.coefficients, self.gated = g, y, coefficients, gated
        self.batch = batch

    def source(self) -> Operand:
        from ..kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, Operand

        if not self.batch and not self.gated:
            k = computed(_scale_alone, self.coefficients)
            return Operand(buffer(self.g), NORMALISED, k)
        kind = (GATED if self.batch else PASSED) if self.gated else GRADIENT
        return Operand(buffer(self.g), kind, self.coefficients, buffer(self.y))

    def _compute(self) -> Any:
        from ..kernels.numba.prologue import write

        out = allocate(buffer(self.y).shape, self.dtype)
        write(self.source(), out)
        return out.transpose(0, 3, 1, 2)

    def _forget(self) -> None:
        del self.g, self.y


def _scale_alone(coefficients: Any) -> Any:
    """Coefficients that scale as those do, around 0 and to 0."""
    k = np.zeros_like(coefficients)
    k[1] = coefficients[1]
    return k


def normalised_gradients(
    gy: Variable, y: Variable, mean: Any, inv_std: Any, coefficients: Any, batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm's gradients (gx, gw, gb), gx pending; gy may be a ReLU's gradient, pending too."""
    rows = _rows(buffer(y))
    c = rows.shape[1]
    gw, gb = np.empty(c, rows.dtype), np.empty(c, rows.dtype)
    gated = note_of(gy)
    g, own_gate, options = gy, False, {}
    if isinstance(gated, Gated):
        g, *second = gated.parts
        own_gate = gated.note.alone and gated.note.coefficients is coefficients
        if own_gate:
            options = {"coefficients": coefficients}
        else:
            options = {"gate": _rows(buffer(gated.y))}
        if second or not own_gate:  # others will want it, or a second gradient is to be added
            masked = allocate(rows.shape, rows.dtype)
            options |= {"masked": masked, "second": _rows(buffer(second[0])) if second else None}
    slopes = coefficients
    if batch:
        slopes = np.empty_like(coefficients)
        options |= {"forward": coefficients, "slopes": slopes}
    kernel = kernels("batch_norm", rows)
    kernel.batch_norm_bwd_affine(_rows(buffer(g)), rows, mean, inv_std, gw, gb, **options)
    if "masked" in options:
        n, _, h, width = y.shape
        found = options["masked"].reshape(n, h, width, c).transpose(0, 3, 1, 2)
        gated.finish_by(lambda: found)
        g, own_gate = gy, False
    gx = Variable._defer(NormalisedGradient(g, y, slopes, own_gate, batch))
    return gx, Variable._wrap(gw), Variable._wrap(gb)


def convolution_gradients(
    gy: Variable, x: Variable | None, w: Variable | None, geometry: Conv2dGeometry
) -> tuple[Tensor | None, Tensor | None]:
    """(gx, gw): gx if w is given, gw if x is. gy and x are read through their notes."""
    g, source = geometry, source_of(gy)
    dtype = gy.dtype
    gx = gw = None
    if w is not None:
        array = allocate((g.n, g.h_in, g.w_in, g.c_in), dtype)
        kernels("conv2d", array).conv2d_bwd_input(source, w._array, array, g)
        gx = Variable._wrap(array.transpose(0, 3, 1, 2))
    if x is not None:
        array = allocate((g.c_out, g.c_in // g.groups, g.k_h, g.k_w), dtype)
        kernels("conv2d", array).conv2d_bwd_weight(source, source_of(x), array, g)
        gw = Variable._wrap(array)
    return gx, gw

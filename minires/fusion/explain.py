"""What is deferred behind a tensor, and what will run when somebody looks at it.

:func:`explain` goes through lazy tensors as their ``_compute`` does, with the same questions, and
writes down instead of computing. Nothing is realized by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..autograd import Variable
from ..autograd.engine import EAGER
from ..device import Device, backend_of, kernels
from ..errors import DTypeError, message
from ..kernels.operand import KINDS
from ..kernels.work import name_of
from ..texttable import text_table
from .backward import LazyBatchNormGradient, LazyReLUGradient, LazySum
from .forward import LazyBatchNorm, LazyConv2d, lazy_of

COMPUTED, DEFERRED = "computed", "deferred"


class Step(NamedTuple):
    """An operation that is deferred, or a tensor that one reads.

    Attributes:
        what: the operation, or what the tensor is.
        shape, dtype, device: of its result.
        state: "computed" or "deferred".
        by: what it will be computed by, or was.
        runs: whether a kernel or function is called for it; else it is part of another one.
    """

    what: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    state: str
    by: str
    runs: bool = False


class Explanation:
    """What :func:`explain` found: ``rows`` in the order in which they will run, and as text."""

    def __init__(self, rows: list[Step]) -> None:
        self.rows = rows

    @property
    def deferred(self) -> list[Step]:
        """The rows of what is still to be computed."""
        return [row for row in self.rows if row.state == DEFERRED]

    def __str__(self) -> str:
        cells = [(r.what, str(r.shape), r.dtype, r.device, r.state, r.by) for r in self.rows]
        heads = ["what", "shape", "dtype", "device", "state", "by"]
        runs = sum(row.runs for row in self.rows)
        end = "Nothing is deferred: the values are there."
        if self.deferred:
            count = len(self.deferred)
            end = (
                f"{count} operation{' is' if count == 1 else 's are'} deferred, and {runs} will "
                "run when somebody looks; all others are part of these."
            )
        return f"{text_table(heads, cells, left=len(heads))}\n{end}"

    __repr__ = __str__


def explain(y: Variable) -> Explanation:
    """What is deferred behind a tensor, what has been computed, and what will run.

    For a lazy tensor the table has a row for each operation that is still to be done, with the
    kernel that will do it; or with the one that takes it over: in its *prologue*, while it reads
    its input, in its *epilogue*, before it writes its result, or in its weights. Then nothing is
    written in between. For a tensor whose values are there it says so, and what recorded it.
    Nothing is computed by asking. See docs/what_runs.md.

    Args:
        y: any tensor. Gradients may be lazy too on their way, as ``Function.backward`` and an
            engine's ``backward`` get them; those that hooks and ``.grad`` get are there.

    Raises:
        DTypeError: no tensor.

    >>> import minires as mr
    >>> y = mr.conv2d(mr.ones(1, 8, 6, 6), mr.ones(8, 8, 3, 3), padding=1)
    >>> [(row.what, row.state) for row in mr.explain(y).rows]
    [('input', 'computed'), ('weights', 'deferred'), ('conv2d', 'deferred')]
    """
    if not isinstance(y, Variable):
        fix = "Pass what an operation returned."
        raise DTypeError(message("explain", "a tensor", type(y).__name__, fix=fix))
    walk = _Walk()
    walk.array(y, "tensor")
    return Explanation(walk.rows)


class _NotKept(Exception):
    """A memoised value is asked for that is not there."""


def _kept(key: str, convolution: LazyConv2d, by: Any = None) -> bool:
    """Whether a convolution's weights in this form are there from an earlier call."""

    def make() -> Any:
        raise _NotKept

    try:
        EAGER.memo(key, convolution.parameters(), make, by)
    except _NotKept:
        return False
    return True


class _Walk:
    """The rows, in the order in which they would run."""

    def __init__(self) -> None:
        self.rows: list[Step] = []
        self._seen: set[int] = set()  # tensors and lazy arrays that have their rows

    def add(self, what: str, of: Any, by: str, runs: bool = False) -> None:
        """A deferred operation, whose result is like ``of``."""
        self.rows.append(Step(what, of.shape, str(of.dtype), str(of.device), DEFERRED, by, runs))

    def array(self, tensor: Any, name: str) -> None:
        """A tensor that is to be there in memory."""
        lazy = lazy_of(tensor)
        if self._is_new(tensor if lazy is None else lazy):
            if lazy is None:
                self._computed(tensor, name)
            else:
                _RUNS[type(lazy)](self, lazy)

    def operand(self, tensor: Any, name: str, reader: str, kinds: tuple[str, ...] = KINDS) -> None:
        """A tensor that ``reader`` reads, with a prologue of these kinds where that works."""
        lazy = lazy_of(tensor)
        if isinstance(lazy, LazyBatchNorm):
            kind = lazy.prologue()
            if kind is not None and KINDS[kind] in kinds:
                if self._is_new(lazy):
                    _read_batch_norm(self, lazy, f"prologue {KINDS[kind]!r} of {reader}")
                return
        self.array(tensor, name)

    def _is_new(self, thing: Any) -> bool:
        new = id(thing) not in self._seen
        self._seen.add(id(thing))
        return new

    def _computed(self, tensor: Any, name: str) -> None:
        node = tensor.grad_fn
        by = "" if node is None else f"recorded by {node!r}"
        facts = tensor.shape, str(tensor.dtype), str(tensor.device)
        self.rows.append(Step(name, *facts, COMPUTED, by))


def _kernel(op: str, function: str, device: Device) -> str:
    """A kernel function that serves a device, as ``conv2d_fwd of conv2d.kernel_numba``."""
    return f"{function} of {op}.{kernels(op, device).__name__.rpartition('.')[2]}"


def _convolution(lazy: LazyConv2d) -> str:
    way = kernels("conv2d", lazy.device).conv2d_way(lazy.geometry, lazy.dtype)
    return f"{_kernel('conv2d', 'conv2d_fwd', lazy.device)} ({way})"


def _weights(walk: _Walk, lazy: LazyConv2d, key: str, by: Any = None) -> None:
    """The row of a convolution's weights in the form that its kernel wants."""
    normalised = by is not None
    what = "weights, times the batch norm's scale" if normalised else "weights"
    if not normalised and not lazy.memoises:
        walk.add(what, lazy.w, "packed at each call, for they are being trained", runs=True)
    elif _kept(key, lazy, by):
        facts = lazy.w.shape, str(lazy.w.dtype), str(lazy.w.device)
        walk.rows.append(Step(what, *facts, COMPUTED, "kept until they are written"))
    else:
        walk.add(what, lazy.w, "packed, and then kept until they are written", runs=True)


def _conv2d(walk: _Walk, lazy: LazyConv2d) -> None:
    walk.operand(lazy.x, "input", "conv2d")
    _weights(walk, lazy, "packed weights")
    walk.add("conv2d", lazy, _convolution(lazy), runs=True)


def _batch_norm(walk: _Walk, lazy: LazyBatchNorm) -> None:
    convolution = lazy_of(lazy.y)
    if isinstance(convolution, LazyConv2d) and not convolution.geometry.direct:
        walk.operand(convolution.x, "input", "conv2d")
        if lazy.residual is not None:
            walk.array(lazy.residual, "residual")
        _weights(walk, convolution, "normalised weights", lazy.affine.coefficients)
        walk.add("conv2d", convolution, _convolution(convolution), runs=True)
        walk.add("batch_norm", lazy, "weights of conv2d")
        reader = "conv2d"
    else:
        walk.array(lazy.y, "input of batch_norm")
        if lazy.residual is not None:
            walk.operand(lazy.residual, "residual", "batch_norm", kinds=("normalised",))
        kernel = _kernel("batch_norm", "batch_norm_fwd", lazy.device)
        walk.add("batch_norm", lazy, kernel, runs=True)
        reader = "batch_norm"
    if lazy.residual is not None:
        walk.add("add", lazy, f"epilogue 'residual' of {reader}")
    if lazy.rectify:
        walk.add("relu", lazy, f"epilogue 'relu' of {reader}")


def _read_batch_norm(walk: _Walk, lazy: LazyBatchNorm, by: str) -> None:
    walk.array(lazy.y, "input of batch_norm")
    for what in ("batch_norm", "relu")[: 1 + lazy.rectify]:
        walk.add(what, lazy, by)


def _sum(walk: _Walk, lazy: LazySum) -> None:
    walk.array(lazy.a, "gradient")
    walk.array(lazy.b, "another gradient")
    walk.add("sum of gradients", lazy, "add", runs=True)


def _relu_gradient(walk: _Walk, lazy: LazyReLUGradient) -> None:
    for gradient in lazy.parts:
        walk.array(gradient, "gradient")
    walk.array(lazy.y, "output of relu")
    if len(lazy.parts) == 2:
        walk.add("sum of gradients", lazy, "add", runs=True)
    walk.add("relu's gradient", lazy, _kernel("relu", "relu_bwd_x", lazy.device), runs=True)


def _batch_norm_gradient(walk: _Walk, lazy: LazyBatchNormGradient) -> None:
    walk.array(lazy.g, "gradient")
    walk.array(lazy.y, "input of batch_norm")
    by = f"{name_of(backend_of(lazy.device).write)}, prologue {KINDS[lazy.prologue()]!r}"
    if lazy.gated:
        walk.add("relu's gradient", lazy, by)
    walk.add("batch_norm's gradient", lazy, by, runs=True)


_RUNS: dict[type, Callable[[_Walk, Any], None]] = {
    LazyConv2d: _conv2d,
    LazyBatchNorm: _batch_norm,
    LazySum: _sum,
    LazyReLUGradient: _relu_gradient,
    LazyBatchNormGradient: _batch_norm_gradient,
}

"""Gradients, added up over all ranks in buckets.

An all-reduce of each gradient by itself would cost a round of messages for each, most of them tiny.
So gradients are packed into *buckets*, a few megabytes each, the last layers first, since a
backward pass makes their gradients first. (PyTorch's DistributedDataParallel does the same: Li et
al., 2020, arXiv:2006.15704.)

On CPUs the buckets go one after another once the backward pass is over. MPI only moves data inside
of its calls: an all-reduce that is started earlier does not run beside the backward pass, it takes
the time from it. On GPUs a bucket starts as soon as its last gradient is final, if somebody listens
(:meth:`Reducer.overlapped`), and runs beside the rest of the pass; else all of them start together.

A gradient of None counts as zero; if it is None on all ranks it stays None, so that an optimiser
skips the parameter as it would in one process. For this, each bucket ends with a number for each
parameter: 1 where this rank has a gradient, and the sums say how many have one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from minires import arguments
from minires.autograd import Variable, current
from minires.device import CPU, Device, array_module, beside, move, writeable, zeros_on
from minires.distributed.group import Group, current_group
from minires.distributed.nccl import Communicator, carrier, communicator
from minires.errors import ArgumentError, CaptureError, message, quoted

MEGABYTE = 1 << 20

P = ParamSpec("P")
T = TypeVar("T")


class Reducer:
    """Adds up gradients over all ranks, in place.

    Args:
        parameters: the leaves whose ``.grad`` is added up; the same on all ranks, in one order.
            Those that will never have a gradient are better left out: they would be sent as zeros.
        bucket_cap_mb: bytes of a bucket, in units of 2^20; a larger parameter has a bucket alone.

    Raises:
        ArgumentError: something that is no leaf tensor of floats among the parameters, no size.
    """

    def __init__(self, parameters: Iterable[Variable], bucket_cap_mb: float = 8.0) -> None:
        self.parameters = [*arguments.iterator("Reducer", "parameters", parameters)]
        for p in self.parameters:
            if not isinstance(p, Variable) or not p.is_leaf or p.dtype.kind != "f":
                expected = "leaf tensors of floats as parameters"
                raise ArgumentError(message("Reducer", expected, quoted(p)))
        cap = arguments.number("Reducer", "bucket_cap_mb", bucket_cap_mb, above=0, most=1e9)
        self._cap = int(cap * MEGABYTE)
        self._metas: list[Any] = []
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[int, _Bucket] = {}

    def reduce(self, average: bool = False) -> None:
        """Put the sum of each gradient into ``.grad``, with the same bits on all ranks.

        Collective. The memory of a gradient that is there stays the same, since a captured update
        reads it. Nothing happens in a group of one.

        Args:
            average: divide the sums by the number of ranks.

        Raises:
            CaptureError: inside :func:`minires.capture`.
            DistributedError: a rank has ended; or has other parameters.
        """
        group = current_group()
        if group.size == 1:
            return
        if current().recording:
            expected = "gradients to be added up outside of a captured function"
            fix = "fit(capture=True) captures what is before the reduction and what is after it."
            raise CaptureError(message("distributed", expected, "a reduction inside", fix=fix))
        self._plan()
        for bucket in self._buckets:
            if bucket.running is None:
                bucket.pack([p._grad for p in bucket.parameters])
                bucket.start(group)
        for bucket in self._buckets:
            bucket.finish(group, group.size if average else 1)

    def ready(self, p: Variable, gradient: Variable) -> None:
        """Note that a backward pass adds no more than this to a parameter's gradient: a bucket of
        a GPU starts when it has all of its own. On CPUs nothing happens.

        Buckets start in their order, which is that of all ranks. :meth:`reduce` has to follow, when
        the pass is over.
        """
        group = current_group()
        if group.size == 1 or p.device == CPU:
            return
        self._plan()
        self._bucket_of[id(p)].ready[id(p)] = gradient
        for bucket in self._buckets:
            if bucket.running is None:
                if len(bucket.ready) < len(bucket.parameters):
                    return
                bucket.pack_ready()
                bucket.start(group)

    def begin(self) -> None:
        """Forget what a backward pass before left, which failed: all ranks begin anew."""
        for bucket in self._buckets:
            if bucket.running is not None:  # its memory is in use until then
                communicator(current_group()).wait(bucket.running)
            bucket.running = None
            bucket.ready.clear()

    def overlapped(self, learn: Callable[P, T]) -> Callable[P, T]:
        """``learn``, which goes back once, with buckets of GPUs that start while it does."""

        @functools.wraps(learn)
        def listening(*args: P.args, **options: P.kwargs) -> T:
            self.begin()
            with contextlib.ExitStack() as hooks:
                for p in self.parameters:
                    if p.device != CPU and p.requires_grad:
                        hook = functools.partial(self.ready, p)
                        hooks.enter_context(p.register_final_hook(hook))
                return learn(*args, **options)

        return listening

    def _plan(self) -> None:
        """Make the buckets; anew if parameters have gone to another device or dtype."""
        metas = [p._meta for p in self.parameters]
        if metas == self._metas:
            return
        kinds: dict[Any, list[list[Variable]]] = {}
        sizes: dict[Any, int] = {}
        for p, (shape, dtype, device) in [*zip(self.parameters, metas)][::-1]:
            kind = device, dtype
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if kind not in kinds or sizes[kind] + nbytes > self._cap:
                kinds.setdefault(kind, []).append([])
                sizes[kind] = 0
            kinds[kind][-1].append(p)
            sizes[kind] += nbytes
        self._buckets = [
            _Bucket(parameters, *kind) for kind, several in kinds.items() for parameters in several
        ]
        self._bucket_of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        self._metas = metas


class _Bucket:
    """Parameters of one dtype on one device, and memory for their gradients in one piece.

    Attributes:
        parameters: as they lie in the memory.
        flat: the gradients one after another, then for each a number, how many ranks have it.
        ready: by the ids of parameters, what a pass that goes on adds to their gradients.
        running: what the all-reduce was started as; None if it was not.
    """

    def __init__(self, parameters: Sequence[Variable], device: Device, dtype: Any) -> None:
        self.parameters = parameters
        shapes = [p.shape for p in parameters]
        ends = np.cumsum([np.prod(shape, dtype=np.int64) for shape in shapes])
        self._size = int(ends[-1])
        self.flat = zeros_on(device, (self._size + len(parameters),), dtype)
        starts = [0, *ends[:-1]]
        self._views = [self.flat[i:j].reshape(s) for i, j, s in zip(starts, ends, shapes)]
        self._present: list[bool] = []
        self.ready: dict[int, Variable] = {}
        self.running: Any = None

    def pack(self, gradients: Sequence[Variable | None]) -> None:
        """Copy the gradients of this rank into the memory."""
        with beside((self.flat,)):
            for view, gradient in zip(self._views, gradients):
                view[...] = 0 if gradient is None else gradient._array
            self._present = [gradient is not None for gradient in gradients]
            if all(self._present):
                self.flat[self._size :] = 1
            else:
                here = np.array(self._present, self.flat.dtype)
                self.flat[self._size :] = array_module(self.flat).asarray(here)

    def pack_ready(self) -> None:
        """Copy what ``.grad`` will be when the pass is over."""
        self.pack([self.ready[id(p)] for p in self.parameters])
        with beside((self.flat,)):
            for view, p in zip(self._views, self.parameters):
                if p._grad is not None:
                    view += p._grad._array

    def start(self, group: Group) -> None:
        """Add up over all ranks; on a GPU the host goes on at once."""
        carries = carrier(group, self.flat)
        if isinstance(carries, Communicator):
            self.running = carries.start_reduce(self.flat)
        else:
            carries.reduce(self.flat)

    def finish(self, group: Group, divisor: int) -> None:
        """Copy the sums, divided, into ``.grad``. Gradients that no rank has stay None; only where
        one is missing here has the host to look at what came."""
        if self.running is not None:
            communicator(group).wait(self.running)
            self.running = None
            self.ready.clear()
        counts: Any = np.ones(len(self.parameters))
        if not all(self._present):
            counts = move(self.flat[self._size :], CPU)
        with beside((self.flat,)), np.errstate(all="ignore"):
            if divisor > 1:
                self.flat[: self._size] /= divisor
            for p, total, count in zip(self.parameters, self._views, counts):
                if count:
                    _set_gradient(p, total)


def _set_gradient(p: Variable, total: Any) -> None:
    """Write ``total`` into the memory of a gradient, or into new memory if there is none, if it is
    read-only, or if it has a history, which is not that of the sum."""
    gradient = p._grad
    if gradient is None or gradient.requires_grad or not writeable(gradient._array):
        p._grad = Variable._wrap(total.copy())
        return
    gradient._to_write("reduce", "a gradient")[...] = total
    gradient.bump_version()

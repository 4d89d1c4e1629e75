"""Functions: operations with a derivative, and what one application remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..device import ON_CPU, array_module, backend_name, memory
from ..errors import GraphError, NaNError
from .modes import _anomaly, _grad_mode
from .observe import _observer
from .pending import Pending
from .place import Place, caller, show_place
from .recording import Recording, as_arrays
from .recording import here as _here
from .tape import Node, Version, meta
from .variable import Variable


class Context:
    """What one application of a Function remembers for its backward.

    ``needs_grad[i]`` says whether argument ``i`` wants a gradient. :meth:`save` keeps inputs and
    outputs, which come back from :attr:`saved` as tensors; :meth:`save_constants` keeps arrays
    that are not differentiated (masks, indices). Both are released after the backward pass; small
    facts such as a shape or a geometry are plain attributes and stay.
    """

    # what most of them never set
    released: Place | None = None
    _requested: tuple[Any, ...] = ()
    _constants: tuple[Any, ...] = ()
    _node: Node | None = None

    def __init__(self, needs_grad: tuple[bool, ...]):
        self.needs_grad = needs_grad
        self._saved: list[tuple[Any, ...]] = []

    if TYPE_CHECKING:  # small facts are attributes of any name

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def save(self, *arrays: Any) -> None:
        """Keep these inputs or outputs of forward (the very arrays, or None)."""
        self._requested = arrays

    def save_constants(self, *arrays: Any) -> None:
        """Keep arrays through which no gradient flows."""
        self._constants = arrays

    def _bind(
        self,
        args: Sequence[Any],
        arrays: Sequence[Any],
        results: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Find which input or output each saved array is, and note its version."""
        for array in self._requested:
            if array is None:
                self._saved.append(("none",))
                continue
            for arg, candidate in zip(args, arrays):
                if candidate is array and isinstance(arg, Variable):
                    self._saved.append(("input", arg, arg._version.count))
                    break
            else:
                for index, (out, made) in enumerate(zip(outputs, results)):
                    if made is array:
                        # the tensor itself would make a cycle with its node; its parts do not
                        version = out._version
                        self._saved.append(("output", out._array, version, version.count, index))
                        break
                else:
                    raise GraphError(
                        "Context.save takes inputs and outputs of forward; keep other arrays "
                        "with save_constants"
                    )
        self._requested = ()

    def keep(self, *variables: Variable | None) -> None:
        """Like :meth:`save`, for operations that are put off: keep these arguments (or None)."""
        for variable in variables:
            if variable is None:
                self._saved.append(("none",))
            else:
                self._saved.append(("input", variable, variable._version.count))

    @property
    def saved(self) -> tuple[Any, ...]:
        """The saved inputs and outputs, as tensors that know where they came from.

        Raises:
            GraphError: one of them was changed in place since; names both lines.
        """
        assert self._node is not None
        result: list[Any] = []
        for kind, *rest in self._saved:
            if kind == "none":
                result.append(None)
            elif kind == "input":
                variable, count = rest
                self._check(variable._version, count, variable.shape)
                result.append(variable)
            else:
                array, version, count, index = rest
                self._check(version, count, array.shape)
                deferred = isinstance(array, Pending)
                variable = Variable._defer(array) if deferred else Variable._wrap(array)
                variable._version = version
                variable._set_node(self._node, index)
                result.append(variable)
        return tuple(result)

    @property
    def constants(self) -> tuple[Any, ...]:
        return self._constants

    def _check(self, version: Version, count: int, shape: tuple[int, ...]) -> None:
        if version.count != count:
            node = self._node
            assert node is not None
            raise GraphError(
                f"{node.function.__name__} saved a tensor of shape {shape} (version {count}) at "
                f"{show_place(node.place)}; it was changed in place at "
                f"{show_place(version.place)} (version {version.count}). "
                "Use an out-of-place operation there, such as y = y + x."
            )

    def _keep_old(self, variable: Variable) -> None:
        """Keep a copy of a saved input that is about to be overwritten by this very result."""
        for position, (kind, *rest) in enumerate(self._saved):
            if kind == "input" and rest[0] is variable:
                if variable._pending is None:
                    old = Variable._wrap(variable._array.copy())
                else:
                    old = Variable._defer(variable._pending)
                old._node, old._index = variable._node, variable._index
                old._requires_grad = variable._requires_grad
                self._saved[position] = ("input", old, 0)

    def kept(self) -> list[Any]:
        """Every array that is kept for the backward pass, as far as it exists yet."""
        arrays = [array for array in self._constants if hasattr(array, "dtype")]
        for item in self._saved:
            thing = item[1] if item[1:] else None
            if isinstance(thing, Variable):
                thing = thing._pending or thing._array
            if isinstance(thing, Pending):
                thing = thing.array
            if thing is not None:
                arrays.append(thing)
        return arrays

    def release(self, place: Place) -> None:
        if self._saved or self._constants:
            self._saved, self._constants, self.released = [], (), place


class Function:
    """An operation with a derivative.

    Subclasses define two static methods: ``forward(ctx, *arrays, **options)``, which computes on
    arrays and returns an array or a tuple of arrays, and ``backward(ctx, *gys)``, which gets and
    returns tensors, one per positional argument of forward (None where there is no gradient).
    """

    view: ClassVar[bool] = False  # forward returns a view of its first argument where it can
    # forward is analytic on complex arrays (on the reference kernels), and makes every choice by
    # the real part: gradients can then be checked by a complex step, to the last digits
    complex_safe: ClassVar[bool] = False
    # forward computes by kernels and `computed` alone, which a recording sees one by one; any other
    # is repeated as a whole, in memory that it gets anew
    launches: ClassVar[bool] = False

    @staticmethod
    def forward(ctx: Context, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gys: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> Any:
        """Run forward, and record it if a gradient may be wanted."""
        arrays, needs = [], []
        for a in args:
            if isinstance(a, Variable):
                arrays.append(a._array)
                needs.append(a._requires_grad if a._view is None else a.requires_grad)
            else:
                arrays.append(a)
                needs.append(False)
        record = True in needs and _grad_mode.get().value
        observer = _observer.get().value
        if observer is not None:
            arrays = observer.enter(cls, arrays)
        for name, option in options.items():
            if isinstance(option, Variable):  # no gradient could ever reach it
                raise GraphError(
                    f"{cls.__name__}: expected tensors as positional arguments, got one as {name}="
                )
        ctx = Context(tuple(needs) if record else (False,) * len(needs))
        if _here.recording is not None and not (cls.launches and backend_name(ON_CPU) == "numba"):
            result = cls._recorded(_here.recording, ctx, arrays, options)
        elif cls.view:  # computes nothing
            result = cls.forward(ctx, *arrays, **options)
        else:
            with np.errstate(all="ignore"):  # inf and nan are results, as in IEEE
                result = cls.forward(ctx, *arrays, **options)
        many = isinstance(result, tuple)
        results = list(result) if many else [result]
        outputs = []
        for array in results:
            out = Variable._wrap(array)
            outputs.append(out)
            for a in arrays if not cls.view else ():
                if a is out._array:
                    out._array = a.copy()  # an input handed through is no memory of its own
        if _anomaly.get().value:
            _check_forward(cls, arrays, outputs)
        if cls.view and memory(outputs[0]._array) is memory(args[0]._array):
            outputs[0]._become_view(args[0], (cls, args[1:], options))
        if record:
            cls._record(ctx, args, arrays, results, outputs)
        if observer is not None:
            observer.leave(cls, args, options, outputs)
        return tuple(outputs) if many else outputs[0]

    @classmethod
    def _recorded(
        cls, recording: Recording, ctx: Context, arrays: list[Any], options: dict[str, Any]
    ) -> Any:
        """Forward as a step of a recording, which keeps what backward needs up to date too."""
        if cls.view:
            result = cls.forward(ctx, *arrays, **options)
            if memory(result) is memory(arrays[0]):
                return result
        contexts = [ctx]

        def forward(*arrays: Any) -> tuple[Any, ...]:
            context = contexts.pop() if contexts else Context(ctx.needs_grad)
            with np.errstate(all="ignore"):
                result = cls.forward(context, *arrays, **options)
            if context is ctx and ctx._requested:
                # NumPy reductions return scalars, and recordings keep arrays: so is what is saved
                before, result = result, as_arrays(result)
                pairs = zip(before, result) if isinstance(result, tuple) else [(before, result)]
                found = {id(old): new for old, new in pairs}
                ctx._requested = tuple(found.get(id(a), a) for a in ctx._requested)
            return result, context._constants

        return recording.compute(forward, *arrays)[0]

    @classmethod
    def _record(
        cls,
        ctx: Context,
        args: Sequence[Any],
        arrays: Sequence[Any],
        results: Sequence[Any],
        outputs: Sequence[Variable],
    ) -> None:
        edges: list[Any] = []
        metas: list[Any] = []
        for a, need in zip(args, ctx.needs_grad):
            edges.append(a._edge() if need else None)
            metas.append(meta(a) if need else None)
        node = Node(cls, ctx, edges, metas)
        for index, out in enumerate(outputs):
            made = meta(out)
            node.outputs.append(made)
            if made[1].kind in "fc":
                out._set_node(node, index)
        if ctx._requested:
            ctx._bind(args, arrays, results, outputs)

    @classmethod
    def context(cls, *args: Any) -> Context:
        """The context of an application to these arguments that is to be put off."""
        if not _grad_mode.get().value:
            return Context((False,) * len(args))
        return Context(tuple([isinstance(a, Variable) and a.requires_grad for a in args]))

    @classmethod
    def defer(cls, ctx: Context, args: Sequence[Any], pending: Pending, keep: bool = False) -> Any:
        """A tensor that stands for pending work, recorded as this function's result of ``args``.

        With ``keep``, the result is what the backward pass will look at.
        """
        output = Variable._defer(pending)
        if any(ctx.needs_grad):
            cls._record(ctx, args, (), (), [output])
            if keep:
                ctx._saved.append(("output", pending, output._version, output._version.count, 0))
        return output

    @classmethod
    def record(cls, ctx: Context, args: Sequence[Any], array: Any) -> Any:
        """A tensor on ``array``, recorded as this function's result of ``args``: for writes in
        place, which have no forward of their own."""
        output = Variable._wrap(array)
        cls._record(ctx, args, (), (), [output])
        return output


def has_nan(array: Any) -> bool:
    return array.dtype.kind in "fc" and bool(array_module(array).isnan(array).any())


def _check_forward(cls: type, arrays: Sequence[Any], outputs: Sequence[Variable]) -> None:
    if any(has_nan(out._array) for out in outputs) and not any(
        hasattr(a, "dtype") and has_nan(a) for a in arrays
    ):
        raise NaNError(
            f"{cls.__name__} made the first NaN of the forward pass at {show_place(caller())}: "
            "its inputs had none."
        )

"""Functions: operations with a derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ..device import Gpus, beside
from ..errors import GraphError
from .context import Context
from .engine import _engine
from .modes import _grad_mode
from .tape import Node
from .variable import Variable


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
    # all that forward computes it launches, by kernels and `call`, which a recorder sees one by
    # one; any other forward is repeated as a whole, in memory that it gets anew
    launches: ClassVar[bool] = False

    # results are taken as constants: nothing is recorded
    constant: ClassVar[bool] = False

    @staticmethod
    def forward(ctx: Context, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gys: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> Any:
        """Compute the outputs, and record them if a gradient may be wanted."""
        # Small tensors take as long as these lines: they are to be quick.
        if options:
            cls._refuse_tensors(options)
        ctx = Context((False,) * len(args), False)
        if _grad_mode.get().value and not cls.constant:
            needs = [
                isinstance(a, Variable) and (a.requires_grad if a._view else a._requires_grad)
                for a in args
            ]
            if True in needs:
                ctx.needs_grad, ctx.recorded = tuple(needs), True
        if Gpus.several:
            with beside(args):
                outputs = _engine.get().value.forward(cls, ctx, args, options)
        else:
            outputs = _engine.get().value.forward(cls, ctx, args, options)
        if ctx.recorded:
            cls.record(ctx, args, outputs)
        return outputs

    @classmethod
    def _refuse_tensors(cls, options: dict[str, Any]) -> None:
        for name, option in options.items():
            if isinstance(option, Variable):  # no gradient could ever reach it
                raise GraphError(
                    f"{cls.__name__}: expected tensors as positional arguments, got one as {name}="
                )

    @classmethod
    def record(cls, ctx: Context, args: Sequence[Any], outputs: Any) -> None:
        """Put a node for this application on the tape, and the outputs behind it."""
        edges, metas = [], []
        for a, need in zip(args, ctx.needs_grad):
            edges.append(a._edge() if need else None)
            metas.append(a._meta if need else None)
        node = Node(cls, ctx, edges, metas)
        for index, out in enumerate(outputs if type(outputs) is tuple else (outputs,)):
            made = out._meta
            node.outputs.append(made)
            if made[1].kind in "fc":
                out._set_node(node, index)

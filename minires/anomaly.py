"""The search for NaN: stop at the first operation that makes one, forward or backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .autograd.context import Context
from .autograd.engine import Around, around, without
from .autograd.place import caller, show_place
from .autograd.tape import Node
from .autograd.variable import Variable
from .device import array_module
from .errors import NaNError


def detect_anomaly(function: Any = None) -> Any:
    """Stop at the first operation that makes a NaN, forward or backward, and name its line.

    A context manager and a decorator, as all modes are.

    Raises:
        NaNError: when an operation without a NaN among its inputs makes one.
    """
    mode = around("detect_anomaly", lambda engine: NaNGuard(engine.plain()))
    return mode if function is None else mode(function)


class NaNGuard(Around):
    """An engine that looks at every result."""

    watching = True

    def run(
        self,
        function: Any,
        ctx: Context,
        args: tuple[Any, ...],
        arrays: list[Any],
        options: dict[str, Any],
    ) -> Any:
        outputs = self.inner.run(function, ctx, args, arrays, options)
        made = outputs if type(outputs) is tuple else (outputs,)
        if any(_has_nan(out._array) for out in made) and not any(map(_has_nan, arrays)):
            raise NaNError(
                f"{function.__name__} made the first NaN of the forward pass at "
                f"{show_place(caller())}: its inputs had none."
            )
        return outputs

    def backward(self, node: Node, gys: Sequence[Variable]) -> Any:
        # this node is to be named, not its parts
        with around("backward", lambda engine: without(engine, NaNGuard)):
            result = self.inner.backward(node, gys)
        if any(_has_nan(gy._array) for gy in gys):
            return result
        for index, gx in enumerate(result if isinstance(result, tuple) else (result,)):
            if isinstance(gx, Variable) and _has_nan(gx._array):
                raise NaNError(
                    f"{node.function.__name__}, called at {show_place(node.place)}, made the "
                    f"first NaN of the backward pass, in the gradient of argument {index}."
                )
        return result


def _has_nan(array: Any) -> bool:
    if not hasattr(array, "dtype") or array.dtype.kind not in "fc":
        return False
    return bool(array_module(array).isnan(array).any())

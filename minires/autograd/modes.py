"""The modes of automatic differentiation: recording on or off, and precise sums.

All of them are context managers and decorators, with or without parentheses, of functions,
generator functions, coroutine functions and asynchronous generators; see :mod:`minires.mode`.
"""

from __future__ import annotations

from typing import Any

from ..arguments import flag
from ..mode import Mode, setting, state

_grad_mode = setting("grad", True)
_precise = setting("precise", False)


def no_grad(function: Any = None) -> Any:
    """Record nothing: results inside do not require gradients.

    >>> import minires as mr
    >>> @mr.no_grad()
    ... def predictions(network, batches):
    ...     for x in batches:
    ...         yield network(x)
    """
    mode = Mode("no_grad", _grad_mode, False)
    return mode if function is None else mode(function)


def enable_grad(function: Any = None) -> Any:
    """Record again, inside :func:`no_grad`."""
    mode = Mode("enable_grad", _grad_mode, True)
    return mode if function is None else mode(function)


def inference_mode(mode: Any = True) -> Any:
    """:func:`no_grad`, under PyTorch's name for evaluation; ``inference_mode(False)`` is
    :func:`enable_grad`. ``mode`` may be the function to decorate."""
    if callable(mode):
        return Mode("inference_mode", _grad_mode, False)(mode)
    return Mode("inference_mode", _grad_mode, not flag("inference_mode", "mode", mode))


class set_grad_enabled(Mode):
    """Record or not, by a flag: from this line on, or inside ``with`` or a decorated function only.

    As a statement it holds until the block of the mode around it, or the decorated function that
    contains it, is left.

    Args:
        mode: whether to record.
    """

    def __init__(self, mode: bool) -> None:
        super().__init__("set_grad_enabled", _grad_mode, flag("set_grad_enabled", "mode", mode))
        self._before = _grad_mode.get()
        self._statement = state(_grad_mode, self._value)

    def _take_back(self) -> None:
        """Undo what the constructor set: the object is used as a context manager or decorator."""
        if _grad_mode.get() is self._statement:
            _grad_mode.set(self._before)
        elif not self._statement.over:  # other modes were entered since
            self._statement.end()

    def __enter__(self) -> None:
        self._take_back()
        super().__enter__()

    def __call__(self, function: Any) -> Any:
        self._take_back()
        return super().__call__(function)


def precise(function: Any = None) -> Any:
    """Compute each convolution as the sum that defines it, and each batch norm by itself.

    By default, 3x3 convolutions of stride 1 in float32 go by Winograd's formula, which needs a
    quarter of the multiplications: rounding errors are some ten times as large, they reach
    neighbouring outputs, and so do NaN and infinity (Lavin and Gray, 2015, arXiv:1509.09308). In
    evaluation, batch norm is multiplied into the weights of the convolution in front. Neither
    happens inside this mode, nor in the backward pass of operations that were recorded inside,
    whenever that pass runs. docs/kernels.md says when to use the mode, and its cost.

    >>> import minires as mr
    >>> with mr.precise():
    ...     y = mr.conv2d(mr.ones(1, 16, 32, 32), mr.ones(16, 16, 3, 3), padding=1)
    """
    mode = Mode("precise", _precise, True)
    return mode if function is None else mode(function)


def is_precise() -> bool:
    """Whether :func:`precise` holds in this thread."""
    return bool(_precise.get().value)


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return bool(_grad_mode.get().value)

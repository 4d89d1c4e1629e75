"""Comparisons, whole quotients and signs: functions of single entries without a derivative.

Their results step from one value to the next as their arguments move. Each step is a kink in
whatever is computed from the result: the functions report their choices with ``switch``.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..arguments import number
from ..autograd import Variable, call, current, switch
from ..device import array_module, as_array
from ..errors import ArgumentError, DTypeError, message
from ..tensor import Tensor, tensor_method
from .checks import binary_operands, comparable, given, numbers, ordered, plain

_KINDS = (Variable, np.ndarray, np.generic, bool, int, float)  # and arrays of CuPy


def _comparison(symbol: str, function: Any) -> Any:
    def compare(x: Any, y: Any) -> Any:
        if not isinstance(y, _KINDS) and not hasattr(y, "__cuda_array_interface__"):
            return NotImplemented
        many = isinstance(y, Variable) or getattr(y, "ndim", 0) > 0
        number = None if many else plain(symbol, y)
        if type(number) is float and x._array.dtype.kind in "iub":
            a, b = x, number  # comparing loses nothing, so an integer may meet a float
        else:
            a, b = binary_operands(symbol, x, y)
        if symbol not in ("==", "!="):
            comparable(symbol, x)
        left, right = (v._array if isinstance(v, Variable) else v for v in (a, b))
        result = call(function, ordered(left), ordered(right))
        if x._array.dtype.kind in "fc":
            switch(symbol, lambda: result)
        output = Tensor(result)
        current().compared(function, (a, b), output)
        return output

    return compare


for _dunder, _symbol, _ufunc in (
    ("__lt__", "<", operator.lt),
    ("__le__", "<=", operator.le),
    ("__gt__", ">", operator.gt),
    ("__ge__", ">=", operator.ge),
    ("__eq__", "==", operator.eq),
    ("__ne__", "!=", operator.ne),
):
    tensor_method(_dunder, _dunder.strip("_"))(_comparison(_symbol, _ufunc))


@tensor_method("__contains__")
def _contains(x: Tensor, value: Any) -> bool:
    """``value in x``: whether some entry equals ``value``, a number or a tensor (broadcast)."""
    found = x == value
    if not isinstance(found, Variable):
        kinds = "a number, an array or a tensor"
        raise DTypeError(message("in", f"{kinds} to look for", type(value).__name__))
    return bool(found.any())


def _integer(name: str, function: Any) -> Any:
    def compute(x: Any, y: Any) -> Tensor:
        like = x if isinstance(x, Variable) else y
        if any(isinstance(v, Variable) and v.requires_grad for v in (x, y)):
            raise DTypeError(
                f"{name} is not differentiable; got a tensor that requires grad. Use .detach()."
            )
        if name in "&|^" and like._array.dtype.kind in "fc":
            raise DTypeError(message(name, "a bool or integer tensor", str(like._array.dtype)))
        comparable(name, like)
        x, y = binary_operands(name, x, y)
        left, right = (v._array if isinstance(v, Variable) else v for v in (x, y))
        if name in "//%":
            _check_divisor(name, like._array, right)
        with np.errstate(all="ignore"):
            if like._array.dtype.kind in "fc":
                switch(name, lambda: ordered(left) // ordered(right))
            return Tensor(call(function, left, right))

    return compute


def _check_divisor(name: str, x: Any, y: Any) -> None:
    if x.dtype.kind in "iub" and not np.all(y):
        raise ArgumentError(f"{name}: integer division by zero. Convert with .float() for inf.")


def whole_quotient(x: Any, y: Any, down: bool) -> Tensor:
    """``x / y``, rounded down or towards 0, of operands that were checked."""
    left, right = (v._array if isinstance(v, Variable) else v for v in (x, y))
    like = left if isinstance(x, Variable) else right
    _check_divisor("div", like, right)
    with np.errstate(all="ignore"):
        found = call(_rounded_down if down else _rounded_to_zero, ordered(left), ordered(right))
    if like.dtype.kind in "fc":
        switch("div", lambda: found)
    return Tensor(found)


def _rounded_down(x: Any, y: Any) -> Any:
    return as_array(x // y)


def _rounded_to_zero(x: Any, y: Any) -> Any:
    xp = array_module(x if hasattr(x, "dtype") else y)
    quotient = x // y
    if quotient.dtype.kind == "f":
        return as_array(xp.trunc(x / y))
    return as_array(quotient + ((x % y != 0) & ((x < 0) != (y < 0))))


for _dunder, _symbol, _ufunc in (
    ("and", "&", lambda x, y: x & y),
    ("or", "|", lambda x, y: x | y),
    ("xor", "^", lambda x, y: x ^ y),
    ("floordiv", "//", lambda x, y: ordered(x) // ordered(y)),
):
    _forward = _integer(_symbol, _ufunc)
    tensor_method(f"__{_dunder}__")(_forward)
    tensor_method(f"__r{_dunder}__")(lambda x, y, f=_forward: f(y, x))


whole_remainder = _integer("%", operator.mod)


@tensor_method("__invert__")
def _invert(x: Tensor) -> Tensor:
    if x.dtype.kind in "fc":
        raise DTypeError(message("~", "a bool or integer tensor", str(x.dtype)))
    return Tensor(call(operator.invert, x._array))


@tensor_method("isnan")
def isnan(x: Tensor) -> Tensor:
    """True where an entry is NaN."""
    return Tensor(call(array_module(given("isnan", x)._array).isnan, x._array))


@tensor_method("isfinite")
def isfinite(x: Tensor) -> Tensor:
    """True where an entry is neither NaN nor infinite."""
    return Tensor(call(array_module(given("isfinite", x)._array).isfinite, x._array))


@tensor_method("sign")
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; no gradient flows through it (it is 0 wherever it exists)."""
    comparable("sign", x)
    array = numbers("sign", x)._array
    result = call(array_module(array).sign, ordered(array))
    switch("sign", lambda: result)
    return Tensor(result)


def allclose(x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether all entries agree within ``atol + rtol * |y|``."""
    x, y = binary_operands("allclose", x, y)
    relative = number("allclose", "rtol", rtol, least=0, finite=False)
    absolute = number("allclose", "atol", atol, least=0, finite=False)
    left, right = (v._array if isinstance(v, Variable) else v for v in (x, y))
    xp = array_module(left if isinstance(x, Variable) else right)
    with np.errstate(all="ignore"):
        return bool(xp.allclose(left, right, rtol=relative, atol=absolute))

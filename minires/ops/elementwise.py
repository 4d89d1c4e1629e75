"""Operations that act on each entry by itself, with broadcasting.

Every derivative below is one line of calculus; what broadcasting copied on the way forward is
summed on the way back by :func:`sum_to`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import choice
from ..autograd import (
    Context,
    Function,
    Variable,
    call,
    check_inplace,
    replace,
    switch,
)
from ..device import array_module, beside, device_of, move, zeros_on
from ..errors import ArgumentError, DeviceError, DTypeError, ShapeError, message
from ..tensor import Tensor, tensor_method
from . import large, sums
from .checks import (
    analytic,
    binary_operands,
    check_same,
    comparable,
    given,
    numbers,
    operand,
    plain,
)
from .compare import whole_quotient


class SumTo(Function):
    """Sum over the dimensions along which ``shape`` was broadcast; the adjoint of Expand."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        lead = x.ndim - len(shape)
        stretched = [i + lead for i, n in enumerate(shape) if n == 1 and x.shape[i + lead] != 1]
        return sums.total(x, (*range(lead), *stretched)).reshape(shape)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Expand.apply(gy, ctx.shape), None


class Expand(Function):
    """The same values seen as a larger shape, without copying; the adjoint of SumTo."""

    view = True
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        if x.size == np.prod(shape, dtype=int):  # nothing is repeated: keep it writeable
            return x.reshape(shape)
        return array_module(x).broadcast_to(x, shape)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return sum_to(gy, ctx.shape), None


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum ``x`` down to ``shape``, undoing a broadcast from ``shape`` to ``x.shape``."""
    return x if x.shape == shape else SumTo.apply(x, shape)


def _shape(x: Any) -> tuple[int, ...]:
    return getattr(x, "shape", ())


# **** arithmetic ****


class Add(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        ctx.shapes = _shape(x), _shape(y)
        result = large.arithmetic("+", x, y)
        return x + y if result is None else result

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return tuple(
            sum_to(gy, shape) if need else None for shape, need in zip(ctx.shapes, ctx.needs_grad)
        )


class Sub(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        ctx.shapes = _shape(x), _shape(y)
        result = large.arithmetic("-", x, y)
        return x - y if result is None else result

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        gx = sum_to(gy, ctx.shapes[0]) if ctx.needs_grad[0] else None
        return gx, sum_to(-gy, ctx.shapes[1]) if ctx.needs_grad[1] else None


class Mul(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        save_operands(ctx, x, y)
        result = large.arithmetic("*", x, y)
        return x * y if result is None else result

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = saved_operands(ctx)
        gx = sum_to(gy * y, ctx.shapes[0]) if ctx.needs_grad[0] else None
        return gx, sum_to(gy * x, ctx.shapes[1]) if ctx.needs_grad[1] else None


class Weigh(Function):
    """x * y, but 0 times an infinity is 0 and not NaN: what has no weight counts for nothing."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        save_operands(ctx, x, y)
        z = x * y
        return array_module(z).where((z != z) & (x == x) & (y == y), 0, z)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = saved_operands(ctx)
        gx = sum_to(weigh(gy, y), ctx.shapes[0]) if ctx.needs_grad[0] else None
        return gx, sum_to(weigh(gy, x), ctx.shapes[1]) if ctx.needs_grad[1] else None


class Div(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        save_operands(ctx, x, y, both=ctx.needs_grad[1])
        return x / y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = saved_operands(ctx)
        gx = gy / y
        gz = sum_to(-gx * x / y, ctx.shapes[1]) if ctx.needs_grad[1] else None
        return sum_to(gx, ctx.shapes[0]) if ctx.needs_grad[0] else None, gz


class Pow(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any) -> Any:
        save_operands(ctx, x, y, both=True)
        return x**y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = saved_operands(ctx)
        gx = gz = None
        slope: Any
        if ctx.needs_grad[0]:
            # at exponent 0 the derivative is 0 even where x is 0, and not 0 * 0 ** -1
            if isinstance(y, Tensor):
                zero = (y == 0) & (x == 0)  # elsewhere it still depends on y
                slope = where(zero, 0, y * x ** where(zero, 1, y - 1))
            else:
                slope = y * x ** (y - 1) if y != 0 else None
            if slope is None:  # y is the number 0: whatever gy is, none of it gets to x
                gx = only(gy, zeros_on(gy.device, (), bool))
            else:
                gx = sum_to(gy * slope, ctx.shapes[0])
        if ctx.needs_grad[1]:
            base = x if isinstance(x, Tensor) else _number_beside(x, y)
            # 0 ** y is 0 next to y > 0 (and 1 at 0 only): its slope is 0, and not 0 * -inf
            flat = (base == 0) & (y >= 0)
            logarithm = where(flat, 0, where(flat, 1, base).log())
            gz = sum_to(gy * x**y * logarithm, ctx.shapes[1])
        return gx, gz


def save_operands(ctx: Context, x: Any, y: Any, both: bool = False) -> None:
    """Keep of each operand what the other's gradient needs (or both); numbers as they are."""
    ctx.shapes = _shape(x), _shape(y)
    ctx.numbers = tuple(None if hasattr(v, "shape") else v for v in (x, y))
    wanted = (both or ctx.needs_grad[1], both or ctx.needs_grad[0])
    ctx.save(*(v if hasattr(v, "shape") and keep else None for v, keep in zip((x, y), wanted)))


def saved_operands(ctx: Context) -> tuple[Any, Any]:
    return tuple(
        saved if number is None else number for saved, number in zip(ctx.saved, ctx.numbers)
    )


class Maximum(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any, sign: int) -> Any:
        xp = array_module(x)
        ctx.shapes = _shape(x), _shape(y)
        first = xp.asarray(x.real >= y.real if sign > 0 else x.real <= y.real)
        first = xp.asarray(first | (x != x))  # NaN is the result, wherever it stands
        ctx.save_constants(first)
        switch("maximum" if sign > 0 else "minimum", lambda: first)
        if x.dtype.kind == "c":
            return xp.where(first, x, y)
        return xp.maximum(x, y) if sign > 0 else xp.minimum(x, y)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (first,) = ctx.constants
        gx = sum_to(only(gy, first), ctx.shapes[0]) if ctx.needs_grad[0] else None
        other = call(np.logical_not, first)
        gz = sum_to(only(gy, other), ctx.shapes[1]) if ctx.needs_grad[1] else None
        return gx, gz, None


def only(x: Tensor, mask: Any) -> Tensor:
    """``x`` where the mask holds, and 0 elsewhere, whatever stands there: 0 times NaN is no 0."""
    return Where.apply(x, Tensor(zeros_on(device_of(mask), (), x.dtype)), mask)


class Where(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, y: Any, condition: Any) -> Any:
        ctx.shapes = _shape(x), _shape(y)
        if any(ctx.needs_grad):
            ctx.save_constants(condition.copy())  # the user may write into theirs
        return array_module(condition).where(condition, x, y)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (condition,) = ctx.constants
        gx = gz = None
        zero = Tensor(zeros_on(gy.device, (), gy.dtype))
        if ctx.needs_grad[0]:
            gx = sum_to(Where.apply(gy, zero, condition), ctx.shapes[0])
        if ctx.needs_grad[1]:
            gz = sum_to(Where.apply(zero, gy, condition), ctx.shapes[1])
        return gx, gz, None


class Neg(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        return -x

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return -gy


class Exp(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        y = array_module(x).exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (y,) = ctx.saved
        return gy * y


class Expm1(Function):
    """exp(x) - 1, with all digits where it is small."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return array_module(x).expm1(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * exp(x)


class Log(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return array_module(x).log(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy / x


class Sqrt(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        y = array_module(x).sqrt(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (y,) = ctx.saved
        return gy / (y * 2)


class Abs(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        sign = array_module(x).sign(x.real)
        ctx.save_constants(sign)
        switch("abs", lambda: sign)
        return sign * x if x.dtype.kind == "c" else abs(x)  # |.| of a complex number has no slope

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return gy * Tensor(ctx.constants[0])


class Clip(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, low: float | None, high: float | None) -> Any:
        xp = array_module(x)
        inside = xp.ones(x.shape, bool)
        if low is not None:
            inside &= x.real >= low
        if high is not None:
            inside &= x.real <= high
        ctx.save_constants(inside)
        y = x.real.clip(low, high)
        switch("clip", lambda: xp.sign(y - x.real))  # raised, inside or lowered
        return xp.where(inside, x, y) if x.dtype.kind == "c" else y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return only(gy, ctx.constants[0]), None, None


# **** the public functions ****


@tensor_method("__add__", "add")
def add(x: Any, y: Any, *, alpha: float = 1) -> Tensor:
    """``x + alpha * y``, broadcast."""
    x, y = binary_operands("add", x, _times(y, alpha))
    return Add.apply(x, y)


def _times(y: Any, alpha: Any) -> Any:
    """``alpha * y`` of a tensor or a number, alpha being a number."""
    if type(alpha) is int and alpha == 1:  # nearly always
        return y
    return y * plain("alpha", alpha)


@tensor_method("__sub__", "sub")
def sub(x: Any, y: Any, *, alpha: float = 1) -> Tensor:
    """``x - alpha * y``, broadcast."""
    x, y = binary_operands("sub", x, _times(y, alpha))
    if all(isinstance(v, bool) or getattr(v, "dtype", None) == np.bool_ for v in (x, y)):
        raise DTypeError("sub: expected numbers, got two bools. Use x ^ y, or x.int() - y.int().")
    return Sub.apply(x, y)


@tensor_method("__mul__", "mul")
def mul(x: Any, y: Any) -> Tensor:
    """``x * y``, broadcast."""
    return Mul.apply(*binary_operands("mul", x, y))


def weigh(x: Any, y: Any) -> Tensor:
    """``x * y``, broadcast, in which 0 times an infinity is 0 and NaN stays NaN: for losses, where
    what has a weight of 0 has no part in the result."""
    return Weigh.apply(*binary_operands("weigh", x, y))


@tensor_method("__truediv__", "div")
def div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``x / y``, broadcast; integers are divided as float32.

    With ``rounding_mode`` ``"floor"`` the quotient is rounded down, with ``"trunc"`` towards 0:
    that of integers is an integer, and no gradient flows through it (it is 0 wherever it exists).

    Raises:
        ArgumentError: another ``rounding_mode``, or integers divided by 0 and rounded.
    """
    x, y = binary_operands("div", x, y)
    if rounding_mode is not None:
        mode = choice("rounding_mode", rounding_mode, ("floor", "trunc"))
        return whole_quotient(x, y, mode == "floor")
    x, y = (
        v.astype(np.float32) if isinstance(v, Tensor) and v.dtype.kind in "iub" else v
        for v in (x, y)
    )
    return Div.apply(x, y)


@tensor_method("__pow__", "pow")
def pow(x: Any, y: Any) -> Tensor:
    """``x ** y``, broadcast. The gradient for ``y`` is NaN where ``x`` is negative."""
    x, y = binary_operands("pow", x, y)
    kinds = {v.dtype.kind for v in (x, y) if isinstance(v, Tensor)}
    if not kinds & set("fc") and ((y._array if isinstance(y, Tensor) else np.asarray(y)) < 0).any():
        raise DTypeError(
            "pow: an integer to a negative power is no integer. Convert with .float()."
        )
    return Pow.apply(x, y)


def _bind(name: str, function: Any) -> None:
    """The operator with the tensor on the right, and in place."""

    def reflected(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    def inplace(self: Tensor, other: Any, **options: Any) -> Tensor:
        check_inplace(self, other)
        replace(self, function(self, other, **options))
        return self

    tensor_method(f"__r{name}__")(reflected)
    tensor_method(f"__i{name}__", f"{'div' if name == 'truediv' else name}_")(inplace)


for _name, _function in {"add": add, "sub": sub, "mul": mul, "truediv": div, "pow": pow}.items():
    _bind(_name, _function)


@tensor_method("__neg__", "neg")
def neg(x: Tensor) -> Tensor:
    """``-x``."""
    return Neg.apply(numbers("neg", x, "Use ~x."))


@tensor_method("__pos__")
def _pos(x: Tensor) -> Tensor:
    return x


@tensor_method("__abs__", "abs")
def abs_(x: Tensor) -> Tensor:
    """The absolute value; its derivative at 0 is taken as 0."""
    comparable("abs", x)
    return Abs.apply(numbers("abs", x))


@tensor_method("exp")
def exp(x: Tensor) -> Tensor:
    """e to the power x."""
    return Exp.apply(analytic("exp", x))


def expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1``, with all digits where it is small."""
    return Expm1.apply(x)


@tensor_method("log")
def log(x: Tensor) -> Tensor:
    """The natural logarithm: -inf at 0, NaN below."""
    return Log.apply(analytic("log", x))


@tensor_method("sqrt")
def sqrt(x: Tensor) -> Tensor:
    """The square root, NaN below 0."""
    return Sqrt.apply(analytic("sqrt", x))


@tensor_method("clip", "clamp")
def clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Values below ``min`` raised to it, above ``max`` lowered to it; no gradient out there.

    Bounds may be tensors, which are broadcast, and get the gradient where they are the result.
    Where ``min`` exceeds ``max``, the result is ``max``.

    Raises:
        ArgumentError: neither bound; numbers of which ``min`` exceeds ``max``.
    """
    if min is None and max is None:
        raise ArgumentError("clip: expected min, max or both, got neither")
    comparable("clip", given("clip", x))
    low, high = (None if bound is None else operand("clip", bound, x) for bound in (min, max))
    if isinstance(low, Variable) or isinstance(high, Variable):
        raised = x if low is None else maximum(x, low)
        return raised if high is None else minimum(raised, high)
    if low is not None and high is not None and low > high:
        raise ArgumentError(message("clip", "min <= max", f"{low} and {high}"))
    return Clip.apply(x, low, high)


clamp = clip


def maximum(x: Any, y: Any) -> Tensor:
    """The larger of the two, entry by entry; where equal, the gradient goes to ``x``."""
    x, y = binary_operands("maximum", x, y)
    comparable("maximum", x, y)
    return Maximum.apply(x, y, 1) if isinstance(x, Variable) else Maximum.apply(y, x, 1)


def minimum(x: Any, y: Any) -> Tensor:
    """The smaller of the two, entry by entry; where equal, the gradient goes to ``x``."""
    x, y = binary_operands("minimum", x, y)
    comparable("minimum", x, y)
    return Maximum.apply(x, y, -1) if isinstance(x, Variable) else Maximum.apply(y, x, -1)


def _number_beside(value: Any, like: Variable) -> Tensor:
    """A number as a tensor of the dtype and device of another one."""
    with beside((like,)):
        return Tensor(array_module(like._array).asarray(value, like.dtype))


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """``x`` where ``condition`` holds, else ``y``; all three broadcast. A condition that is no
    tensor is moved to where they are.

    Raises:
        DTypeError: ``condition`` is not a bool tensor, or ``x`` and ``y`` differ in dtype.
        DeviceError: tensors of two devices.
    """
    mask = (condition if isinstance(condition, Variable) else Tensor(condition))._array
    if mask.dtype != np.bool_:
        raise DTypeError(message("where", "a bool condition", str(mask.dtype), fix="Use x > 0."))
    if not isinstance(x, Variable) and not isinstance(y, Variable):
        x = Tensor(move(Tensor(x)._array, device_of(mask)))
    like = x if isinstance(x, Variable) else y
    x, y = operand("where", x, like), operand("where", y, like)
    x, y = (  # a number takes the dtype of the tensor beside it
        v if isinstance(v, Variable) else _number_beside(v, like) for v in (x, y)
    )
    check_same("where", x, y)
    if device_of(mask) != x.device:
        if isinstance(condition, Variable):
            expected, got = f"a condition on {x.device}", str(device_of(mask))
            raise DeviceError(message("where", expected, got, fix=f"Use .to('{x.device}')."))
        mask = move(mask, x.device)
    try:
        np.broadcast_shapes(x.shape, y.shape, mask.shape)
    except ValueError:
        shapes = f"{mask.shape}, {x.shape} and {y.shape}"
        raise ShapeError(message("where", "shapes that broadcast", shapes)) from None
    return Where.apply(x, y, mask)


@tensor_method("where")
def _where_method(x: Tensor, condition: Any, y: Any) -> Tensor:
    return where(condition, x, y)

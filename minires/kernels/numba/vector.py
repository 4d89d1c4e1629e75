"""The type of a vector, and how an operation on vectors is taught to Numba.

Numba knows numbers and arrays. A vector register is neither, so this file adds a type. Numba asks
three things of a new type, and each is answered below:

- what it is called, so that ``load(x, i)`` can be given a type: :class:`Vector`;
- what it is in LLVM's language, in which Numba writes machine code: :class:`_VectorModel`.
  A ``Vector(float32, 16)`` is LLVM's ``<16 x float>``, which a CPU with AVX-512 keeps in one
  register, and other CPUs in two or four;
- what ``+``, ``-``, ``*`` and ``/`` mean: :func:`_operator`.

All other operations are *intrinsics* (:mod:`.simd`). An intrinsic is a function that runs while a
kernel is compiled, in two steps. It is called with the types of its arguments and answers with a
signature, the type of the result first, and a function ``generate``. That one is called with the
values, which are names of registers, and a ``builder``, which appends instructions to the code::

    def _load(context, x, i):              # x: the type of an array of float32
        kind = Vector(x.dtype)
        def generate(context, builder, signature, args):
            ...                            # args[0]: a register that holds where x begins
            return builder.load(...)       # a register that holds 16 floats
        return kind(x, types.int64), generate
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as typed
from numba.extending import intrinsic, lower_builtin, models, register_model

from .cpu import lanes

config: Any = numba.config  # its settings are made at run time
INTERPRETED = bool(config.DISABLE_JIT)
INDEX = ir.IntType(64)  # LLVM's type of positions and addresses


class Vector(types.Type):
    """As many numbers of a dtype as one register holds, or ``count``, which then take several."""

    def __init__(self, dtype: Any, count: int = 0):
        self.dtype = dtype
        self.count = count or lanes(str(dtype))
        super().__init__(name=f"Vector({dtype}, {self.count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """A vector is one value of LLVM's, nothing that would have to be taken apart."""

    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, llvm_vector(manager, kind))


def llvm_vector(manager: Any, kind: Vector) -> ir.VectorType:
    """``<16 x float>`` for ``Vector(float32, 16)``."""
    return ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.count)


def operation(plain: Callable[..., Any], emit: Callable[..., Any]) -> Any:
    """``emit`` as an intrinsic; in interpreted kernels, its meaning ``plain``."""
    return plain if INTERPRETED else intrinsic(emit)


# ------------------------------------------------------------------- pieces of code that recur


def pointer_to(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    """The address of ``pointer[index]``, as that of a ``kind``."""
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def spread_value(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """A vector of which every entry is ``value``.

    In LLVM's terms: put it into lane 0, then shuffle with a mask of zeros, by which every lane of
    the result is taken from lane 0. LLVM makes one instruction of both (``vbroadcastss``).
    """
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, mask)


def multiply_add(builder: Any, kind: Any) -> Any:
    """LLVM's fused multiply-add of three vectors or numbers, which rounds once."""
    return llvm_function(builder, "fma", kind, 3)


def llvm_function(builder: Any, name: str, kind: Any, arguments: int) -> Any:
    """LLVM's own function of that name, of vectors or numbers of one kind; ``llvm.fma.v16f32``
    for the fused multiply-add of vectors of 16 floats."""
    entry = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = "f32" if isinstance(entry, ir.FloatType) else "f64"
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{suffix}"
    signature = ir.FunctionType(kind, [kind] * arguments)
    return cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}")


def constant(kind: Any, number: float) -> ir.Constant:
    """A number as a constant of a kind; of a vector, in every entry."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [number] * kind.count)
    return ir.Constant(kind, number)


# ------------------------------------------------------------------------------- v + w, v * w, ...


def _operator(function: Any, instruction: str) -> None:
    """Let vectors be added, subtracted, multiplied and divided with the usual signs."""

    @infer_global(function)  # the type of a + b: that of a, if both are the same kind of vector
    class Between(AbstractTemplate):
        def generic(self, args: Any, keywords: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return typed(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)  # its code: LLVM's instruction takes vectors, too
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


if not INTERPRETED:
    _operator(operator.add, "fadd")
    _operator(operator.sub, "fsub")
    _operator(operator.mul, "fmul")
    _operator(operator.truediv, "fdiv")

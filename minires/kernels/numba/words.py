"""Words: what compiled code does with single words of 64 bits in memory.

Threads tell each other what they do in such words. All of these are *atomic*: a word is read or
written whole, and what a thread wrote before it changed a word is seen by whoever reads the new
one (sequential consistency)::

    thread 0                                    thread 1
    tasks = 16         (plain words)            while load(GENERATION) == old: pause()
    add(GENERATION, 1)                          ... here it sees tasks == 16

Without that, the compiler or the processor might write GENERATION first, or keep what it has read
in a register for ever. An address is a word, too: these functions get addresses as numbers.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vector import INDEX

ALIGNMENT = 8  # bytes
IN_ORDER = "seq_cst"
_I32 = ir.IntType(32)
llvm.initialize_native_asmparser()  # for the instructions that LLVM has no name for


def _place(builder: Any, address: Any) -> Any:
    """An address that is a number, as a pointer to a word."""
    return builder.inttoptr(address, INDEX.as_pointer())


def _load(context, address):
    """The word at an address."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_place(builder, args[0]), IN_ORDER, ALIGNMENT)

    return types.int64(types.int64), generate


def _store(context, address, value):
    """Write the word at an address."""

    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], _place(builder, args[0]), IN_ORDER, ALIGNMENT)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _add(context, address, value):
    """Add to the word at an address; returns what it was. Of two threads that add 1 to the same
    word, one gets the old number and the other the next: that is how tasks are taken."""

    def generate(context, builder, signature, args):
        return builder.atomic_rmw("add", _place(builder, args[0]), args[1], IN_ORDER)

    return types.int64(types.int64, types.int64), generate


def _replace(context, address, old, new):
    """Write ``new`` at an address if ``old`` stands there; whether it did (compare-and-swap). Of
    several threads that try, one succeeds."""

    def generate(context, builder, signature, args):
        address, old, new = args
        # cmpxchg gives what stood there, and whether it was replaced
        pair = builder.cmpxchg(_place(builder, address), old, new, IN_ORDER, IN_ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


def _ticks(context):
    """The processor's clock, in ticks of its own."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(INDEX, [])
        if platform.machine().lower() in ("aarch64", "arm64"):  # the one that programs may read
            return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], True)
        name = "llvm.readcyclecounter"
        return builder.call(builder.module.declare_intrinsic(name, fnty=kind), [])

    return types.int64(), generate


def _pause(context):
    """Tell the processor that this thread waits for another's word: the core then
    saves power, and has more left for the other thread that it may run at the same time."""

    def generate(context, builder, signature, args):
        machine = platform.machine().lower()
        told = {"x86_64": "pause", "amd64": "pause", "aarch64": "yield", "arm64": "yield"}
        if machine in told:
            builder.asm(ir.FunctionType(ir.VoidType(), []), told[machine], "", [], True)
        return context.get_dummy_value()

    return types.void(), generate


def _lock(context, function, lock, wait):
    """Call ``function(lock, wait)``, one of Python's for locks, of which ``release`` has no use
    for the second argument."""

    def generate(context, builder, signature, args):
        function, lock, wait = args
        kind = ir.FunctionType(_I32, [INDEX, _I32])
        builder.call(
            builder.inttoptr(function, kind.as_pointer()), [lock, builder.trunc(wait, _I32)]
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
add: Any = intrinsic(_add)
replace: Any = intrinsic(_replace)
ticks: Any = intrinsic(_ticks)
pause: Any = intrinsic(_pause)
lock: Any = intrinsic(_lock)

"""Launches: how compiled code finds a kernel and what it is called with.

A launch is five words: where the kernel is, where its arguments are, how many, which of them are
arrays, and for how many tasks it runs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import compiler
from .simd import INDEX
from .words import load

MOST_ARGUMENTS = 32

# The places of its words, in bytes
ADDRESS, ARGUMENTS, COUNT, ARRAYS, TASKS = range(0, 40, 8)
LAUNCH = 40

# A NumPy array begins, after what every Python object begins with, with the address of its data
# (the NumPy C-API's PyArrayObject): asking for it by Python's means takes twenty times as long.
_DATA = object.__basicsize__


def _call(context, address, arguments, count, arrays, task):
    """Call the compiled kernel at ``address`` with ``task`` and the ``count`` arguments.

    Each is one word, passed as it is; or, where its bit in ``arrays`` is set, the address of a
    NumPy array, passed as that of its data.
    """
    signature = types.void(*[types.int64] * 5)

    def generate(context, builder, signature, args):
        address, arguments, count, arrays, task = args
        words = builder.inttoptr(arguments, INDEX.as_pointer())

        def value(k):
            word = builder.gep(words, [ir.Constant(INDEX, k)])
            data = builder.add(builder.load(word), ir.Constant(INDEX, _DATA))
            bit = builder.and_(arrays, ir.Constant(INDEX, 1 << k))
            is_array = builder.icmp_unsigned("!=", bit, ir.Constant(INDEX, 0))
            at = builder.select(is_array, builder.inttoptr(data, INDEX.as_pointer()), word)
            return builder.load(at)

        end = builder.append_basic_block("end")
        switch = builder.switch(count, end)
        for n in range(MOST_ARGUMENTS + 1):
            block = builder.append_basic_block(f"with_{n}")
            switch.add_case(ir.Constant(INDEX, n), block)
            builder.position_at_end(block)
            kind = ir.FunctionType(ir.VoidType(), [INDEX] * (n + 1))
            values = [value(k) for k in range(n)]
            builder.call(builder.inttoptr(address, kind.as_pointer()), [task, *values])
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


call: Any = intrinsic(_call)


@compiler.device_function
def run_task(launch, task):
    """Do one task of the launch that is described at this address."""
    address, arguments = load(launch + ADDRESS), load(launch + ARGUMENTS)
    call(address, arguments, load(launch + COUNT), load(launch + ARRAYS), task)

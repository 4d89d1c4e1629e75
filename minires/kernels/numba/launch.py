"""Launches: how compiled code finds a kernel and what it is called with.

A launch is five words: where the kernel is, where its arguments are, how many, which of them are
arrays, and for how many tasks it runs::

    launch    ADDRESS  ARGUMENTS  COUNT  ARRAYS  TASKS
                 |         |        3     0b011    16
                 v         v
              machine    id(x)  id(y)  size            x, y: arrays, size: a number
              code         |
                           v
                         | PyObject | data | ...       a NumPy array, as its C-API has it: the
                                                       address of its data stands right behind
                                                       what every Python object begins with

A kernel was compiled as a function of a task and of COUNT words, kernel(task, data, data, size).
Numba and LLVM must know how many arguments a call has, which a launch says while it runs. So
:func:`call` holds one call for each number of arguments, and a jump to the right one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import compiler
from .vector import INDEX
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
            """Argument k. Both addresses are made, and one is read: a jump would take longer."""
            word = builder.gep(words, [ir.Constant(INDEX, k)])
            data = builder.add(builder.load(word), ir.Constant(INDEX, _DATA))
            bit = builder.and_(arrays, ir.Constant(INDEX, 1 << k))
            is_array = builder.icmp_unsigned("!=", bit, ir.Constant(INDEX, 0))
            at = builder.select(is_array, builder.inttoptr(data, INDEX.as_pointer()), word)
            return builder.load(at)

        # switch (count) { case 0: kernel(task); case 1: kernel(task, word[0]); ... }
        end = builder.append_basic_block("end")
        switch = builder.switch(count, end)
        for n in range(MOST_ARGUMENTS + 1):
            block = builder.append_basic_block(f"with_{n}")
            switch.add_case(ir.Constant(INDEX, n), block)
            builder.position_at_end(block)
            # floats are never arguments, so all that kernels get is a word in an integer register
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

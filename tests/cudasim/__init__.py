"""CUDA kernels on the CPU: a simulator for tests where there is no GPU.

The text of a kernel is compiled as plain C++ against a header that has CUDA's names
(``cuda.hpp``). Every CUDA thread is a fiber that runs until it waits for others, blocks run one
after another. ``RawModule`` and ``RawKernel`` are called as CuPy's::

    kernel = RawKernel(text, "double_fwd<float>")
    kernel((4,), (256,), (x, y, np.int32(x.size)))

Arrays may be NumPy's, or anything with ``__cuda_array_interface__`` in this process's memory.

What is noticed: barriers that not all threads reach, lanes outside of their masks, fresh shared
memory that is read (it is full of NaN), limits of CUDA, arguments that are not what the kernel
declares; results that depend on the order of threads, or on the moment of an asynchronous copy, by
running a test under each of ``ALL_CONDITIONS``; and, in checked launches, races between threads,
indices outside of arrays, overflow of integers and misaligned addresses, each with its line.

What is not: speed, the weak order in which a GPU's threads see memory (a missing fence is no error
here), what float arithmetic does differently there, waiting of one block for another.
"""

from .build import BuildError, SimulatorError, missing
from .module import (
    ALL_CONDITIONS,
    TOUCHES,
    ArgumentError,
    Conditions,
    Counts,
    KernelError,
    LaunchError,
    RawKernel,
    RawModule,
    counting,
    reachable,
    running,
)

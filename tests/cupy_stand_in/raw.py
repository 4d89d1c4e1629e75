"""``cupy.RawModule`` and ``cupy.RawKernel``: kernels in CUDA C++, run by the simulator."""

from __future__ import annotations

from types import SimpleNamespace

import cudasim
import numpy as np

from . import memory, streams
from .array import ndarray
from .device import CUDADriverError, Device


class _Address:
    """Where an array lies, without holding it: all that a launch in a graph knows."""

    def __init__(self, array):
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def _blocks():
    """All memory that arrays are in: kernels may find it through addresses."""
    facts = [
        {"data": (block.ptr, False), "shape": (block.size,), "typestr": "|u1"}
        for block in memory.live
    ]
    return [SimpleNamespace(__cuda_array_interface__=fact) for fact in facts]


cudasim.reachable.append(_blocks)


class RawKernel:
    """``cupy.RawKernel``."""

    def __init__(self, code, name, options=(), backend="nvrtc", **others):
        self._kernel = cudasim.RawKernel(code, name, options, backend)

    @property
    def name(self):
        return self._kernel.name

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        with _errors():
            self._kernel.max_dynamic_shared_size_bytes = size

    def compile(self, log_stream=None):
        self._kernel.compile(log_stream)

    def __call__(self, grid, block, args, *, shared_mem=0):
        given = []
        for arg in args:
            if isinstance(arg, np.ndarray) and arg.size != 1:
                raise TypeError(
                    f"You are trying to pass a numpy.ndarray of shape {arg.shape} as a kernel "
                    "parameter. Only numpy.ndarrays of size one can be passed by value."
                )
            if isinstance(arg, ndarray):
                if arg._memory.device_id != Device._current:
                    raise CUDADriverError(
                        "CUDA_ERROR_ILLEGAL_ADDRESS", "an array of another device"
                    )
                arg = _Address(arg)
            given.append(arg.copy() if isinstance(arg, np.ndarray) else arg)

        def launch():
            with _errors():
                self._kernel(grid, block, given, shared_mem=shared_mem)
            memory.check()

        streams.launch(launch)


class RawModule:
    """``cupy.RawModule``."""

    def __init__(self, *, code, options=(), backend="nvrtc", name_expressions=None):
        self.code, self.options, self.backend = code, options, backend
        self.name_expressions = name_expressions
        self._module = cudasim.RawModule(
            code=code, options=options, backend=backend, name_expressions=name_expressions
        )

    def compile(self, log_stream=None):
        self._module.compile(log_stream)

    def get_function(self, name):
        streams.loads(name)
        kernel = RawKernel.__new__(RawKernel)
        with _errors():
            kernel._kernel = self._module.get_function(name)
        return kernel


class _errors:
    """Launches that CUDA refuses are CuPy's errors."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, cudasim.module.LaunchError):
            raise CUDADriverError(error.code, str(error).partition(": ")[2]) from error

"""A stand-in for CuPy, for tests without a GPU: CuPy's attributes, and no others.

Its arrays keep their values in memory of their own that nothing outside may see; NumPy refuses them
as it refuses CuPy's, so that code which takes every array to be NumPy's fails. What CuPy does not
have (``cupy_names.txt``) is an AttributeError. There are two devices, and no way from one to the
other but a copy. Around every array lie red zones that are checked after every kernel; what is
allocated is full of NaN, what was freed is poisoned. Kernels are run by the simulator.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

from minires import random
from minires.device import _kernel_module, backend_module, cupy

from . import array, device, functions, memory, nccl, raw, streams
from .array import ndarray

Array = ndarray


def _module(name, **names):
    module = ModuleType(name)
    module.__dict__.update(names)
    return module


cuda = functions.CuPy("cupy.cuda", None)
cuda.Device, cuda.runtime = device.Device, device.Runtime
for _name in ("Memory", "MemoryPointer", "MemoryPool", "UnownedMemory"):
    setattr(cuda, _name, getattr(memory, _name))
for _name in ("alloc", "get_allocator", "set_allocator", "using_allocator"):
    setattr(cuda, _name, getattr(memory, _name))
for _name in ("Event", "Graph", "Stream", "get_current_stream", "get_elapsed_time"):
    setattr(cuda, _name, getattr(streams, _name))
cuda.is_available = lambda: True
cuda.get_device_id = lambda: device.Device._current
cuda.nvrtc = _module("cupy.cuda.nvrtc", getVersion=lambda: (13, 0))
cuda.memory = _module("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError)
cuda.driver = _module("cupy.cuda.driver", CUDADriverError=device.CUDADriverError)
cuda.device = _module("cupy.cuda.device", get_device_id=cuda.get_device_id)

module = functions.module
module.__version__ = "14.2.0"
module.__spec__ = ModuleSpec("cupy", None)  # for who asks whether it is installed
module.cuda = cuda
module.get_default_memory_pool = lambda: memory.get_default_memory_pool()
module.RawModule, module.RawKernel = raw.RawModule, raw.RawKernel
MODULES = {"cupy": module, "cupy.cuda": cuda}
MODULES["cupy.cuda.nccl"] = nccl
MODULES["cupyx"] = _module("cupyx", empty_pinned=np.empty)


@contextlib.contextmanager
def cupy_installed():
    """Inside, ``import cupy`` gives the stand-in, which has two devices."""
    before = {name: sys.modules.get(name) for name in MODULES}
    device.Device._current = 0
    streams.reset()
    nccl.reset()
    array.used.clear()
    sys.modules.update(MODULES)
    _forget()
    try:
        yield module
        memory.reset()
    finally:
        for name, found in before.items():
            del sys.modules[name]
            if found is not None:
                sys.modules[name] = found
        _forget()


def _forget():
    random.generator()._on.clear()  # the state of draws on a GPU that is gone
    for cache in (cupy, _kernel_module, backend_module):
        cache.cache_clear()

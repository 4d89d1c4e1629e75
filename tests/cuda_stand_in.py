"""A stand-in for the GPU's backend and kernels, over :mod:`cupy_stand_in`, for tests without a GPU.

Its kernels are the references, given the arrays in which the stand-in keeps its values. All else is
as on a GPU: each one is launched with a row of arrays, through the engine, may be collected in a
segment or a CUDA graph, and reads memory by address alone.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import fields, is_dataclass
from types import ModuleType

import numpy as np
from cupy_stand_in import Array, cupy_installed, memory, streams

from minires.autograd import call, current
from minires.autograd.engine import EAGER, around
from minires.device import _kernel_module, backend_module, device_of, move
from minires.fusion import forward
from minires.kernels import cuda as kernels_cuda
from minires.kernels.cuda import graph, pool
from minires.kernels.epilogue import EPILOGUES, Epilogue
from minires.kernels.operand import PROLOGUES, Operand
from minires.kernels.packed import PackedWeights, as_packed
from minires.kernels.work import work

EVERYTHING = PROLOGUES | EPILOGUES
OPS = "avg_pool2d batch_norm conv2d cross_entropy max_pool2d relu update".split()  # noqa: SIM905


class _Backend(ModuleType):
    """``minires.kernels.cuda``, of which the stand-in has memory, segments and graphs, but no
    kernel."""

    as_one, segment, memory_pool = graph.CudaGraph, graph.Launches, pool.MemoryPool
    allocations = pool.Allocations

    def __init__(self, fuses):
        super().__init__("minires.kernels.cuda")
        self.__path__ = kernels_cuda.__path__
        self.fuses = frozenset(fuses)
        self.launches, self.executed = [], 0
        self.allocate, self.workspace = pool.allocate, pool.workspace
        self.taking_from, self.release = pool.taking_from, pool.release

    @property
    def replayed(self):
        return self.executed - len(self.launches)

    def write(self, operand, out):
        launch(_write, operand, out)

    def synchronize(self):
        pass


# **** launches ****


def _backend():
    return sys.modules["minires.kernels.cuda"]


class _Kernel:
    """A reference for given sizes, run on a row of arrays."""

    together = None

    def __init__(self, reference, structure):
        self.__name__, self._reference, self._structure = reference.__name__, reference, structure

    def run(self, tasks, arguments):
        """Run it, here and now or when the stream comes to it, on arrays that nobody holds."""
        assert tasks == 1
        values = [array._values for array in arguments]

        def compute():
            if isinstance(_backend(), _Backend):
                _backend().executed += 1
            args, options = _filled(self._structure, iter(values))
            plain = around("stand-in", lambda engine: EAGER)  # what a kernel does is its own affair
            with np.errstate(all="ignore"), plain:
                self._reference(*args, **options)
            memory.check()

        streams.launch(compute)

    def compiled(self):
        """As it is."""

    def work(self, arguments, reaches):
        return work(self.__name__, [(str(k), array) for k, array in enumerate(arguments)])


def launch(reference, *args, **options):
    """Launch a reference through the engine, as kernels are."""
    arrays = []
    structure = _emptied((args, options), arrays)
    on_gpu = next(array for array in arrays if isinstance(array, Array))
    arrays = [
        array if isinstance(array, Array) else call(move, array, device_of(on_gpu))
        for array in arrays
    ]
    if isinstance(_backend(), _Backend):
        _backend().launches.append(reference.__name__)
    current().launch(_Kernel(reference, structure), 1, tuple(arrays), ())


class _Hole:
    """The place of an array."""


def _emptied(value, arrays):
    """The same with holes in the place of arrays, which are added to ``arrays``."""
    if isinstance(value, Array):
        arrays.append(value)
        return _Hole
    if isinstance(value, np.ndarray):
        assert value.dtype == np.float64, "an array of NumPy before a kernel"
        assert value.ndim == 2, "an array of NumPy before a kernel"
        arrays.append(value)  # the coefficients of optimisers, which are made on the CPU
        return _Hole
    if isinstance(value, tuple | list):
        return tuple(_emptied(part, arrays) for part in value)
    if isinstance(value, dict):
        return {name: _emptied(part, arrays) for name, part in value.items()}
    if isinstance(value, PackedWeights):
        return PackedWeights(_emptied(value.array, arrays), _emptied(value.bias, arrays))
    if isinstance(value, Operand | Epilogue):
        parts = [_emptied(getattr(value, field.name), arrays) for field in fields(value)]
        return type(value)(*parts)
    assert value is None or is_dataclass(value) or isinstance(value, bool | int | float), value
    return value


def _filled(value, arrays):
    if value is _Hole:
        return next(arrays)
    if isinstance(value, tuple):
        return tuple(_filled(part, arrays) for part in value)
    if isinstance(value, dict):
        return {name: _filled(part, arrays) for name, part in value.items()}
    if isinstance(value, PackedWeights):
        return PackedWeights(_filled(value.array, arrays), _filled(value.bias, arrays))
    if isinstance(value, Operand | Epilogue):
        return type(value)(*[_filled(getattr(value, f.name), arrays) for f in fields(value)])
    return value


def _write(operand, out):
    out[...] = operand.values()


def _product(x, w, y):
    y[...] = x @ w


def _multiply(x, w):
    """``minires.kernels.cuda.matmul.multiply``."""
    batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    y = pool.allocate((*batch, x.shape[-2], w.shape[-1]), x.dtype)
    launch(_product, x, w, y)
    return y


def _copy(array, out):
    out[...] = array


def _packed(w):
    """Weights in memory of their own, kept with them."""
    kept = as_packed(w)

    def make():
        packed = _backend().allocate(kept.array.shape, kept.array.dtype)
        launch(_copy, kept.array, packed)
        return packed

    return PackedWeights(kept.form("packed", make), kept.bias)


def _kernels(op):
    """``minires.ops.<op>.kernel_cuda``."""
    references = importlib.import_module(f"minires.ops.{op}.kernel_numpy")
    module = ModuleType(f"minires.ops.{op}.kernel_cuda")

    def kernel(reference):
        return lambda *args, **options: launch(reference, *args, **options)

    for name, reference in vars(references).items():
        if getattr(reference, "__module__", "") == references.__name__ and name[0] != "_":
            setattr(module, name, kernel(reference))
    if op == "conv2d":
        plain = module.conv2d_fwd
        module.conv2d_fwd = lambda x, w, *args: plain(x, _packed(w), *args)
    return module


@contextlib.contextmanager
def cuda_kernels(op, kernels):
    """Inside, ``kernels`` serves the operation's arrays on a GPU."""
    name = f"minires.ops.{op}.kernel_cuda"
    before = sys.modules.get(name)
    sys.modules[name] = kernels
    _kernel_module.cache_clear()
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        _kernel_module.cache_clear()


@contextlib.contextmanager
def cuda_backend(fuses=EVERYTHING):
    """Inside, ``import cupy`` gives the stand-in, and every operation has kernels for its arrays,
    which take over what ``fuses`` names. Gives the backend, whose ``launches`` are the names of the
    kernels that ran, ``replayed`` how many ran again in segments."""
    products = ModuleType("minires.kernels.cuda.matmul")
    products.multiply = _multiply
    modules = {"minires.kernels.cuda": _Backend(fuses), products.__name__: products}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules |= modules
    backend_module.cache_clear()
    forward._fuses.cache_clear()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(cupy_installed())
            for op in OPS:
                stack.enter_context(cuda_kernels(op, _kernels(op)))
            yield modules["minires.kernels.cuda"]
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
        backend_module.cache_clear()
        forward._fuses.cache_clear()

"""A stand-in for the GPU's backend and kernels, over :mod:`cupy_stand_in`, for tests without a GPU.

Its kernels are the references, given the arrays in which the stand-in keeps its values. All else is
as on a GPU: each one is launched with a row of arrays, through the engine, may be collected in a
segment, and reads memory by address alone: memory that is gone when a segment runs is an error.
What :func:`allocate` returns is full of NaN (of -1 where it holds integers).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import weakref
from dataclasses import fields, is_dataclass
from types import ModuleType

import numpy as np
import pytest
from cupy_stand_in import Array, cupy_installed, memory

from minires.autograd import current
from minires.device import _kernel_module, backend_module
from minires.fusion import forward
from minires.kernels.epilogue import EPILOGUES, Epilogue
from minires.kernels.operand import PROLOGUES, Operand
from minires.kernels.packed import PackedWeights, as_packed
from minires.kernels.work import work

EVERYTHING = PROLOGUES | EPILOGUES
OPS = "avg_pool2d batch_norm conv2d cross_entropy max_pool2d relu update".split()  # noqa: SIM905


# **** memory ****


class MemoryPool(memory.MemoryPool):
    """Memory of one graph."""

    def owns(self, root):
        return isinstance(root, Array) and root._memory._pool is self


class _Backend(ModuleType):
    """``minires.kernels.cuda``."""

    memory_pool = MemoryPool

    def __init__(self, fuses):
        super().__init__("minires.kernels.cuda")
        self.fuses = frozenset(fuses)
        self.pool, self.launches, self.replayed = None, [], 0
        self._workspaces = {}

    def allocate(self, shape, dtype):
        with memory.using_allocator(self.pool and self.pool.malloc):
            return Array(shape, dtype)

    def workspace(self, size, dtype):
        found = self._workspaces.get(dtype)
        if found is None or found.size < size:
            found = self._workspaces[dtype] = Array(size, dtype)
        return found

    @contextlib.contextmanager
    def taking_from(self, pool):
        before, self.pool = self.pool, pool
        try:
            yield
        finally:
            self.pool = before

    def release(self):
        self._workspaces.clear()

    def segment(self, name):
        return _Segment(name)

    def write(self, operand, out):
        launch(_write, operand, out)

    def synchronize(self):
        pass


# **** launches ****


class _Address:
    """Where an array is, without holding it."""

    def __init__(self, array):
        values = _values(array)
        interface = values.__array_interface__
        keys = ("data", "shape", "strides", "typestr", "version")
        self.__array_interface__ = {key: interface[key] for key in keys}
        held = array._memory if isinstance(array, Array) else values
        lasting = isinstance(array, Array) and isinstance(held._pool, MemoryPool)
        self._root = None if lasting else weakref.ref(held)

    def values(self):
        assert self._root is None or self._root() is not None, "a launch on memory that is gone"
        return np.asarray(self)


class _Segment:
    """What a CUDA graph is: launches that run again on the same memory."""

    def __init__(self, name):
        self.name, self._launches = name, []

    def add(self, kernel, tasks, arguments, reaches=()):
        assert tasks == 1
        addresses = [_Address(array) for array in arguments]
        self._launches.append((kernel.work(arguments, reaches), kernel, addresses))

    def __call__(self):
        for _, launch in self.one_by_one():
            launch()

    def one_by_one(self):
        for what, kernel, addresses in self._launches:
            yield what, functools.partial(self._run, kernel, addresses)

    def _run(self, kernel, addresses):
        sys.modules["minires.kernels.cuda"].replayed += 1
        with np.errstate(all="ignore"):
            kernel.compute([address.values() for address in addresses])
        memory.check()


def _values(array):
    return array._values if isinstance(array, Array) else array


class _Kernel:
    """A reference for given sizes, run on a row of arrays."""

    def __init__(self, reference, structure):
        self.__name__, self._reference, self._structure = reference.__name__, reference, structure

    def run(self, tasks, arguments):
        assert tasks == 1
        told = getattr(sys.modules["minires.kernels.cuda"], "launches", None)
        if told is not None:
            told.append(self.__name__)
        with np.errstate(all="ignore"):
            self.compute([_values(array) for array in arguments])
        memory.check()

    def work(self, arguments, reaches):
        return work(self.__name__, [(str(k), array) for k, array in enumerate(arguments)])

    def compute(self, values):
        args, options = _filled(self._structure, iter(values))
        self._reference(*args, **options)


def launch(reference, *args, **options):
    """Launch a reference through the engine, as kernels are."""
    arrays = []
    structure = _emptied((args, options), arrays)
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
        arrays.append(value)  # the coefficients of optimisers, which stay on the CPU
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


def _copy(array, out):
    out[...] = array


def _packed(w):
    """Weights in memory of their own, kept with them."""
    kept = as_packed(w)

    def make():
        backend = sys.modules["minires.kernels.cuda"]
        packed = backend.allocate(kept.array.shape, kept.array.dtype)
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
def references_where_kernels_are_missing():
    """Inside, the references serve a GPU's arrays wherever an operation has no kernels for them."""
    with contextlib.ExitStack() as stack:
        for op in OPS:
            references = _kernels(op)
            names = {name for name in vars(references) if name[0] != "_"}
            try:
                found = importlib.import_module(f"minires.ops.{op}.kernel_cuda")
            except ModuleNotFoundError:
                found = None
            if found is None or names - set(vars(found)):
                stack.enter_context(cuda_kernels(op, references))
        backend, whole = importlib.import_module("minires.kernels.cuda"), _Backend(())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("memory_pool", "taking_from", "release", "segment", "write"):
            if not hasattr(backend, name):
                patch.setattr(backend, name, getattr(whole, name), raising=False)
        yield


@contextlib.contextmanager
def cuda_backend(fuses=EVERYTHING):
    """Inside, ``import cupy`` gives the stand-in, and every operation has kernels for its arrays,
    which take over what ``fuses`` names. Gives the backend, whose ``launches`` are the names of the
    kernels that ran, ``replayed`` how many ran again in segments."""
    name = "minires.kernels.cuda"
    before = sys.modules.get(name)
    sys.modules[name] = backend = _Backend(fuses)
    backend_module.cache_clear()
    forward._fuses.cache_clear()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(cupy_installed())
            for op in OPS:
                stack.enter_context(cuda_kernels(op, _kernels(op)))
            yield backend
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        backend_module.cache_clear()
        forward._fuses.cache_clear()

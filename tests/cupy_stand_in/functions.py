"""The functions of ``cupy`` that the stand-in has: NumPy's, with the options of CuPy's."""

from __future__ import annotations

import operator
from types import ModuleType

import numpy as np
from cupy_names import known

from . import array as arrays
from . import streams
from .array import check_options, compute, ndarray, supported, values_of
from .device import Device

NAMES = known()
NEW = ("arange", "eye", "full", "identity", "linspace", "ones", "tri", "zeros")
TRUTHS = ("allclose", "array_equal", "array_equiv")  # NumPy's return Python's truth values
REDUCED = ("cupy.add", "cupy.multiply")  # the only ufuncs whose .reduce CuPy has
ON_CUBLAS = ("dot", "einsum", "inner", "matmul", "outer", "tensordot", "vdot")
STACKED = ("concatenate", "dstack", "hstack", "stack", "vstack")
SCATTERED = ("add", "bitwise_and", "bitwise_or", "bitwise_xor", "maximum", "minimum", "subtract")
OF_NUMPY = """
    broadcast_shapes can_cast common_type finfo iinfo isscalar issubdtype min_scalar_type
    promote_types result_type
""".split()  # noqa: SIM905


class Ufunc:
    """``cupy.ufunc``."""

    def __init__(self, ufunc):
        self._ufunc, self.__name__, self.name = ufunc, ufunc.__name__, f"cupy_{ufunc.__name__}"
        self.nin, self.nout, self.nargs = ufunc.nin, ufunc.nout, ufunc.nargs

    def __call__(self, *args, **options):
        wrong = set(options) - {"out", "dtype", "casting"}
        if wrong:
            raise TypeError(f"Wrong arguments { {name: options[name] for name in wrong} }")
        if self.__name__ in ON_CUBLAS:
            streams.calls_cublas()
        return compute(self._ufunc, *args, **options)

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        options = {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims}
        return compute(self._ufunc.reduce, array, **options)

    def at(self, a, indices, b=None):
        if self.__name__ not in SCATTERED:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        compute(self._ufunc.at, a, indices, b)


def _function(name, function):
    parameters = NAMES[f"cupy.{name}"]

    def call(*args, **options):
        check_options(name, parameters, args, options)
        if name in ("argsort", "sort"):
            options["kind"] = "stable"  # CuPy's are
            streams.waits_inside()
        if name in ON_CUBLAS:
            streams.calls_cublas()
        if name in STACKED and len(args[0]) > 8:
            streams.host_waits(streams.FROM_HOST)  # it copies a list of addresses
        if name in ("nonzero", "unique", "flatnonzero", "argwhere"):
            streams.host_waits()  # for how many there are
        result = compute(function, *args, **options)
        return ndarray._of(np.asarray(result)) if name in TRUTHS else result

    call.__name__ = name
    return call


def _of_dtypes(function):
    """A function of dtypes, which looks at no values."""
    return lambda *args: function(*values_of(args, lambda array: array._values))


class CuPy(ModuleType):
    """The module: what CuPy lacks is an AttributeError, what the stand-in lacks another error."""

    def __init__(self, name="cupy", numpys=np):
        super().__init__(name)
        self._numpys = numpys

    def __getattr__(self, name):
        place = self.__name__
        if f"{place}.{name}" not in NAMES:
            raise AttributeError(f"module {place!r} has no attribute {name!r}")
        value = getattr(self._numpys, name, self)
        if value is self or isinstance(value, ModuleType):
            raise NotImplementedError(f"the stand-in for CuPy has no {place}.{name}")
        if isinstance(value, type) or not callable(value):
            pass
        elif name in OF_NUMPY:
            value = _of_dtypes(value)
        elif isinstance(value, np.ufunc):
            value = Ufunc(value)
        else:
            value = _function(f"{place}.{name}".removeprefix("cupy."), value)
        setattr(self, name, value)
        return value


module = CuPy()
module.__path__ = []
module.linalg = CuPy("cupy.linalg", np.linalg)
arrays.functions = lambda: module


def offered(function):
    """Make a function one of the module's."""
    setattr(module, function.__name__, function)
    return function


@offered
def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    dtype = None if dtype is None else supported(dtype)
    if isinstance(obj, ndarray):
        same = obj._memory.device_id == Device._current and dtype in (None, obj.dtype)
        if same and not copy and (order in "KA" or obj.flags[f"{order}_CONTIGUOUS"]):
            return obj
        if obj._memory.device_id != Device._current:
            obj = obj.copy(order="C" if order == "K" else order)
        if dtype in (None, obj.dtype):
            return obj.copy(order)
        return obj.astype(dtype, order=order)
    if any(True for _ in _devices(obj)):
        raise NotImplementedError("the stand-in for CuPy makes no array of a list of arrays")
    streams.host_waits(streams.FROM_HOST)
    values = np.array(obj, dtype, copy=None, ndmin=ndmin)
    supported(values.dtype)
    # neither C's order nor Fortran's is C's on the device, whatever its axes look like
    fortran = order == "F" or (order in "KA" and values.flags.fnc)
    result = ndarray(values.shape, values.dtype, order="F" if fortran else "C")
    result._values[...] = values
    return result


def _devices(obj):
    if isinstance(obj, ndarray):
        yield obj
    elif isinstance(obj, list | tuple):
        for part in obj:
            yield from _devices(part)


@offered
def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, bool(copy), order or "K")


@offered
def asanyarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return asarray(a, dtype, order, copy=copy)


@offered
def ascontiguousarray(a, dtype=None):
    a = array(a, dtype, copy=False)
    return a if a.flags.c_contiguous and a.ndim else array(a, dtype, False, "C", ndmin=1)


@offered
def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


@offered
def get_array_module(*args):
    return module if any(isinstance(a, ndarray) for a in args) else np


@offered
def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


@offered
def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    if shape is not None:
        return ndarray(shape, dtype or prototype.dtype)
    like = np.empty_like(prototype._values, dtype, order)
    return ndarray(like.shape, like.dtype, strides=like.strides)


def _made(name):
    function = getattr(np, name)
    parameters = NAMES[f"cupy.{name}"]

    def make(*args, **options):
        check_options(name, parameters, args, options)
        values = function(*args, **options)
        supported(values.dtype)
        result = ndarray(values.shape, values.dtype)
        place = result._values
        streams.launch(lambda: place.__setitem__(..., values))
        return result

    make.__name__ = name
    return make


for _name in NEW:
    offered(_made(_name))


def _filled(name, value=None):
    def make(a, *args, **options):
        check_options(name, NAMES[f"cupy.{name}"], (a, *args), options)
        fill, args = (value, args) if value is not None else (args[0], args[1:])
        result = empty_like(a, *args, **options)
        result.fill(fill)
        return result

    make.__name__ = name
    return make


offered(_filled("zeros_like", 0))
offered(_filled("ones_like", 1))
offered(_filled("full_like"))


@offered
def shares_memory(a, b, max_work=None):
    return np.shares_memory(a._values, b._values)


@offered
def may_share_memory(a, b, max_work=None):
    return np.may_share_memory(a._values, b._values)


@offered
def from_dlpack(array, *, device=None, copy=None):
    if array.__dlpack_device__()[0] != 2:
        raise BufferError("an array of another device")
    given = array.__dlpack__().array
    return ndarray._of(given._values, given)


for _name in ("shape", "ndim", "size"):
    setattr(module, _name, operator.attrgetter(_name))
module.ndarray, module.ufunc = ndarray, Ufunc

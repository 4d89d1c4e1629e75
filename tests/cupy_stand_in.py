"""A stand-in for CuPy, for tests without a GPU: arrays with the attributes of CuPy's and no others.

Its arrays keep their values in a NumPy array that nothing outside of this file may see. NumPy
refuses them as it refuses CuPy's, so that code which takes every array to be NumPy's fails. New
arrays are on the current device, results on that of what they were computed from. Kernels do not
exist: a test that needs some says which (:func:`cuda_kernels`).
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from minires.device import _kernel_module, cupy

# what CuPy's arrays have besides operators and what is defined below
ATTRIBUTES = """
    T all any argmax argmin argpartition argsort astype clip conj copy cumsum diagonal dot dtype
    fill flatten imag item itemsize max mean min nbytes ndim nonzero prod ravel real repeat reshape
    round shape size sort squeeze std strides sum swapaxes take tobytes tolist trace transpose var
    view
""".split()  # noqa: SIM905
FLAGS = ("c_contiguous", "f_contiguous", "fnc", "forc", "owndata")
OPERATORS = """
    add sub mul truediv floordiv mod pow matmul and or xor lshift rshift
""".split()  # noqa: SIM905
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
NEW = ("arange", "empty", "eye", "full", "linspace", "ones", "zeros")  # functions, and *_like
UNKNOWN = {"initial", "where"}  # options of NumPy's functions that CuPy's do not have
DEVICES = 2


class Device:
    """``cupy.cuda.Device``: compared by its number, not hashable, and a context."""

    current = 0
    __hash__ = None

    def __init__(self, id=None):
        self.id = Device.current if id is None else id
        assert 0 <= self.id < DEVICES

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __enter__(self):
        self._before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *error):
        Device.current = self._before


class Array:
    """``cupy.ndarray``."""

    def __init__(self, values, id=None, base=None):
        self._values, self._id = np.asarray(values), Device.current if id is None else id
        self.base = base

    @property
    def device(self):
        return Device(self._id)

    @property
    def flags(self):
        return SimpleNamespace(**{name: getattr(self._values.flags, name) for name in FLAGS})

    @property
    def data(self):
        return SimpleNamespace(ptr=self._values.__array_interface__["data"][0])

    @property
    def __cuda_array_interface__(self):
        return {**self._values.__array_interface__, "version": 3}

    def get(self):
        return self._values.copy(order="K")

    def __deepcopy__(self, memo):
        return Array(self._values.copy(), self._id)

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return _wrapped(getattr(ufunc, method))(*inputs, **options)

    def __array_function__(self, function, types, args, options):
        return _wrapped(function)(*args, **options)

    def __getattr__(self, name):
        if name not in ATTRIBUTES:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        value = getattr(self._values, name)
        return _wrapped(value, self) if callable(value) else _wrap(value, self)

    def __getitem__(self, index):
        _refuse_numpy([index])
        return _wrap(np.asarray(self._values[_unwrap(index)]), self)

    def __setitem__(self, index, value):
        _refuse_numpy([index, value])
        self._values[_unwrap(index)] = _unwrap(value, self)

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __bool__(self):
        return bool(self._values)

    __hash__ = None


def _refuse_numpy(values):
    for value in values:
        if isinstance(value, tuple | list):
            _refuse_numpy(value)
        elif isinstance(value, np.ndarray):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")


def _operator(name):
    def operator(self, *others):
        _refuse_numpy(others)
        result = getattr(self._values, name)(*[_unwrap(other, self) for other in others])
        return self if result is self._values else _wrap(result, self)

    return operator


for _name in OPERATORS:
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        setattr(Array, _form, _operator(_form))
for _name in (*COMPARISONS, "neg", "abs", "invert", "pos"):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


def _wrap(value, like=None):
    """What NumPy returned, arrays and NumPy's numbers as arrays on a device."""
    if isinstance(value, tuple):
        return tuple(_wrap(part, like) for part in value)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    shared = isinstance(value, np.ndarray) and like is not None
    base = like if shared and np.may_share_memory(value, like._values) else None
    return Array(value, None if like is None else like._id, base)


def _unwrap(value, beside=None):
    """The values of arrays, which must be on the device of the one beside them."""
    if isinstance(value, tuple | list):
        return type(value)(_unwrap(part, beside) for part in value)
    if isinstance(value, Array):
        if beside is not None and value._id != beside._id:
            raise ValueError(f"Array device must be same: got {value._id} and {beside._id}")
        return value._values
    return value


def _first(values):
    for value in values:
        if isinstance(value, Array):
            return value
        if isinstance(value, tuple | list) and (found := _first(value)) is not None:
            return found
    return None


def _wrapped(function, owner=None, new=False):
    """A function of NumPy as one of CuPy: arrays of NumPy are refused."""

    def call(*args, **options):
        given = [*args, *options.values()]
        like = _first(given) if owner is None else owner
        _refuse_numpy(given)
        if UNKNOWN.intersection(options):
            raise TypeError(f"{UNKNOWN.intersection(options)}: unexpected keyword arguments")
        out = options.get("out")
        result = function(
            *[_unwrap(value, like) for value in args],
            **{name: _unwrap(value, like) for name, value in options.items()},
        )
        return out if isinstance(out, Array) else _wrap(result, None if new else like)

    if hasattr(function, "at"):
        call.at = lambda *args: function.at(*[_unwrap(value, args[0]) for value in args])
    return call


class _CuPy(ModuleType):
    def __init__(self):
        super().__init__("cupy")
        self.__version__, self.ndarray = "stand-in", Array
        self.cuda = SimpleNamespace(
            Device=Device,
            is_available=lambda: True,
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            runtime=SimpleNamespace(getDeviceCount=lambda: DEVICES),
        )

    @staticmethod
    def asnumpy(array):
        return array.get()

    @staticmethod
    def asarray(values, dtype=None):
        if isinstance(values, Array):
            values = values._values
        return Array(np.array(values, dtype))

    array = asarray

    def __getattr__(self, name):
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            return value
        made = name.endswith("_like") or name in NEW
        return _wrapped(value, new=made)


@contextlib.contextmanager
def cupy_installed():
    """Inside, ``import cupy`` gives the stand-in, which has two devices."""
    before, Device.current = sys.modules.get("cupy"), 0
    sys.modules["cupy"] = module = _CuPy()
    cupy.cache_clear()
    _kernel_module.cache_clear()
    try:
        yield module
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
        cupy.cache_clear()
        _kernel_module.cache_clear()


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

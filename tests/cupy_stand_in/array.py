"""``cupy.ndarray`` of the stand-in: its values lie in device memory, which nobody else may see."""

from __future__ import annotations

import math

import numpy as np
from cupy_names import known

from . import memory, streams
from .device import Device

NAMES = {name.removeprefix("cupy.ndarray."): p for name, p in known().items() if "ndarray." in name}
VIEWS = {"T", "mT", "real", "imag", "diagonal", "ravel", "reshape", "squeeze", "swapaxes"}
VIEWS |= {"transpose", "view"}
ON_HOST = {"dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"}
FLAGS = ("c_contiguous", "f_contiguous", "fnc", "forc", "owndata")
OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod".split()  # noqa: SIM905
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def supported(dtype):
    """A dtype that CuPy has; refused as CuPy does."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc" or dtype.char in "gG":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def check_options(name, parameters, args, options):
    """Refuse what the function of CuPy does not take."""
    if "**kwargs" in parameters:
        return
    taken = [p for p in parameters if p[0] != "*"]
    unknown = set(options) - set(taken)
    if unknown:
        raise TypeError(f"{name}() got an unexpected keyword argument {min(unknown)!r}")
    starred = [p for p in parameters if p[0] == "*"]
    by_place = parameters.index("*") if "*" in parameters else len(parameters)
    if starred in ([], ["*"]) and len(args) > by_place:
        raise TypeError(f"{name}() takes {by_place} positional arguments ({len(args)} given)")


class Flags:
    """``cupy.ndarray.flags``."""

    def __init__(self, array):
        for name in FLAGS[:-1]:
            setattr(self, name, getattr(array._values.flags, name))
        self.owndata = array.base is None

    def __getitem__(self, name):
        return getattr(self, name.lower())


class DLPack:
    """What is handed over by DLPack: the array itself, to the stand-in alone."""

    def __init__(self, array):
        self.array = array


class ndarray:
    """``cupy.ndarray``."""

    __slots__ = ("__weakref__", "_memory", "_values", "base")
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        dtype = supported(dtype)
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        strides = _packed(shape, dtype.itemsize, order) if strides is None else strides
        last = sum(s * (n - 1) for n, s in zip(shape, strides))
        nbytes = last + dtype.itemsize if math.prod(shape) else 0
        pointer = memory.alloc(nbytes) if memptr is None else memptr
        self._memory, self.base = pointer.mem, None
        self._values = pointer._values(shape, dtype, strides)
        if memptr is None and dtype.kind == "b":
            self._values[...] = False  # other bytes are no truth values

    @classmethod
    def _of(cls, values, like=None, written=True):
        """A new array with these values, or a view of the array whose memory they lie in. What is
        not ``written`` has the values that its memory had before."""
        self = object.__new__(cls)
        if like is not None and np.may_share_memory(values, like._values):
            self._memory, self._values = like._memory, values
            self.base = like if like.base is None else like.base
            return self
        order = "F" if values.flags.fnc else "C"
        self.__init__(values.shape, values.dtype, order=order)
        if written:
            self._values[...] = values
        return self

    # **** what it is ****

    @property
    def device(self):
        return Device(self._memory.device_id)

    @property
    def flags(self):
        return Flags(self)

    @property
    def data(self):
        at = self._values.__array_interface__["data"][0]
        return memory.MemoryPointer(self._memory, at - self._memory.ptr)

    @property
    def shape(self):
        return self._values.shape

    @shape.setter
    def shape(self, shape):
        self._values = self._values.view()
        self._values.shape = shape

    @property
    def __cuda_array_interface__(self):
        interface = self._values.__array_interface__
        return {**interface, "data": (self.data.ptr, False), "version": 3, "stream": 1}

    # **** from the device to the host ****

    def _host(self):
        streams.host_waits()
        return self._values

    def get(self, stream=None, order="C", out=None, blocking=True):
        values = self._host()
        if out is None:
            return values.copy(order=order)
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != values.dtype or out.shape != values.shape:
            raise ValueError(f"Shape or dtype mismatch: {out.shape}, {out.dtype}")
        out[...] = values
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if stream is None:
            streams.host_waits(streams.FROM_HOST)
            self._values[...] = arr
        else:  # of pinned memory, which is read when the copy is done
            values = self._values
            stream._do(lambda: values.__setitem__(..., arr))

    def item(self):
        return self._host().item()

    def tolist(self):
        return self._host().tolist()

    def tobytes(self, order="C"):
        return self._host().tobytes(order)

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __bool__(self):
        return bool(self._host())

    def __int__(self):
        return int(self._host())

    def __float__(self):
        return float(self._host())

    def __complex__(self):
        return complex(self._host())

    def __repr__(self):
        return repr(self._host())

    def __str__(self):
        return str(self._host())

    def __format__(self, spec):
        return format(self._host(), spec)

    def __reduce__(self):
        return _from_host, (self.get(),)

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self)))

    # **** other libraries ****

    def __dlpack_device__(self):
        return 2, self._memory.device_id  # kDLCUDA

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return DLPack(self)

    # **** copies ****

    def copy(self, order="C"):
        """On the current device, from wherever."""
        if self._memory.device_id != Device._current:
            return ndarray._of(self._values.copy(order=order))
        return compute(lambda x: x.copy(order=order), self)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        with self.device:
            return self.copy()

    # **** indexing ****

    def __getitem__(self, index):
        given = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, ndarray | list | np.ndarray | bool) for part in given):
            for part in given:
                if isinstance(part, list) or getattr(part, "dtype", None) == np.bool_:
                    streams.host_waits()  # for how many there are
            return compute(lambda x, i: x[i], self, index)
        dots = () if any(part is Ellipsis for part in given) else (Ellipsis,)
        return ndarray._of(self._values[*given, *dots], self)

    def __setitem__(self, index, value):
        def write(x, i, v):
            x[i] = v

        compute(write, self, index, value)

    # **** arithmetic ****

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if "out" in options:
            (options["out"],) = options["out"]
        function = getattr(functions(), ufunc.__name__, None)
        if function is None:
            return NotImplemented
        return (function if method == "__call__" else getattr(function, method))(*inputs, **options)

    def __array_function__(self, function, types, args, options):
        place = functions()
        for part in function.__module__.split(".")[1:]:
            place = getattr(place, part, None)
        found = getattr(place, function.__name__, None)
        if found is None or not callable(found):
            return NotImplemented
        return found(*args, **options)

    def __getattr__(self, name):
        if name not in NAMES or name.startswith("__"):
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        if name in ON_HOST:
            return getattr(self._values, name)
        parameters = NAMES[name]
        if parameters is None:
            return ndarray._of(getattr(self._values, name), self)
        if not hasattr(np.ndarray, name):
            raise NotImplementedError(f"the stand-in for CuPy has no ndarray.{name}")

        def method(*args, **options):
            check_options(name, parameters, args, options)
            if name in VIEWS:
                view = getattr(self._values, name)(*args, **options)
                if not view.size or np.may_share_memory(view, self._values):
                    return ndarray._of(view, self)
            if name in ("argsort", "sort"):
                options["kind"] = "stable"  # CuPy's are
                streams.waits_inside()
            if name == "dot":
                streams.calls_cublas()
            if name in ("argpartition", "partition"):  # which CuPy's sort
                return getattr(self, name.replace("partition", "sort"))(*args[1:], **options)
            return compute(lambda x, *a, **o: getattr(x, name)(*a, **o), self, *args, **options)

        return method


def _packed(shape, itemsize, order):
    """The strides of a contiguous array."""
    strides, step = [], itemsize
    for n in shape if order == "F" else shape[::-1]:
        strides.append(step)
        step *= max(n, 1)
    return tuple(strides if order == "F" else strides[::-1])


def _from_host(values):
    return functions().array(values)


functions = None  # gives the module of functions, which is set there


def _arrays(value):
    """The arrays among values, of which NumPy's are refused."""
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _arrays(part)


def values_of(value, get):
    if isinstance(value, ndarray):
        return get(value)
    if isinstance(value, tuple | list):
        return type(value)(values_of(part, get) for part in value)
    return value


def wrap(value, owners, written=True):
    """What NumPy returned for the arrays ``owners``; its arrays and numbers as arrays of the
    device, with their values if they are ``written``."""
    if isinstance(value, tuple | list) and any(isinstance(v, np.ndarray) for v in value):
        return type(value)(wrap(part, owners, written) for part in value)
    if not isinstance(value, np.ndarray | np.generic):
        return value
    for owner in owners:
        if value is owner._values:
            return owner
    if isinstance(value, np.ndarray):
        for owner in owners:
            if value.size and np.may_share_memory(value, owner._values):
                return ndarray._of(value, owner)
    return ndarray._of(np.asarray(value), written=written)


used = set()  # functions and dtypes: what CuPy has compiled and loaded


def compute(function, *args, **options):
    """Run a function of NumPy's on the device: on the values of arrays, which all are there."""
    found = [*_arrays(args), *_arrays(list(options.values()))]
    for array in found:
        if array._memory.device_id != Device._current:
            raise ValueError(
                f"The device where the array resides ({array._memory.device_id}) is different from "
                f"the current device ({Device._current}). Peer access is unavailable between these "
                "devices."
            )
    if options.get("dtype") is not None:
        supported(options["dtype"])

    kind = getattr(function, "__name__", repr(function)), *(array.dtype.name for array in found)
    if kind not in used:
        streams.loads(" ".join(kind))
        used.add(kind)

    def values(array):
        return array._values

    given = values_of(args, values), {name: values_of(v, values) for name, v in options.items()}

    def run():
        with np.errstate(all="ignore"):  # a GPU has no such warnings
            return function(*given[0], **given[1])

    recording = streams.recording()
    if recording is None:
        return wrap(run(), found)
    # The work is done later: done now, it tells what the result will look like, and is undone. The
    # result has whatever its memory had before: NaN, and -1, where that is fresh. The stream gets
    # addresses alone, as on a GPU: it holds no array.
    writable = [array._values for array in found if array._values.flags.writeable]
    before = [(place, place.copy()) for place in writable]
    result = wrap(run(), found, written=False)
    for place, value in before:
        place[...] = value
    known = {array._memory for array in found}
    places = [None if a._memory in known else a._values for a in _results(result)]

    def again():
        written = run()
        for place, value in zip(places, _parts(written)):
            if place is not None:
                place[...] = value

    recording(again)
    return result


def _results(value):
    """The arrays that a function returned, one or several."""
    return [part for part in _parts(value) if isinstance(part, ndarray)]


def _parts(value):
    return value if isinstance(value, tuple | list) else [value]


def _operator(name):
    def operator(self, *others):
        for other in others:
            if not isinstance(other, ndarray | int | float | complex | np.generic | np.ndarray):
                return NotImplemented
        if "matmul" in name:
            streams.calls_cublas()
        return compute(lambda x, *rest: getattr(x, name)(*rest), self, *others)

    operator.__name__ = name
    return operator


for _name in OPERATORS:
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if _form in NAMES:
            setattr(ndarray, _form, _operator(_form))
for _name in (*COMPARISONS, "neg", "abs", "invert", "pos"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))

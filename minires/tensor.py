"""The tensor: an array, where it lives, its gradient, and what Python may do with it.

The operations (``+``, ``[...]``, ``.sum()`` and so on) are not defined here: each module of
:mod:`minires.ops` binds its own with :func:`tensor_method`. What this file holds is everything
that is not differentiation or arithmetic: conversion, printing, copying. Tensors of a given shape
are made in :mod:`minires.creation`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import markup
from .arguments import as_integer
from .autograd import Variable, host_read, show_place
from .device import CPU, Device, beside, cupy, is_array, move
from .errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GraphError,
    NotShared,
    ShapeError,
    message,
    quoted,
)
from .ranges import check_range, without_huge

F = TypeVar("F", bound=Callable[..., Any])

_DTYPES = frozenset(map(np.dtype, "f4 f8 c8 c16 ? u1 u2 u4 i1 i2 i4 i8".split()))  # noqa: SIM905


def tensor_method(*names: str) -> Callable[[F], F]:
    """Make a function of a tensor a method of :class:`Tensor` under each of these names."""

    def bind(function: F) -> F:
        for name in names:
            setattr(Tensor, name, function)
        return function

    return bind


class Tensor(Variable):
    """An n-dimensional array that can be differentiated through.

    Args:
        data: an array, whose memory is shared; or what :func:`tensor` takes.
        requires_grad: whether backward passes add up a gradient in :attr:`grad`.

    >>> import minires as mr
    >>> x = mr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy leaves `array + tensor` to the tensor

    def __init__(self, data: Any, requires_grad: bool = False):
        super().__init__(_as_array(data), requires_grad)
        if isinstance(data, Variable):
            self._version = data._version  # the memory is the same, so writes to it are too
        else:
            self._version.escaped = hasattr(data, "dtype")  # the caller has the memory too

    # -- facts

    @property
    def data(self) -> Any:
        """The array itself. Writing into it goes unseen by autograd: see ``bump_version``."""
        return self._expose()

    @data.setter
    def data(self, value: Any) -> None:
        array = value._array if isinstance(value, Variable) else _as_array(value)
        if array.shape != self.shape:
            raise ShapeError(message("data", f"an array of shape {self.shape}", array.shape))
        if self.requires_grad and array.dtype.kind not in "fc":
            raise DTypeError(message("data", "a floating-point array", str(array.dtype)))
        self._hold(array)
        self._version.escape()  # the caller has it, or a tensor with a version of its own
        if isinstance(value, Variable):
            value._version.escape()

    def _expose(self) -> Any:
        """The array, for someone who may write into it."""
        host_read("the array of a tensor")
        array = self._array
        self._version.flush_readers()
        self._version.escape()
        return array

    def _hold(self, array: Any) -> None:
        """Take a new array, which nobody else has."""
        self._version.flush_readers()
        self._array, self._lazy = array, None
        self._version.bump()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel() * self.itemsize

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one entry of it."""
        if dim is None:
            return self.shape
        index = as_integer(dim)
        if index is None:
            raise ArgumentError(message("size", "dim an integer", quoted(dim)))
        if not -self.ndim <= index < self.ndim:
            raise ShapeError(message("size", f"a dim of {self.ndim}", index, f"shape {self.shape}"))
        return self.shape[index]

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        """How many entries there are."""
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        return self.dtype.kind == "f"

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set :attr:`requires_grad` in place, and return this tensor."""
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """The same memory without the history: no gradient flows back through the result."""
        result = Variable._wrap(self._array)
        result._version = self._version
        return result

    # -- conversion

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array that shares this tensor's memory.

        Raises:
            GraphError: the tensor requires grad (changes to the array would go unseen).
            DeviceError: it is on a GPU.
        """
        if self.requires_grad:
            raise GraphError(
                "numpy: expected a tensor that does not require grad, got one that does. "
                "Use .detach().numpy()."
            )
        return self._on_cpu("numpy")

    def _on_cpu(self, what: str) -> np.ndarray[Any, Any]:
        if self.device != CPU:
            raise DeviceError(message(what, "a tensor on cpu", str(self.device), fix="Use .cpu()."))
        return self._expose()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ArgumentError(f"__array__: a cast to {dtype} needs a copy, got copy=False")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise GraphError(
                "__dlpack__: expected a tensor that does not require grad, got one that does. "
                "Use .detach()."
            )
        if min(self._array.strides, default=0) < 0:  # those who take it compute a negative size
            raise ArgumentError(
                message(
                    "__dlpack__",
                    "memory in ascending order",
                    "a reversed view",
                    fix="Use .contiguous().",
                )
            )
        return self._expose().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def item(self) -> Any:
        """The one value of a one-element tensor, as a Python number."""
        if self._array.size != 1:
            raise ShapeError(message("item", "a tensor of one element", f"shape {self.shape}"))
        host_read("the value of a tensor")
        return self._array.item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        host_read("the values of a tensor")
        return self._array.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self._array.dtype.kind not in "iu":
            raise DTypeError(message("index", "an integer tensor", str(self.dtype)))
        return int(self.item())

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise ShapeError(
                f"bool: a tensor of shape {self.shape} has no single truth value. "
                "Use .any() or .all()."
            )
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len: expected at least one dimension, got a scalar tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __hash__(self) -> int:  # == compares values entry by entry, but a tensor is itself
        return id(self)

    # -- copying and printing

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        result.__setstate__(self.__getstate__())
        return result

    def __reduce__(self) -> Any:
        return _blank, (type(self),), self.__getstate__()

    def __getstate__(self) -> Any:
        if not self.is_leaf:
            raise GraphError(
                f"copy: expected a leaf, got the result of {self._node!r}: its history cannot be "
                "copied. Use .detach() first."
            )
        with beside((self,)):
            grad = None if self._grad is None else self._grad._array.copy()
            return self._array.copy(order="K"), self._requires_grad, grad

    def __setstate__(self, state: Any) -> None:
        array, requires_grad, grad = state
        Variable.__init__(self, array, requires_grad)
        if grad is not None:
            self._grad = Variable._wrap(grad)

    def __repr__(self) -> str:
        values = move(self._array, CPU)
        text = np.array2string(values, separator=", ", prefix="tensor(", threshold=1000)
        if values.size == 0:
            text += f", shape={self.shape}"
        if self.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.dtype}"
        if self.device != CPU:
            text += f", device='{self.device}'"
        if self.grad_fn is not None:
            text += f", grad_fn=<{self.grad_fn.function.__name__} {show_place(self.grad_fn.place)}>"
        elif self.requires_grad:
            text += ", requires_grad=True"
        return f"{'tensor' if type(self) is Tensor else type(self).__name__}({text})"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and its values in a table."""
        facts = [f"{type(self).__name__} {self.shape}", str(self.dtype), str(self.device)]
        if self.grad_fn is not None:
            place = show_place(self.grad_fn.place)
            facts.append(f"grad_fn={self.grad_fn.function.__name__} {place}")
        elif self.requires_grad:
            facts.append("requires_grad=True")
        return markup.array(move(self._array, CPU), facts)

    if TYPE_CHECKING:  # bound by minires.ops at run time

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...


def _blank(cls: type[Tensor]) -> Tensor:
    return cls.__new__(cls)


def _as_array(data: Any, dtype: Any = None) -> Any:
    """An array of a dtype that minires takes; arrays of any library are shared, the rest is copied.

    ``dtype`` is for numbers that are not in an array yet, whose digits a detour would cost.
    """
    if isinstance(data, Variable):
        return data._array
    if hasattr(data, "__cuda_array_interface__"):
        array = data
    elif isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
    elif hasattr(data, "__dlpack_device__"):
        array = from_dlpack(data)._array
    else:
        try:
            array = np.array(data)
        except ValueError as error:
            raise ShapeError(message("tensor", "rows of equal length", str(error))) from error
        except (TypeError, RuntimeError, OverflowError, AttributeError) as error:
            what = f"{type(data).__name__}, which gives none: {error}"
            raise DTypeError(message("tensor", "numbers", what)) from error
        array = without_huge(data, array, dtype)
        if array.dtype == np.float64 and dtype is None:
            with np.errstate(over="ignore"):  # an infinity, as a float32 has it
                array = array.astype(np.float32)  # a Python float carries no precision of its own
    if array.dtype not in _DTYPES or not array.dtype.isnative:
        raise DTypeError(
            message(
                "tensor",
                "float32, float64, bool or an integer dtype",
                str(array.dtype),
                fix="Convert it first, for instance with array.astype('float32').",
            )
        )
    return array


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype that ``dtype`` names.

    Raises:
        DTypeError: it is none, or one that minires does not take.
    """
    try:
        if dtype is None:  # which is float64 to NumPy
            raise TypeError("None is not a dtype")
        result = np.dtype(dtype)
    except (TypeError, ValueError, AttributeError, RuntimeError, SyntaxError) as error:
        raise DTypeError(message("dtype", "a dtype such as 'float32'", quoted(dtype))) from error
    if result not in _DTYPES:
        raise DTypeError(message("dtype", "float32, float64, bool or an integer", str(result)))
    return result


# **** creation ****


def tensor(
    data: Any, dtype: Any = None, requires_grad: bool = False, device: str | Device = CPU
) -> Tensor:
    """A tensor with a copy of ``data`` (numbers, nested sequences, an array, another tensor).

    Python floats become float32, Python integers int64; arrays keep their dtype. With ``dtype``
    numbers must be such that the dtype has; arrays and tensors are converted as :meth:`to` does,
    where integers wrap around.

    Raises:
        ShapeError: rows of unequal length.
        DTypeError: text, objects, float16, or another dtype that minires does not take; a number
            that ``dtype`` does not have, as 300 in uint8, or an integer beyond 64 bits.
    """
    if dtype is not None:
        dtype = as_dtype(dtype)
    array = _as_array(data, dtype)
    own = hasattr(data, "dtype") or hasattr(data, "__dlpack_device__")
    if own:
        array = array.copy()
    if dtype is not None and dtype != array.dtype:
        if not own or isinstance(data, np.generic):
            check_range("tensor", array, dtype)
        with np.errstate(all="ignore"):
            array = array.astype(dtype)
    return make(array, requires_grad, device)


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the memory of a NumPy array: transposed, strided, reversed, read-only.

    Only numbers that do not lie at multiples of their size (a field of a structured array, bytes
    from an odd offset on) are copied, with a warning.

    Raises:
        DTypeError: not an array, or of a dtype that minires does not take.
    """
    if not isinstance(array, np.ndarray):
        raise DTypeError(message("from_numpy", "a numpy.ndarray", type(array).__name__))
    if not array.flags.aligned or any(step % array.itemsize for step in array.strides):
        warnings.warn(
            "from_numpy: this array is not aligned, so it is copied: the tensor and the array will "
            "not see each other's changes. Pass array.copy() to say that this is meant.",
            UserWarning,
            stacklevel=2,
        )
        array = array.copy()
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (PyTorch, CuPy, JAX, ...).

    Raises:
        DTypeError: no such object, or a dtype that minires does not take.
        NotShared: the object refuses; a DTypeError and a BufferError.
        DeviceError: memory of another kind, or of a GPU that CuPy cannot use.
    """
    if not hasattr(source, "__dlpack_device__"):
        raise DTypeError(message("from_dlpack", "an object with __dlpack__", type(source).__name__))
    kind = int(source.__dlpack_device__()[0])  # kDLCPU is 1, kDLCUDA 2
    if kind not in (1, 2):
        raise DeviceError(message("from_dlpack", "memory of a CPU or CUDA GPU", f"kind {kind}"))
    try:
        return Tensor((np if kind == 1 else cupy()).from_dlpack(source))
    except BufferError as error:
        raise NotShared(message("from_dlpack", "an array that can be shared", error)) from error
    except RuntimeError as error:  # NumPy's way to say that it has no such dtype
        if isinstance(error, DeviceError):
            raise
        raise DTypeError(message("from_dlpack", "a dtype that NumPy has", str(error))) from error


def given(name: str, x: Any) -> Tensor:
    """``x``, if it is a tensor; an error with advice if not."""
    if not isinstance(x, Variable):
        raise DTypeError(message(name, "a tensor", type(x).__name__, fix="Use minires.tensor(x)."))
    return x  # type: ignore[return-value]


def make(array: Any, requires_grad: bool, device: str | Device = CPU) -> Tensor:
    """A tensor on a new array, which nobody else has."""
    array = array if is_array(array) else np.asarray(array)
    result = Tensor(move(array, Device.parse(device)), requires_grad)
    result._version.escaped = False
    return result

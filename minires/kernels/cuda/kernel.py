"""Kernels: functions of CUDA C++ that NVRTC compiles on first use, through CuPy.

A kernel stands in a ``.cu`` file beside its operation::

    template <class T>
    __global__ void __launch_bounds__(256)
        double_fwd(const T* __restrict__ x, T* __restrict__ y, int size) {
      const int i = blockIdx.x * 256 + threadIdx.x;
      if (i < size) y[i] = 2 * x[i];
    }

and is launched with a number of blocks and its arguments::

    double = Kernel(Path("kernel_cuda.cu"), "double_fwd<float>", block=256)
    double(-(-x.size // 256), x, y, np.int32(x.size))

CUDA takes a launch's arguments as bytes and believes them: an int64 where the kernel has an int, or
a float32 array where it reads doubles, is no error but nonsense. So a launch is held against the
kernel's own declaration, once for every combination of types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd.engine import _engine
from ...device import cupy, is_array
from ...errors import DTypeError, ShapeError, message
from ..work import Work, work
from .limits import check_launch, failed
from .source import C_TYPES, parameters, text

_NUMBERS = {
    name: np.dtype(code) for code, name in C_TYPES.items()
}  # which NumPy scalar is passed for which parameter
SHARED = 48 * 1024  # bytes of shared memory that a block gets without asking


class Kernel:
    """A CUDA kernel, compiled when it is first launched.

    Args:
        file: the ``.cu`` file.
        name: of the kernel, with its template arguments: ``"relu_fwd<float>"``.
        block: threads of a block.
        shared: bytes of dynamic shared memory of a block.
        operations: says how many additions and multiplications a launch does by its definition;
            gets the arguments of the launch.
        together: makes fewer launches of several, where none needs what another one did: gets the
            arguments of each, and yields (grid, arguments). A graph then has fewer nodes.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        block: int,
        shared: int = 0,
        operations: Callable[..., int] | None = None,
        together: Callable[[Sequence[Any]], Iterable[tuple[Any, Any]]] | None = None,
    ) -> None:
        self.file, self.name, self.block, self.shared = file, name, block, shared
        self.__name__ = name.partition("<")[0]
        self._operations, self.together = operations, together
        self._functions: dict[int, Any] = {}  # by device
        self._checked: set[tuple[Any, ...]] = set()  # types of arguments that suit the declaration
        self._allowed: set[tuple[int, tuple[int, ...]]] = set()  # (device, grid): within its limits

    def __repr__(self) -> str:
        return f"Kernel({self.file.parent.name}/{self.file.name}, {self.name})"

    def __call__(
        self, grid: int | tuple[int, ...], *arguments: Any, reaches: Sequence[Any] = ()
    ) -> None:
        """Launch the kernel on a grid of blocks.

        Args:
            grid: how many blocks, along up to three axes; nothing is launched for an empty one.
            arguments: contiguous arrays of CuPy; NumPy scalars of the type that the kernel
                declares; a struct by value as a NumPy record; None for an array that is not there.
            reaches: arrays that the kernel finds through addresses.

        Raises:
            DTypeError, ShapeError: an argument is not what the kernel takes.
            DeviceError: the GPU cannot do the launch, or CUDA reports an error.
        """
        shape = (grid,) if isinstance(grid, int) else grid
        if 0 in shape:
            return  # CuPy would launch one block
        _engine.get().value.launch(self, shape, arguments, reaches)

    def run(self, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Launch the compiled kernel, here and now, on the device of its arrays."""
        types = tuple([getattr(a, "dtype", type(a)) for a in arguments])
        if types not in self._checked:
            self._check(arguments)
            self._checked.add(types)
        place = None
        for a in arguments:
            if is_array(a) and not isinstance(a, np.ndarray):
                if not a.flags.c_contiguous:
                    got = f"strides {a.strides} of shape {a.shape}"
                    raise ShapeError(message(self.__name__, "contiguous arrays", got))
                place = a if place is None else place
        cuda = cupy().cuda
        now = cuda.runtime.getDevice()
        index = now if place is None else place.device.id
        if (index, grid) not in self._allowed:
            check_launch(self.__name__, index, grid, self.block, self.shared)
            self._allowed.add((index, grid))
        try:
            if index == now:
                self._function(index)(grid, (self.block,), arguments, shared_mem=self.shared)
            else:
                with cuda.Device(index):
                    self._function(index)(grid, (self.block,), arguments, shared_mem=self.shared)
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            launch = grid, self.block, self.shared
            raise failed(self.__name__, error, *launch, arguments) from error

    def compiled(self) -> Any:
        """The kernel, compiled and loaded for the current device, as CuPy has it: a RawKernel."""
        return self._function(cupy().cuda.runtime.getDevice())

    def _function(self, device: int) -> Any:
        """The compiled kernel on the current device, whose index is given."""
        found = self._functions.get(device)
        if found is None:
            module = cupy().RawModule(
                code=text(self.file), options=("-std=c++17",), name_expressions=[self.name]
            )
            found = self._functions[device] = module.get_function(self.name)
            if self.shared > SHARED:
                found.max_dynamic_shared_size_bytes = self.shared
        return found

    def _check(self, arguments: tuple[Any, ...]) -> None:
        """Hold arguments against the kernel's declaration.

        Raises:
            DTypeError: one is not what the kernel takes.
        """
        declared = parameters(self.file, self.__name__)
        if len(arguments) != len(declared):
            raise DTypeError(
                message(self.__name__, f"{len(declared)} arguments", f"{len(arguments)}")
            )
        for parameter, a in zip(declared, arguments):
            if parameter.pointer:
                suits = a is None or (is_array(a) and not isinstance(a, np.ndarray))
            elif parameter.type in _NUMBERS:
                suits = isinstance(a, np.generic) and a.dtype == _NUMBERS[parameter.type]
            else:  # a struct, or a number of the type of a template
                suits = isinstance(a, np.generic | np.ndarray)
            if not suits:
                star = "*" if parameter.pointer else ""
                expected = f"{parameter.name} a {parameter.type}{star}"
                got = f"{type(a).__name__} {getattr(a, 'dtype', '')}".strip()
                raise DTypeError(message(self.__name__, expected, got))

    def work(self, arguments: tuple[Any, ...], reaches: Sequence[Any] = ()) -> Work:
        """What a launch with these arguments works on."""
        names = [p.name for p in parameters(self.file, self.__name__)]
        arrays = [(n, a) for n, a in zip(names, arguments) if is_array(a) and a.dtype.kind != "V"]
        count = None if self._operations is None else self._operations(*arguments)
        place = f"{self.file.parent.name}.{self.__name__}"
        return work(place, arrays, count, sum(a.nbytes for a in reaches))

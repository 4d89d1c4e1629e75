"""Which convolution kernels residual networks launch: their layers, with nothing computed.

The operations choose kernels by sizes. Here they get arrays of the right sizes that lie nowhere, on
the tests' stand-in for CuPy, and kernels that note their names instead of running.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gpu_floors
import numpy as np

import minires as mr
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import GATED, PLAIN, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import Conv2dGeometry

PACKAGE = Path(mr.__file__).parent
TESTS = Path(__file__).resolve().parents[2] / "tests"


def used_by(precisions: Iterable[str] = tuple(gpu_floors.PEAK)) -> dict[tuple[str, str], str]:
    """By file and name of a kernel, the nets of :data:`gpu_floors.NETS` whose convolutions launch
    it in a training step, in one of these arithmetics."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from cupy_stand_in import cupy_installed

    found: dict[tuple[str, str], list[str]] = {}
    before = mr.get_float32_matmul_precision()
    try:
        for net in gpu_floors.NETS:
            geometries = {layer.geometry for layer in gpu_floors.layers(net)} - {None}
            for precision in precisions:
                mr.set_float32_matmul_precision(precision)
                with cupy_installed() as cupy:
                    for g in geometries:
                        for kernel in _launched(cupy, g):
                            place = str(kernel.file.relative_to(PACKAGE)), kernel.name
                            nets = found.setdefault(place, [])
                            if net not in nets:
                                nets.append(net)
    finally:
        mr.set_float32_matmul_precision(before)
    return {place: " ".join(nets) for place, nets in found.items()}


def _launched(cupy: Any, g: Conv2dGeometry) -> Iterator[Kernel]:
    """The kernels of a layer: forward pass and both gradients, of operands as they are, and as a
    batch norm with ReLU before or behind the layer makes them."""
    from cupy_stand_in import memory

    from minires.ops.conv2d import kernel_cuda

    noted: list[Kernel] = []
    original = Kernel.__call__

    def note(self: Kernel, grid: Any, *arguments: Any, reaches: Any = ()) -> None:
        noted.append(self)

    def nowhere(size: int) -> Any:
        return memory.MemoryPointer(memory.UnownedMemory(2**20, size, None), 0)

    def empty(*shape: int) -> Any:
        return cupy.empty(shape, np.float32)

    Kernel.__call__ = note  # type: ignore[method-assign]
    try:
        with cupy.cuda.using_allocator(nowhere):
            x, y = empty(g.n, g.h_in, g.w_in, g.c_in), empty(g.n, g.h_out, g.w_out, g.c_out)
            weight = empty(g.c_out, g.c_in // g.groups, g.k_h, g.k_w)
            x_coefficients, y_coefficients = empty(5, g.c_in), empty(5, g.c_out)
            statistics = Epilogue(statistics=(empty(g.c_out), empty(g.c_out)))
            image = g.c_in == 3  # which no layer made, and of which nobody wants a gradient
            xs = [Operand(x, PLAIN), Operand(x, RECTIFIED, x_coefficients)][: 1 if image else 2]
            for operand in xs:
                kernel_cuda.conv2d_fwd(operand, PackedWeights(weight), y, g, statistics)
            for gy in (Operand(y, PLAIN), Operand(y, GATED, y_coefficients, y)):
                if not image:
                    kernel_cuda.conv2d_bwd_input(gy, PackedWeights(weight), x, g)
                for operand in xs:
                    kernel_cuda.conv2d_bwd_weight(gy, operand, weight, g)
    finally:
        Kernel.__call__ = original  # type: ignore[method-assign]
    return iter(noted)

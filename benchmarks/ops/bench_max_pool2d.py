"""Times the kernels of minires/ops/max_pool2d against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import Case, main
from shapes import nbytes, normal, pair, stages

STEM = ("ImageNet stem", 8, 64, 112)


def cases(quick: bool) -> Iterator[Case]:
    """3x3 windows, stride 2, padding 1, as behind the ImageNet family's stem.

    Operations: a comparison per tap forward, an addition per output backward.
    """
    from minires.ops.max_pool2d import kernel_numba, kernel_numpy
    from minires.ops.max_pool2d.op import MaxPool2dGeometry

    for name, n, c, size in stages(True) if quick else (*stages(False), STEM):
        g = MaxPool2dGeometry.from_shapes((n, c, size, size), 3, 2, 1, 1, False)
        shape = f"{name}: {n}x{c}x{size}x{size}, 3x3, stride 2"
        x, gy = normal(n, size, size, c), normal(n, g.h_out, g.w_out, c, seed=1)
        (y, y_ref), (gx, gx_ref) = pair(gy), pair(x)
        index, index_ref = np.empty(gy.shape, np.int32), np.empty(gy.shape, np.int32)
        yield Case(
            "max_pool2d_fwd",
            shape,
            lambda x=x, y=y, i=index, g=g: kernel_numba.max_pool2d_fwd(x, y, i, g),
            lambda x=x, y=y_ref, i=index_ref, g=g: kernel_numpy.max_pool2d_fwd(x, y, i, g),
            [(y, y_ref), (index, index_ref)],
            nbytes(x, y, index),
            9 * y.size,
            tolerance=0,
        )
        kernel_numpy.max_pool2d_fwd(x, y_ref, index_ref, g)
        yield Case(
            "max_pool2d_bwd_x",
            shape,
            lambda gy=gy, i=index_ref, gx=gx, g=g: kernel_numba.max_pool2d_bwd_x(gy, i, gx, g),
            lambda gy=gy, i=index_ref, gx=gx_ref, g=g: kernel_numpy.max_pool2d_bwd_x(gy, i, gx, g),
            [(gx, gx_ref)],
            nbytes(gy, index, gx),
            gy.size,
            tolerance=1e-6,
        )


if __name__ == "__main__":
    main("max_pool2d", cases, __doc__)

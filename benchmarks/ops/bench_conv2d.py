"""Times the kernels of minires/ops/conv2d against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Case, main
from shapes import nbytes, normal, pair

# name, images, channels in, size in, channels out, kernel, stride
LAYERS = (
    ("CIFAR stem", 128, 3, 32, 16, 3, 1),
    ("CIFAR stage 1", 128, 16, 32, 16, 3, 1),
    ("CIFAR stage 1 to 2", 128, 16, 32, 32, 3, 2),
    ("CIFAR stage 2", 128, 32, 16, 32, 3, 1),
    ("CIFAR stage 3", 128, 64, 8, 64, 3, 1),
    ("ImageNet stage 1", 8, 64, 56, 64, 3, 1),
    ("ImageNet stage 3", 8, 256, 14, 256, 3, 1),
)


def cases(quick: bool) -> Iterator[Case]:
    """Forward and both gradients of each layer."""
    from minires.ops.conv2d import kernel_numba, kernel_numpy
    from minires.ops.conv2d.op import Conv2dGeometry

    for name, n, c_in, size, c_out, k, stride in LAYERS[4:6] if quick else LAYERS:
        w = normal(c_out, c_in, k, k, seed=1)
        g = Conv2dGeometry.from_shapes((n, c_in, size, size), w.shape, stride, k // 2, 1, 1)
        shape = f"{name}: {n}x{c_in}x{size}x{size}, {c_out} of {k}x{k}, stride {stride}"
        x, gy = normal(n, size, size, c_in), normal(n, g.h_out, g.w_out, c_out, seed=2)
        (y, y_ref), (gx, gx_ref), (gw, gw_ref) = pair(gy), pair(x), pair(w)
        operations = 2 * g.multiply_adds  # of each of the three
        yield Case(
            "conv2d_fwd",
            shape,
            lambda x=x, w=w, y=y, g=g: kernel_numba.conv2d_fwd(x, w, y, g),
            lambda x=x, w=w, y=y_ref, g=g: kernel_numpy.conv2d_fwd(x, w, y, g),
            [(y, y_ref)],
            nbytes(x, w, y),
            operations,
        )
        yield Case(
            "conv2d_bwd_input",
            shape,
            lambda gy=gy, w=w, gx=gx, g=g: kernel_numba.conv2d_bwd_input(gy, w, gx, g),
            lambda gy=gy, w=w, gx=gx_ref, g=g: kernel_numpy.conv2d_bwd_input(gy, w, gx, g),
            [(gx, gx_ref)],
            nbytes(gy, w, gx),
            operations,
        )
        yield Case(
            "conv2d_bwd_weight",
            shape,
            lambda gy=gy, x=x, gw=gw, g=g: kernel_numba.conv2d_bwd_weight(gy, x, gw, g),
            lambda gy=gy, x=x, gw=gw_ref, g=g: kernel_numpy.conv2d_bwd_weight(gy, x, gw, g),
            [(gw, gw_ref)],
            nbytes(gy, x, gw),
            operations,
        )


if __name__ == "__main__":
    main("conv2d", cases, __doc__)

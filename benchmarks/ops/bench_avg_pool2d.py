"""Times the kernels of minires/ops/avg_pool2d against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Case, main
from shapes import nbytes, normal, pair, stages

GLOBAL = (("CIFAR head", 128, 64, 8), ("ImageNet head", 8, 512, 7))


def cases(quick: bool) -> Iterator[Case]:
    """Global pooling in front of the classifier, and 2x2 windows on the maps of each stage.

    Operations: an addition per pixel of a window, forward and backward.
    """
    from minires.ops.avg_pool2d import kernel_numba, kernel_numpy
    from minires.ops.avg_pool2d.op import AvgPool2dGeometry

    layers = [(*layer, None) for layer in GLOBAL]
    if not quick:
        layers += [(*stage, 2) for stage in stages(False)]
    for name, n, c, size, window in layers:
        if window is None:
            g = AvgPool2dGeometry.adaptive((n, c, size, size), 1)
        else:
            g = AvgPool2dGeometry.from_windows((n, c, size, size), window, None, 0, False, True)
        kind = "global" if window is None else f"{window}x{window}"
        shape = f"{name}: {n}x{c}x{size}x{size}, {kind}"
        x, gy = normal(n, size, size, c), normal(n, *g.scale.shape, c, seed=1)
        (y, y_ref), (gx, gx_ref) = pair(gy), pair(x)
        yield Case(
            "avg_pool2d_fwd",
            shape,
            lambda x=x, y=y, g=g: kernel_numba.avg_pool2d_fwd(x, y, g),
            lambda x=x, y=y_ref, g=g: kernel_numpy.avg_pool2d_fwd(x, y, g),
            [(y, y_ref)],
            nbytes(x, y),
            x.size,
            tolerance=1e-5,
        )
        yield Case(
            "avg_pool2d_bwd_x",
            shape,
            lambda gy=gy, gx=gx, g=g: kernel_numba.avg_pool2d_bwd_x(gy, gx, g),
            lambda gy=gy, gx=gx_ref, g=g: kernel_numpy.avg_pool2d_bwd_x(gy, gx, g),
            [(gx, gx_ref)],
            nbytes(gy, gx),
            x.size,
            tolerance=1e-6,
        )


if __name__ == "__main__":
    main("avg_pool2d", cases, __doc__)

"""Times the kernels of minires/ops/relu against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Case, main
from shapes import nbytes, normal, pair, stages


def cases(quick: bool) -> Iterator[Case]:
    """Forward and backward on the maps of each stage; one operation per entry."""
    from minires.ops.relu import kernel_numba, kernel_numpy

    for name, n, c, size in stages(quick):
        shape = f"{name}: {n}x{c}x{size}x{size}"
        x, gy = normal(n * c * size * size), normal(n * c * size * size, seed=1)
        (y, y_ref), (gx, gx_ref) = pair(x), pair(x)
        yield Case(
            "relu_fwd",
            shape,
            lambda x=x, y=y: kernel_numba.relu_fwd(x, y),
            lambda x=x, y=y_ref: kernel_numpy.relu_fwd(x, y),
            [(y, y_ref)],
            nbytes(x, y),
            x.size,
            tolerance=0,
        )
        yield Case(
            "relu_bwd_x",
            shape,
            lambda gy=gy, y=x, gx=gx: kernel_numba.relu_bwd_x(gy, y, gx),
            lambda gy=gy, y=x, gx=gx_ref: kernel_numpy.relu_bwd_x(gy, y, gx),
            [(gx, gx_ref)],
            nbytes(gy, y, gx),
            x.size,
            tolerance=0,
        )


if __name__ == "__main__":
    main("relu", cases, __doc__)

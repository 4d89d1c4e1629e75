"""Times the kernels of minires/ops/batch_norm against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import Case, main
from shapes import nbytes, normal, pair, stages


def cases(quick: bool) -> Iterator[Case]:
    """All kernels on the rows (n * h * w, c) of each stage.

    Operations per entry: statistics 4 (an addition; a subtraction and a multiply-add), forward 3,
    gradients of weight and bias 5, gradient of the input 5. The coefficients are 4 per channel.
    """
    from minires.ops.batch_norm import kernel_numba, kernel_numpy

    for name, n, c, size in stages(quick):
        shape = f"{name}: {n}x{c}x{size}x{size}"
        x, gy = normal(n * size * size, c), normal(n * size * size, c, seed=1)
        w, b = 1 + 0.1 * normal(c, seed=2), normal(c, seed=3)
        mean, var = np.empty_like(w), np.empty_like(w)
        kernel_numpy.batch_norm_statistics(x, mean, var)
        inv_std = 1 / np.sqrt(var + np.float32(1e-5))
        gw, gb = np.empty_like(w), np.empty_like(w)
        kernel_numpy.batch_norm_bwd_affine(gy, x, mean, inv_std, gw, gb)

        stats = pair(mean), pair(var)
        yield Case(
            "batch_norm_statistics",
            shape,
            lambda x=x, o=stats: kernel_numba.batch_norm_statistics(x, o[0][0], o[1][0]),
            lambda x=x, o=stats: kernel_numpy.batch_norm_statistics(x, o[0][1], o[1][1]),
            stats,
            nbytes(x, mean, var),
            4 * x.size,
        )
        own = pair(np.empty((2, c), x.dtype)), pair(w), pair(np.empty((5, c), x.dtype))
        given = (mean, var, w, b, 1e-5)
        yield Case(
            "batch_norm_affine",
            shape,
            lambda given=given, o=own: kernel_numba.batch_norm_affine(*given, *[a[0] for a in o]),
            lambda given=given, o=own: kernel_numpy.batch_norm_affine(*given, *[a[1] for a in o]),
            own,
            nbytes(*given[:4], *[a[0] for a in own]),
            4 * c,
        )
        y = pair(x)
        given = (x, w, b, mean, inv_std)
        yield Case(
            "batch_norm_fwd",
            shape,
            lambda given=given, y=y: kernel_numba.batch_norm_fwd(*given, y[0]),
            lambda given=given, y=y: kernel_numpy.batch_norm_fwd(*given, y[1]),
            [y],
            nbytes(*given, y[0]),
            3 * x.size,
        )
        sums = pair(gw), pair(gb)
        given = (gy, x, mean, inv_std)
        yield Case(
            "batch_norm_bwd_affine",
            shape,
            lambda given=given, o=sums: kernel_numba.batch_norm_bwd_affine(
                *given, o[0][0], o[1][0]
            ),
            lambda given=given, o=sums: kernel_numpy.batch_norm_bwd_affine(
                *given, o[0][1], o[1][1]
            ),
            sums,
            nbytes(*given, gw, gb),
            5 * x.size,
        )
        gx = pair(x)
        given = (gy, x, w, mean, inv_std, gw, gb)
        yield Case(
            "batch_norm_bwd_x",
            shape,
            lambda given=given, gx=gx: kernel_numba.batch_norm_bwd_x(*given, True, gx[0]),
            lambda given=given, gx=gx: kernel_numpy.batch_norm_bwd_x(*given, True, gx[1]),
            [gx],
            nbytes(*given, gx[0]),
            5 * x.size,
        )


if __name__ == "__main__":
    main("batch_norm", cases, __doc__)

"""Times the kernels of minires/ops/cross_entropy against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import Case, main
from shapes import nbytes, normal, pair

LOGITS = (("CIFAR-10", 128, 10), ("CIFAR-100", 128, 100), ("ImageNet", 32, 1000))


def cases(quick: bool) -> Iterator[Case]:
    """Losses and their gradient for a batch of logits, without label smoothing.

    Operations per logit, an exponential counted as one: 4 forward, 5 backward.
    """
    from minires.ops.cross_entropy import kernel_numba, kernel_numpy

    for name, n, classes in (*LOGITS[::2],) if quick else (*LOGITS, ("ImageNet", 256, 1000)):
        shape = f"{name}: {n}x{classes}"
        x, g = normal(n, classes), normal(n, seed=1)
        labels = np.random.default_rng(2).integers(0, classes, n)
        (losses, losses_ref), (gx, gx_ref) = pair(g), pair(x)
        yield Case(
            "cross_entropy_fwd",
            shape,
            lambda x=x, t=labels, y=losses: kernel_numba.cross_entropy_fwd(x, t, 0.0, -100, y),
            lambda x=x, t=labels, y=losses_ref: kernel_numpy.cross_entropy_fwd(x, t, 0.0, -100, y),
            [(losses, losses_ref)],
            nbytes(x, labels, losses),
            4 * x.size,
            tolerance=1e-5,
        )
        given = (g, x, labels, 0.0, -100)
        yield Case(
            "cross_entropy_bwd_x",
            shape,
            lambda given=given, gx=gx: kernel_numba.cross_entropy_bwd_x(*given, gx),
            lambda given=given, gx=gx_ref: kernel_numpy.cross_entropy_bwd_x(*given, gx),
            [(gx, gx_ref)],
            nbytes(g, x, labels, gx),
            5 * x.size,
            tolerance=1e-5,
        )


if __name__ == "__main__":
    main("cross_entropy", cases, __doc__)

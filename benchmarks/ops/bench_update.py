"""Times the kernels of minires/ops/update against their references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import Case, main
from shapes import nbytes, normal

SGD = (0.1, 1e-4, 0.9, 1.0, 0.0, 0.0)  # lr, weight decay, momentum, keep, nesterov, begins
ADAM = (1e-3, 1.0, 0.0, 0.1, 0.999, 1e-3, 0.03, 1e-8, 0.0)  # minires.ops.update.op names them

RMSPROP = (1e-2, 1e-4, 0.99, 0.01, 1e-8, 0.0, 0.0, 1.0)

# kernel, its numbers, arrays per parameter, how many of them it writes, operations per entry
RULES = (
    ("update_sgd", SGD, 3, 2, 6),
    ("update_adam", ADAM, 4, 3, 14),
    ("update_rmsprop", RMSPROP, 3, 2, 10),
    ("update_zero", None, 1, 1, 1),
)


def networks(quick: bool) -> tuple[tuple[str, list[tuple[int, ...]]], ...]:
    """The shapes of all parameters of some networks."""
    from minires import models

    built = (("ResNet-20", models.cifar_resnet(20)), ("ResNet-50", models.resnet50()))
    shapes = [(name, [p.shape for p in net.parameters()]) for name, net in built]
    return (*shapes[:1],) if quick else (*shapes,)


def cases(quick: bool) -> Iterator[Case]:
    """One step for all parameters of a network; a square root and a division are one operation."""
    from minires.ops.update import kernel_numba, kernel_numpy

    for name, shapes in networks(quick):
        sizes = [int(np.prod(shape)) for shape in shapes]
        label = f"{name}: {len(sizes)} parameters, {sum(sizes) / 1e6:.2f} million entries"
        for kernel, numbers, count, written, operations in RULES:
            values = [normal(sum(sizes), seed=k) for k in range(count)]
            if kernel in ("update_adam", "update_rmsprop"):
                np.square(values[-1], out=values[-1])  # a running mean of squares
            sides = [[value.copy() for value in values] for _ in range(2)]
            calls = [
                call(getattr(module, kernel), side, shapes, numbers)
                for module, side in zip((kernel_numba, kernel_numpy), sides)
            ]
            outputs = [
                (mine, theirs)
                for k, (mine, theirs) in enumerate(zip(*sides))
                if k in (0, 2, 3)[:written]
            ]

            def prepare(sides: Any = sides, values: Any = values) -> None:
                for side in sides:
                    for array, value in zip(side, values):
                        array[...] = value

            yield Case(
                kernel,
                label,
                *calls,
                outputs,
                nbytes(*values, *values[:written]) if numbers else nbytes(*values),
                operations * sum(sizes),
                tolerance=1e-5,
                prepare=prepare,
            )


def call(kernel: Any, arrays: list[Any], shapes: list[tuple[int, ...]], numbers: Any) -> Any:
    """A call of a kernel on the parameters, which lie in these arrays one after another."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    columns = [
        [part.reshape(shape) for part, shape in zip(np.split(array, ends), shapes)]
        for array in arrays
    ]
    if numbers is None:
        return lambda: kernel(*columns)
    unused = {"update_adam": 1, "update_rmsprop": 2}.get(kernel.__name__, 0)
    columns += [[None] * len(shapes)] * unused  # what amsgrad, momentum and centering would keep
    rows = np.array([numbers] * len(shapes))
    return lambda: kernel(*columns, rows)


if __name__ == "__main__":
    main("update", cases, __doc__)

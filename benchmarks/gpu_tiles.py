"""Times every tile that a convolution could take on a GPU, beside the one that the table takes.

The table of tiles (``minires/ops/conv2d/cuda_tiles.py``) maps sizes to a tile. This script runs the
forward pass of each convolution of ResNet-20 (batch 128) and ResNet-50 (batch 64) with all of them,
after comparing each result with that of the table's own choice, which ``gpu_kernels.py`` holds
against the reference. Rows are appended to ``benchmarks/results/gpu_tiles.csv``; a line of the
table is to be changed where another tile is faster by more than the rounds' spread.

Needs a GPU and CuPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_floors
import numpy as np
from gpu_floors import ARITHMETIC, Layer
from gpu_kernels import TOLERANCES, Convolution, difference, minires_graph, write_rows
from harness import RESULTS, Disagreement

import minires as mr
from minires.device import cupy

COLUMNS = (
    "date", "commit", "gpu", "driver", "cuda", "cupy", "net", "shape", "arithmetic", "tile",
    "chosen", "microseconds", "over_chosen",
)  # fmt: skip
ROUNDS = 5


def candidates(layer: Layer, precision: str) -> list[Any]:
    """The tiles that a layer could take, the table's choice first."""
    from minires.ops.conv2d import cuda_tiles
    from minires.ops.conv2d.cuda_plan import arithmetic, forward_sizes

    g = layer.geometry
    assert g is not None  # of a layer whose kernel is conv2d
    sizes = forward_sizes(g)
    math = arithmetic(g, np.dtype(np.float32), g.c_in // g.groups)
    odd = cuda_tiles.vector(sizes, math) < cuda_tiles.whole(math)
    found = [cuda_tiles.tile(sizes, math), cuda_tiles.patch_tile(sizes, math)]
    for (of, name), tile in cuda_tiles.WINDOWS.items():
        if of == math and (not odd or name in cuda_tiles.ODD):
            found.append(tile)
    return list(dict.fromkeys(tile for tile in found if tile is not None))


def rows(net: str, precision: str) -> Iterator[dict[str, Any]]:
    """The rows of a net's convolutions; of a tile that is wrong what is wrong with it."""
    from minires.ops.conv2d import cuda_convolve

    mr.set_float32_matmul_precision(precision)
    for layer in gpu_floors.layers(net):
        if layer.geometry is None:
            continue
        convolution = Convolution(layer)
        chosen, *others = candidates(layer, precision)
        tiles, graphs, first = [], [], None
        for tile in (chosen, *others):
            with mock.patch.object(cuda_convolve, "tile", lambda *sizes, tile=tile: tile):
                cuda_convolve.launches.cache_clear()  # it remembers the tile of the sizes
                run, out = convolution.minires("conv2d_fwd")
                run()
                first = out if first is None else first
                what = f"{tile} on {layer.shape}"
                try:
                    difference(out, first, TOLERANCES[precision], what)
                except Disagreement as wrong:
                    yield {"wrong": str(wrong)}
                    continue
                tiles.append(tile)
                graphs.append(minires_graph(run))
        cuda_convolve.launches.cache_clear()
        times = np.array([[graph() for graph in graphs] for _ in range(ROUNDS)])
        medians = np.median(times, axis=0)
        for tile, seconds in zip(tiles, medians):
            yield {
                "net": net,
                "shape": layer.shape,
                "arithmetic": ARITHMETIC[precision],
                "tile": f"{type(tile).__name__} {' '.join(map(str, tile))}",
                "chosen": "yes" if tile is chosen else "",
                "microseconds": f"{1e6 * seconds:.3f}",
                "over_chosen": f"{seconds / medians[0]:.3f}",
            }
        cupy().get_default_memory_pool().free_all_blocks()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/gpu_tiles.py --nets ResNet-20 --precisions high",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nets", nargs="+", choices=list(gpu_floors.NETS), default=["ResNet-20"])
    parser.add_argument(
        "--precisions", nargs="+", choices=list(ARITHMETIC), default=["highest", "high"]
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)

    def show(row: dict[str, Any]) -> str:
        return (
            f"{row['shape']:<40}{row['arithmetic']:<6}{row['tile']:<44}"
            f"{row['microseconds']:>10} us {row['over_chosen']:>7} {row['chosen']}"
        )

    measured = (
        row
        for net in options.nets
        for precision in options.precisions
        for row in rows(net, precision)
    )
    write_rows(measured, options.results / "gpu_tiles.csv", COLUMNS, show, "tiles")


if __name__ == "__main__":
    main()

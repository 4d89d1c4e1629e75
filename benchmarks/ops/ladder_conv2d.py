"""From seven loops to a fused Winograd convolution: one layer, computed in ever better ways.

Each rung computes the same layer, forward, and is compared with the reference before it is timed.
Rates count the operations of the definition, whatever a rung really does, so that they compare: a
rung that needs fewer operations can pass the peak of the machine. The peak is that of the register
tile on data in the first-level cache, or of ``np.matmul`` if that is higher.

Each rate is that of the fastest of some rounds, as the peak is. Prints the table and, with
``--figure FILE``, draws it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import floors
from harness import SETTLE_SECONDS, Case, agree, environment
from shapes import normal, pair

from minires.errors import ArgumentError, MiniresError, message
from minires.files import write_atomic
from minires.kernels.epilogue import Epilogue
from minires.kernels.numba import threads
from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.tile import ROWS, product_2
from minires.kernels.operand import RECTIFIED, Operand
from minires.ops.batch_norm import kernel_numba as batch_norm
from minires.ops.conv2d import Conv2dGeometry, kernel_numpy
from minires.ops.conv2d import numba_direct as direct
from minires.ops.conv2d import numba_winograd as winograd
from minires.report import figures

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "ladder_conv2d.png"
LAYERS = {  # name: images, channels in and out, height and width; kernels are 3x3
    "CIFAR stage 1": (128, 16, 32),
    "CIFAR stage 3": (128, 64, 8),
    "ImageNet stage 1": (8, 64, 56),
}
RUNGS = 6
LONG_SECONDS = 0.2  # a call that takes this long is timed by itself,
CALLS = 5  # shorter ones so many together
LOOP_OUTPUTS = 300  # that the seven loops compute; all would take minutes
REPEATS = 200  # of the tile, to fill a task
DEPTH = 256  # of its product
PEAK_ROUNDS = 30


@dataclass(frozen=True)
class Rung:
    """A way to compute the layer, and the rate of the definition's operations it reaches."""

    name: str
    rate: float


# ---- the rungs -------------------------------------------------------------------------------


def seven_loops(x: Any, w: Any, y: Any, g: Conv2dGeometry, outputs: Sequence[Any]) -> None:
    """The definition, at some outputs (n, i, j, o): one multiplication at a time."""
    p_h, p_w = g.padding
    for place, (n, i, j, o) in enumerate(outputs):
        total = 0.0
        for u in range(g.k_h):
            for v in range(g.k_w):
                h, k = i + u - p_h, j + v - p_w
                if 0 <= h < g.h_in and 0 <= k < g.w_in:
                    for c in range(g.c_in):
                        total += w[o, c, u, v] * x[n, h, k, c]
        y[place] = total


def im2col(x: Any, w: Any, y: Any, g: Conv2dGeometry) -> None:
    """Every window written out as a row, then one matrix product."""
    padded = np.pad(x, ((0, 0), (g.padding[0],) * 2, (g.padding[1],) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (g.k_h, g.k_w), axis=(1, 2))
    rows = windows.reshape(-1, g.c_in * g.k_h * g.k_w)  # a copy, k_h * k_w times as large as x
    np.matmul(rows, w.reshape(g.c_out, -1).T, out=y.reshape(-1, g.c_out))


@kernel
def _tiles(task, a, starts, offsets, run, b, bias, c, ends, repeats):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        product_2(a, starts, 0, offsets, 1, run, b, 0, bias, 0, c, ends, 0)


def peak() -> float:
    """Operations per second: the faster of the register tile in the cache and np.matmul."""
    width, tasks = 2 * lanes("float32"), 8 * threads.get_num_threads()
    a, b, bias = np.ones(ROWS * DEPTH, "f4"), np.ones(DEPTH * width, "f4"), np.zeros(width, "f4")
    starts, ends = np.arange(ROWS) * DEPTH, np.arange(ROWS) * width
    nothing, c = np.zeros(1, np.int64), np.empty(ROWS * width, "f4")  # all tasks write the same

    def tiles() -> None:
        _tiles(tasks, a, starts, nothing, DEPTH, b, bias, c, ends, REPEATS)

    operations = 2 * ROWS * width * DEPTH * REPEATS * tasks
    tiles()
    seconds = []
    for _ in range(PEAK_ROUNDS):
        start = time.perf_counter()
        tiles()
        seconds.append(time.perf_counter() - start)
    return max(floors.peak(), operations / min(seconds))


# ---- climbing --------------------------------------------------------------------------------


def climb(layer: tuple[int, int, int], rounds: int, after: Callable[[], object]) -> list[Rung]:
    """Compare every rung with the reference, time it, and call ``after()``.

    Raises:
        Disagreement: a rung that computes something else.
    """
    n, c, size = layer
    x, w, y = (
        normal(n, size, size, c),
        normal(c, c, 3, 3, seed=1),
        np.empty((n, size, size, c), "f4"),
    )
    g = Conv2dGeometry.from_shapes((n, c, size, size), w.shape, 1, 1, 1, 1)
    y, expected = pair(x)
    kernel_numpy.conv2d_fwd(x, w, expected, g)
    rungs: list[Rung] = []

    def rung(name: str, run: Callable[[], object], *outputs: tuple[Any, Any]) -> None:
        """``run()`` fills the first array of each pair; the second has what belongs there."""
        rights = [np.empty_like(right) for _, right in outputs]

        def reference() -> None:
            for target, (_, right) in zip(rights, outputs):
                np.copyto(target, right)

        pairs = [(mine, right) for (mine, _), right in zip(outputs, rights)]
        agree(Case(name, str(layer), run, reference, pairs, 1, 1))
        share = outputs[0][0].size / y.size
        seconds = [_seconds(run) for _ in range(rounds)]
        rungs.append(Rung(name, share * 2 * g.multiply_adds / min(seconds)))
        after()

    rng = np.random.default_rng(2)
    some = tuple(rng.integers(0, limit, LOOP_OUTPUTS) for limit in y.shape)
    few = np.empty(LOOP_OUTPUTS, "f4")
    rung("seven loops", lambda: seven_loops(x, w, few, g, list(zip(*some))), (few, expected[some]))
    rung("im2col and np.matmul", lambda: im2col(x, w, y, g), (y, expected))
    rung("register tile", lambda: direct.conv2d_fwd(x, w, y, g), (y, expected))
    rung("Winograd", lambda: winograd.conv2d_fwd(x, w, y, g), (y, expected))

    # The same between two batch norms: normalise and ReLU before it, statistics after it.
    mean, shift = normal(2, c, seed=3)
    inv_std, scale = 1 + normal(2, c, seed=4) ** 2
    nothing = np.zeros(c, "f4")
    operand = Operand(x, RECTIFIED, np.stack([mean, scale * inv_std, shift, nothing, nothing]))
    kernel_numpy.conv2d_fwd(operand.values(), w, expected, g)
    moments = np.empty((2, c), "f4")
    right = np.stack([expected.mean(axis=(0, 1, 2)), expected.var(axis=(0, 1, 2))])
    z, rows = np.empty_like(x), (-1, c)

    def separate() -> None:
        arguments = (scale, shift, mean, inv_std, z.reshape(rows))
        batch_norm.batch_norm_fwd(x.reshape(rows), *arguments, Epilogue(relu=True))
        winograd.conv2d_fwd(z, w, y, g)
        batch_norm.batch_norm_statistics(y.reshape(rows), *moments)

    def fused() -> None:
        winograd.conv2d_fwd(operand, w, y, g, Epilogue(statistics=tuple(moments)))

    rung("with batch norm, separate", separate, (y, expected), (moments, right))
    rung("with batch norm, fused", fused, (y, expected), (moments, right))
    return rungs


def _seconds(run: Callable[[], object]) -> float:
    """Of one call, behind one that is not timed unless it takes long."""
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    run()
    if time.perf_counter() - start > LONG_SECONDS:
        return time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - start) / CALLS


# ---- showing ---------------------------------------------------------------------------------


@figures.styled
def figure(ladders: dict[str, list[Rung]], most: float, note: str) -> Any:
    """The rates, a panel for each layer; the seven loops are too slow to be seen as a bar."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(4.2 * len(ladders) + 1.2, 3.7), layout=figures.layout())
    panels = result.subplots(1, len(ladders), squeeze=False, sharex=True, sharey=True)[0]
    blue, vermillion = figures.KIND_COLOURS["residual"], figures.KIND_COLOURS["plain"]
    for axis, (title, rungs) in zip(panels, ladders.items()):
        for place, rung in enumerate(rungs):
            rate = rung.rate / 1e9
            axis.barh(place, rate, height=0.62, color=blue)
            text = f"{rate:.0f}" if rate >= 1 else f"{rate:.4f}"
            axis.annotate(
                text,
                (rate, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # above the peak's line
            )
        axis.axvline(most / 1e9, color=vermillion, lw=1.4)
        axis.set_yticks(range(len(rungs)), [rung.name for rung in rungs])
        axis.set_ylim(len(rungs) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_title(title)
        axis.set_xlabel("GFLOP/s of the definition's operations")
    highest = max(rung.rate for rungs in ladders.values() for rung in rungs)
    panels[0].set_xlim(0, 1.15 * max(highest, most) / 1e9)
    notes = [f"Line: {most / 1e9:.0f} GFLOP/s, the register tile on data in the cache. {note}"]
    figures.heading(result, "A 3x3 convolution, forward, in ever better ways", notes)
    return result


def _show(title: str, rungs: list[Rung], most: float) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("rung", "GFLOP/s", "of peak", "times the one before"):
        table.add_column(heading, justify="left" if heading == "rung" else "right")
    for place, rung in enumerate(rungs):
        digits = 1 if rung.rate > 1e9 else 4
        step = f"{rung.rate / rungs[place - 1].rate:.3g}" if place else ""
        share = f"{100 * rung.rate / most:.3g} %"
        table.add_row(rung.name, f"{rung.rate / 1e9:.{digits}f}", share, step)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"example: python benchmarks/ops/ladder_conv2d.py --figure {FIGURE.name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one small layer and 3 rounds")
    parser.add_argument("--rounds", type=int, default=9, help="timings of each rung  [9]")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw it, as PNG")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    rounds = 3 if options.quick else options.rounds
    if rounds < 1:
        raise ArgumentError(message("--rounds", "at least 1", rounds))
    layers = dict(list(LAYERS.items())[1:2] if options.quick else LAYERS.items())
    facts, console = environment(threads.get_num_threads()), Console()
    ladders: dict[str, list[Rung]] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("peak", total=RUNGS * len(layers))
        most = peak()
        for name, layer in layers.items():
            progress.update(task, description=name)
            title = f"{name}: {'x'.join(map(str, (*layer, layer[-1])))}"
            ladders[title] = climb(layer, rounds, lambda: progress.advance(task))
    note = f"{facts['cpu']}, {facts['threads']} threads; minires commit {facts['commit']}."
    console.print(f"Peak {most / 1e9:.0f} GFLOP/s. {note}", style="bold", highlight=False)
    for title, rungs in ladders.items():
        console.print(_show(title, rungs, most))
    if options.figure is not None:
        write_atomic(options.figure, figures.to_bytes(figure(ladders, most, note), "png"))
        console.print(f"Drawn in {options.figure}", soft_wrap=True)


if __name__ == "__main__":
    main()

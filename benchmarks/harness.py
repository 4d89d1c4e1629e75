"""How kernels are timed: agree first, then alternate, then divide.

A benchmark script describes :class:`Case` objects, each a kernel and its reference that fill
their own outputs from the same inputs, and hands them to :func:`main`. Then, for each case:

1. both sides run once on outputs full of NaN and are compared. If they disagree, or leave an
   entry unwritten, :class:`Disagreement` is raised and nothing is timed;
2. they are timed in rounds, in one process, each round both sides, the order swapped every
   round: whatever else the machine does meets both;
3. the result is the ratio of the two times per round: its median and its 20th and 80th
   percentile. Ratios survive a busy or throttled machine; milliseconds do not.

Beside each time stands the share of the two floors it reaches (:mod:`floors`): the bytes that must
move over the measured bandwidth of a copy of that size, and the operations that must be done over
the rate of a large float32 ``np.matmul``. Near 100 % there is little left to gain.

Rows are appended to ``benchmarks/results/<name>.csv``; ``benchmarks/readme.py`` writes the newest
of them into ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from minires.device import CPU, Device
from minires.errors import ArgumentError, CheckpointError, MiniresError, message

RESULTS = Path(__file__).resolve().parent / "results"

ROUND_SECONDS = 0.02  # each side repeats its call until a round lasts this long
# OpenBLAS threads spin for some 25 ms after a product and hold the core that the next kernel
# would use; the pause lets them fall asleep.
SETTLE_SECONDS = 0.04

COLUMNS = (
    "date",
    "commit",
    "minires",
    "python",
    "numpy",
    "numba",
    "platform",
    "cpu",
    "threads",
    "load",
    "kernel",
    "shape",
    "dtype",
    "milliseconds",
    "reference_milliseconds",
    "ratio",
    "ratio_p20",
    "ratio_p80",
    "rounds",
    "error",
    "bytes",
    "operations",
    "bandwidth",
    "peak",
    "memory_share",
    "compute_share",
)


class Disagreement(MiniresError, RuntimeError):
    """A kernel that does not compute what its reference computes; it is not timed."""


@dataclass(frozen=True)
class Case:
    """A kernel, its reference, and what both must at least move and do.

    Attributes:
        kernel: its name, as in ``conv2d_fwd``.
        shape: the sizes, for people.
        fast, reference: run one side once; each writes into its own arrays.
        outputs: pairs of arrays (fast's, reference's) that must come out equal.
        bytes: inputs read once and outputs written once.
        operations: floating-point operations; a multiply-add is two.
        tolerance: largest difference allowed, relative to the largest entry of the reference.
        prepare: puts in what the outputs have before a call that changes them in place.
    """

    kernel: str
    shape: str
    fast: Callable[[], object]
    reference: Callable[[], object]
    outputs: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
    bytes: int
    operations: int
    tolerance: float = 1e-4
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Floors:
    """What this machine can do: ``bandwidth`` in bytes/s, ``peak`` in operations/s."""

    bandwidth: float
    peak: float

    def shares(self, case: Case, seconds: float) -> tuple[float, float]:
        """The two floors of a case, in time, over the time it took."""
        return case.bytes / self.bandwidth / seconds, case.operations / self.peak / seconds


@dataclass(frozen=True)
class Timing:
    """Seconds per call of both sides, round by round."""

    fast: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Kernel time over reference time, round by round: below 1 is faster."""
        return [a / b for a, b in zip(self.fast, self.reference)]

    def ratio(self, percentile: float = 50) -> float:
        """A percentile of the ratios; the median by default."""
        return float(np.percentile(self.ratios, percentile))


def agree(case: Case) -> float:
    """Run both sides and return the largest difference, relative to the largest entry.

    Raises:
        Disagreement: a difference above the case's tolerance, or an entry that was not written.
    """
    for pair in case.outputs:
        for array in pair:
            array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min)
    case.prepare()
    case.fast()
    case.reference()
    worst = 0.0
    for index, (mine, theirs) in enumerate(case.outputs):
        scale = float(np.abs(theirs).max(initial=0)) or 1.0
        difference = float(np.abs(mine.astype(np.float64) - theirs).max(initial=0)) / scale
        if not difference <= case.tolerance:  # true for NaN too
            raise Disagreement(
                message(
                    case.kernel,
                    f"the reference's values to {case.tolerance:g} of their largest",
                    f"a difference of {difference:.3g}",
                    f"output {index}, {case.shape}",
                    "Nothing was timed: a wrong kernel has no speed.",
                )
            )
        worst = max(worst, difference)
    return worst


def measure(
    case: Case,
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
    after_round: Callable[[], object] = lambda: None,
    warm_up: bool = True,
) -> Timing:
    """Time both sides in alternating rounds. Call :func:`agree` first.

    Args:
        case: what to time.
        rounds: how often each side has its turn.
        clock: seconds, monotonic.
        pause: sleeps for so many seconds.
        after_round: called after every round, for a progress bar.
        warm_up: whether an untimed call precedes each turn; one that lasts long needs none.
    """
    if rounds < 1:
        raise ArgumentError(message("measure", "rounds >= 1", rounds))
    sides = {"fast": case.fast, "reference": case.reference}
    calls = {name: _calls(side, clock) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            pause(SETTLE_SECONDS)
            side = sides[name]
            if warm_up:
                side()  # not timed: caches and threads are warm again
            start = clock()
            for _ in range(calls[name]):
                side()
            times[name].append((clock() - start) / calls[name])
        after_round()
    return Timing(tuple(times["fast"]), tuple(times["reference"]))


def _calls(side: Callable[[], object], clock: Callable[[], float]) -> int:
    """How many calls fill a round, judged by one call."""
    start = clock()
    side()
    once = clock() - start
    return max(1, math.ceil(ROUND_SECONDS / max(once, 1e-6)))


def row(
    case: Case, timing: Timing, error: float, floors: Floors, environment: dict[str, Any]
) -> dict[str, Any]:
    """One line of the CSV file."""
    seconds = float(np.median(timing.fast))
    memory, compute = floors.shares(case, seconds)
    return {
        **{name: environment[name] for name in COLUMNS if name in environment},
        "kernel": case.kernel,
        "shape": case.shape,
        "dtype": str(case.outputs[0][0].dtype),
        "milliseconds": f"{1e3 * seconds:.4g}",
        "reference_milliseconds": f"{1e3 * float(np.median(timing.reference)):.4g}",
        "ratio": f"{timing.ratio():.4g}",
        "ratio_p20": f"{timing.ratio(20):.4g}",
        "ratio_p80": f"{timing.ratio(80):.4g}",
        "rounds": len(timing.fast),
        "error": f"{error:.2g}",
        "bytes": case.bytes,
        "operations": case.operations,
        "bandwidth": f"{floors.bandwidth:.4g}",
        "peak": f"{floors.peak:.4g}",
        "memory_share": f"{memory:.3g}",
        "compute_share": f"{compute:.3g}",
    }


def append(path: Path, rows: Iterable[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> None:
    """Append rows to a CSV file, with a header if it is new.

    Raises:
        CheckpointError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if not path.exists() or path.stat().st_size == 0:
        writer.writeheader()
    else:
        header = columns_of(path)
        if header != columns:
            raise CheckpointError(
                message(str(path), "the harness's columns", ",".join(header), fix="Move it away.")
            )
    writer.writerows(rows)
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def environment(threads: int, device: Device = CPU) -> dict[str, Any]:
    """What the figures were measured with."""
    from minires.environment import describe

    return {
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        **describe(device),
        "threads": threads,
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def main(
    name: str,
    cases: Callable[[bool], Iterable[Case]],
    description: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of a benchmark script.

    Args:
        name: of the CSV file.
        cases: ``cases(quick)`` makes the cases, one after the other, as memory allows.
        description: for ``--help``.
        arguments: in place of ``sys.argv[1:]``.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example: python benchmarks/ops/bench_{name}.py --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few shapes and 5 rounds")
    parser.add_argument("--rounds", type=int, help="rounds per kernel  [9]")
    parser.add_argument("--threads", type=int, help="kernel threads  [all]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)
    try:
        _run(name, cases, options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def _run(name: str, cases: Callable[[bool], Iterable[Case]], options: argparse.Namespace) -> None:
    import floors
    from rich.console import Console
    from rich.progress import Progress

    from minires.kernels.numba.threads import get_num_threads, set_num_threads

    if options.threads is not None:
        set_num_threads(options.threads)
    console, threads = Console(), get_num_threads()
    rounds = (5 if options.quick else 9) if options.rounds is None else options.rounds
    facts = environment(threads)
    rows: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("peak rate", total=None)
        peak = floors.peak()
        for case in cases(options.quick):
            progress.reset(task, total=rounds, description=f"{case.kernel} {case.shape}")
            error = agree(case)
            timing = measure(case, rounds, after_round=lambda: progress.advance(task))
            time.sleep(SETTLE_SECONDS)
            limits = Floors(floors.bandwidth(case.bytes), peak)
            rows.append(row(case, timing, error, limits, facts))
            append(options.results / f"{name}.csv", rows[-1:])  # Ctrl-C loses no result
    console.print(f"Numba kernels against the NumPy references. {header(rows[0])}.", style="bold")
    for shape, group in itertools.groupby(rows, key=lambda line: line["shape"]):
        console.print(_table(shape, group))
    console.print(f"Appended to {options.results / f'{name}.csv'}", soft_wrap=True)


def header(row: dict[str, Any]) -> str:
    """What a run's rows were measured with, in one sentence."""
    return (
        f"minires {row['minires']} (commit {row['commit'] or 'unknown'}), Python {row['python']}, "
        f"NumPy {row['numpy']}, Numba {row['numba']}; {row['cpu']}, {row['threads']} threads, "
        f"load before {row['load']}; np.matmul {float(row['peak']) / 1e9:.0f} GFLOP/s; "
        f"{row['dtype']}, {row['rounds']} rounds"
    )


HEADINGS = ("kernel", "ms", "of copy", "of peak", "NumPy ms", "ratio (p20-p80)")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as shown, under :data:`HEADINGS`."""
    ratio, low, high = (float(row[name]) for name in ("ratio", "ratio_p20", "ratio_p80"))
    return (
        row["kernel"],
        row["milliseconds"],
        f"{100 * float(row['memory_share']):.0f} %",
        f"{100 * float(row['compute_share']):.0f} %",
        row["reference_milliseconds"],
        f"{_short(ratio)} ({_short(low)}-{_short(high)})",
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _table(shape: str, rows: Iterable[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=shape, title_justify="left", box=None, pad_edge=False)
    for heading, width in zip(HEADINGS, (21, 6, 7, 7, 8, 19)):
        left = heading == HEADINGS[0]
        table.add_column(heading, justify="left" if left else "right", min_width=width)
    for line in rows:
        table.add_row(*cells(line))
    table.add_row()
    return table


def columns_of(path: Path) -> tuple[str, ...]:
    """The names in the first line of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(next(csv.reader(file), ()))


def newest(path: Path) -> list[dict[str, str]]:
    """The rows of the last run in a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [line for line in rows if line["date"] == rows[-1]["date"]]

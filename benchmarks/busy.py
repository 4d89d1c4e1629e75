"""How long minires takes while other programs want the cores, too.

Kernels run on several threads, and a thread waits for the next kernel awake, which is quick, or
asleep, which leaves the core to others. This measures what the choice costs: training steps of
ResNet-20, its inference on one image, and ``minires depth`` as it is, each in processes of its own
beside none, one and two programs that do nothing but count. The sides take turns:

- ``own``: this code as it is;
- ``passive``: the same with ``OMP_WAIT_POLICY=passive``, where threads always wait asleep;
- ``before`` and ``before, passive``: another checkout, with ``--against FOLDER``.

Each process first compares a loss and gradients with the NumPy references, and times nothing if
they disagree. Rows are appended to ``benchmarks/results/busy.csv``; the times of all sides are
divided, round by round, by those of ``own``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness import RESULTS, append, environment

from minires.errors import ArgumentError, DeviceError, MiniresError, message, unknown

COLUMNS = (
    "date", "commit", "minires", "python", "numpy", "numba", "platform", "cpu", "threads", "load",
    "work", "busy", "side", "seconds", "ratio", "ratio_p20", "ratio_p80", "rounds",
)  # fmt: skip
LOADS = (0, 1, 2)
COUNTING = "while True: pass"
OWN = Path(__file__).resolve().parents[1]

# Steps for some seconds in a process of their own: prints the median time of one.
STEPS = """
import sys, time
from statistics import median
import numpy as np
import minires as mr
from minires import models, optim

work, seconds = sys.argv[1], float(sys.argv[2])
mr.manual_seed(0)
net = models.create("cifar_resnet20")
optimizer = optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

def learn(x, labels):
    optimizer.zero_grad()
    loss = mr.cross_entropy(net(x), labels)
    loss.backward()
    return loss.item(), net.parameters().__next__().grad.numpy().copy()

few, labels = mr.randn(4, 3, 32, 32), mr.arange(4)
loss, gradient = learn(few, labels)
with mr.backend("numpy"):
    expected, exact = learn(few, labels)
if not np.allclose(loss, expected, rtol=1e-3) or not np.allclose(
    gradient, exact, rtol=0.02, atol=0.02 * np.abs(exact).max()
):
    sys.exit(f"expected the reference's loss {expected} and gradients, got {loss}")

if work == "train-resnet20":
    x, labels = mr.randn(128, 3, 32, 32), mr.arange(128) % 10
    def step():
        learn(x, labels)
        optimizer.step()
else:
    x = mr.randn(1, 3, 32, 32)
    net.eval()
    def step():
        with mr.no_grad():
            net(x).numpy()

for _ in range(3):
    step()
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
print(sum(times) / len(times) if work == "train-resnet20" else median(times), len(times))
"""
WORKS = ("train-resnet20", "infer-resnet20-1", "depth")


@contextlib.contextmanager
def beside(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many other programs that want a core each."""
    others = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(count)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(work: str, side: str, against: Path | None, seconds: float) -> float:
    """Seconds that the work takes, in a process of its own: of one step, or of the whole study.

    Raises:
        DeviceError: the process failed, or its kernels disagree with their references.
    """
    checkout = against if side.startswith("before") else OWN
    settings = {**os.environ, "PYTHONPATH": str(checkout)}
    settings.pop("OMP_WAIT_POLICY", None)
    if "passive" in side:
        settings["OMP_WAIT_POLICY"] = "passive"
    with tempfile.TemporaryDirectory() as folder:
        if work == "depth":
            command = ["-m", "minires", "depth", "--out", f"{folder}/study"]
        else:
            command = ["-c", STEPS, work, str(seconds)]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            env=settings,
            cwd=folder,
            check=False,
        )
        whole = time.perf_counter() - start
    if done.returncode:
        raise DeviceError(f"{work}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return whole if work == "depth" else float(done.stdout.split()[0])


def row(own: Sequence[float], times: Sequence[float]) -> dict[str, Any]:
    """The median of a side's times, and of their ratio to ``own`` in each round."""
    ratios = [b / a for a, b in zip(own, times)]
    return {
        "seconds": f"{median(times):.4g}",
        "ratio": f"{median(ratios):.3f}",
        "ratio_p20": f"{np.percentile(ratios, 20):.3f}",
        "ratio_p80": f"{np.percentile(ratios, 80):.3f}",
        "rounds": len(times),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a page: a line for each work and load, a column for each side."""
    sides = list(dict.fromkeys(row["side"] for row in rows))
    lines = [("work", "busy programs", *sides), ("---", "---:", *["---:"] * len(sides))]
    for work, busy in dict.fromkeys((row["work"], row["busy"]) for row in rows):
        cells = []
        for side in sides:
            (found,) = [r for r in rows if (r["work"], r["busy"], r["side"]) == (work, busy, side)]
            cell = shown(float(found["seconds"]))
            if side != "own":
                cell += f", {found['ratio']} ({found['ratio_p20']}-{found['ratio_p80']})"
            cells.append(cell)
        lines.append((work, str(busy), *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(seconds: float) -> str:
    """A time, as a table shows it."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def parser_of(
    description: str, example: str, works: Sequence[str], busy: Sequence[int], rounds: int
) -> argparse.ArgumentParser:
    """The options of a benchmark of works in processes of their own, whose sides take turns beside
    other programs; the last three arguments are what they are by default."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example: python benchmarks/{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    loads = " ".join(map(str, busy))
    parser.add_argument("--works", nargs="+", default=list(works), help=f"  [{' '.join(works)}]")
    parser.add_argument("--busy", nargs="+", type=int, default=list(busy), help=f"  [{loads}]")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"processes of each side  [{rounds}]"
    )
    parser.add_argument("--seconds", type=float, default=4, help="of steps in a process  [4]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    return parser


def check(op: str, options: argparse.Namespace, works: Sequence[str]) -> None:
    """Refuse options of :func:`parser_of` that mean nothing.

    Raises:
        ArgumentError: an unknown work, or a number out of range.
    """
    for work in options.works:
        if work not in works:
            raise unknown("work", work, works)
    if options.rounds < 1 or not options.seconds > 0 or min(options.busy) < 0:
        got = f"{options.rounds}, {options.seconds} and {options.busy}"
        raise ArgumentError(message(op, "rounds >= 1, seconds > 0 and busy >= 0", got))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    example = "busy.py --works train-resnet20 --busy 0 1 --rounds 3"
    parser = parser_of(__doc__ or "", example, WORKS, LOADS, rounds=5)
    parser.add_argument("--against", type=Path, help="another checkout of minires")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from minires.kernels.numba.threads import get_num_threads

    check("busy", options, WORKS)
    sides = ["own", "passive"]
    if options.against is not None:
        if not (options.against / "minires" / "__init__.py").exists():
            raise ArgumentError(message("--against", "a checkout of minires", options.against))
        options.against = options.against.resolve()
        sides += ["before", "before, passive"]
    facts = {k: v for k, v in environment(get_num_threads()).items() if k in COLUMNS}
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        turns = len(options.works) * len(options.busy) * (options.rounds + 1) * len(sides)
        task = progress.add_task("", total=turns)
        for work in options.works:
            for busy in options.busy:
                times: dict[str, list[float]] = {side: [] for side in sides}
                for turn in range(options.rounds + 1):  # the first, not counted, fills caches
                    for side in sides if turn % 2 == 0 else reversed(sides):
                        progress.update(task, description=f"{work}, {busy} busy, {side}")
                        with beside(busy if turn else 0):
                            seconds = options.seconds if turn else 0.01
                            if turn or work != "depth" or not rows:
                                taken = measure(work, side, options.against, seconds)
                        if turn:
                            times[side].append(taken)
                        progress.advance(task)
                for side in sides:
                    line = {"work": work, "busy": busy, "side": side}
                    rows.append(facts | line | row(times["own"], times[side]))
                append(options.results / "busy.csv", rows[-len(sides) :], COLUMNS)
    print(markdown(rows))


if __name__ == "__main__":
    main()

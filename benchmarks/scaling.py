"""What several processes on one machine gain, and what their working together costs.

Works, each measured in processes of its own, whose sides take turns:

- ``step``: a training step of ResNet-20, 128 images, by ``fit`` with capture: two ranks with half
  the threads each, over one process with all of them;
- ``share``: the same on two ranks: the time in collective operations, waiting for the other rank
  included, over the time of the step;
- ``sync``: a step on two ranks with synchronised batch norm, over one with plain batch norm, both
  fused and without capture;
- ``study``: the whole of ``minires depth`` as it is, on two ranks, over the sequential study.

Each process that trains on two ranks first compares some steps in float64, of an uneven batch, with
those of one process on the NumPy references, and times nothing if they disagree. ``--busy`` puts
programs beside the work that do nothing but count. Rows are appended to
``benchmarks/results/scaling.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from busy import beside, check, parser_of, shown
from harness import append, environment

from minires.errors import DeviceError, MiniresError

COLUMNS = (
    "date", "commit", "minires", "python", "numpy", "numba", "platform", "cpu", "load", "mpi",
    "work", "busy", "side", "seconds", "other", "other_seconds", "ratio", "ratio_p20", "ratio_p80",
    "rounds", "difference",
)  # fmt: skip
RANKS = 2
WORKS = ("step", "share", "sync", "study")
SIDES = {  # of each work: what is divided by what
    "step": ("2 ranks", "1 process"),
    "share": ("2 ranks",),
    "sync": ("2 ranks, synchronised", "2 ranks, plain"),
    "study": ("2 ranks", "1 process"),
}
MUST = {"step": 1.05, "share": 0.05, "sync": 1.10, "study": 0.7}

# Trains ResNet-20 by fit, and prints on rank 0: seconds of a step, seconds of it in collective
# operations, and the largest difference to the reference.
STEPS = """
import json, sys, time
from statistics import median
import numpy as np
import minires as mr
from minires import distributed, models, nn, optim
from minires.data import DataLoader, TensorDataset
from minires.distributed import group as groups
from minires.train import fit

kind, seconds, capture = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "captured"
LIMIT = 1e-12


def trained(steps, batch, dtype, depth, size, **options):
    mr.manual_seed(0)
    net = models.cifar_resnet(depth).to(dtype)
    if kind == "synchronised":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    random = np.random.default_rng(0)
    x = random.standard_normal((steps * batch, 3, size, size)).astype(dtype)
    data = TensorDataset(x, random.integers(0, 10, steps * batch))
    optimizer = optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    few = DataLoader(TensorDataset(x[:4], np.arange(4)), batch_size=4)
    fit(net, DataLoader(data, batch_size=batch, shuffle=True), few, optimizer, epochs=1,
        progress=False, **options)
    return net


def disagreement():
    \"\"\"Two ranks, synchronised, against one process on the references, in float64.\"\"\"
    global kind
    before, kind = kind, "synchronised"
    together = trained(3, 37, np.float64, 8, 16)
    with distributed.alone(), mr.backend("numpy"):
        one = trained(3, 37, np.float64, 8, 16)
    kind = before
    pairs = zip(together.state_dict().values(), one.state_dict().values())
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)


found = 0.0
if distributed.get_world_size() > 1:
    found = disagreement()
    if not found <= LIMIT:
        sys.exit(f"scaling: expected one process's weights to {LIMIT}, got {found:.3g} from them")

waited = 0.0
finish = groups.Launched._finish

def timed(self, *arguments):
    global waited
    start = time.perf_counter()
    finish(self, *arguments)
    waited += time.perf_counter() - start

groups.Launched._finish = timed
marks, waits = [], []

def mark(step, loss):
    marks.append(time.perf_counter())
    waits.append(waited)

WARM = 6  # steps in which kernels are loaded and the graph is recorded
trained(max(12, WARM + round(seconds / 0.08)), 128, np.float32, 20, 32, capture=capture,
        on_step=mark)
times, inside = np.diff(marks[WARM:]), np.diff(waits[WARM:])
if distributed.get_rank() == 0:
    print(json.dumps([float(np.median(times)), float(inside.sum() / times.sum()), found]))
"""


def measure(work: str, side: str, seconds: float) -> tuple[float, float, float]:
    """Seconds that a side takes, of a step or of the whole study; the share of them in collective
    operations; and the largest difference to the reference.

    Raises:
        DeviceError: the processes failed, or disagree with the reference.
    """
    launch = [] if side == "1 process" else _launcher()
    with tempfile.TemporaryDirectory() as folder:
        if work == "study":
            command = ["-m", "minires", "depth", "--out", f"{folder}/study"]
        else:
            kind = "synchronised" if side.endswith("synchronised") else "plain"
            captured = "captured" if work in ("step", "share") else "not"
            command = ["-c", STEPS, kind, str(seconds), captured]
        start = time.perf_counter()
        done = subprocess.run(
            [*launch, sys.executable, *command],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            cwd=folder,
            check=False,
        )
        whole = time.perf_counter() - start
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise DeviceError(f"{work}, {side}: {said[-1]}")
    if work == "study":
        return whole, 0.0, 0.0
    took, share, difference = json.loads(done.stdout)
    return took, share, difference


def _launcher() -> list[str]:
    own = Path(sys.prefix) / "bin" / "mpiexec"
    return [str(own) if own.exists() else "mpiexec", "-n", str(RANKS)]


def row(work: str, rounds: Sequence[dict[str, tuple[float, float, float]]]) -> dict[str, Any]:
    """What came of the rounds of a work: medians, and the ratio within each round."""
    side, *others = SIDES[work]
    if others:
        ratios = [each[side][0] / each[others[0]][0] for each in rounds]
    else:
        ratios = [each[side][1] for each in rounds]
    return {
        "work": work,
        "side": side,
        "seconds": f"{median(each[side][0] for each in rounds):.4g}",
        "other": others[0] if others else "",
        "other_seconds": f"{median(each[others[0]][0] for each in rounds):.4g}" if others else "",
        "ratio": f"{median(ratios):.3f}",
        "ratio_p20": f"{np.percentile(ratios, 20):.3f}",
        "ratio_p80": f"{np.percentile(ratios, 80):.3f}",
        "rounds": len(rounds),
        "difference": f"{max(found for each in rounds for *_, found in each.values()):.2g}",
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a page."""
    lines = [("work", "busy programs", "time", "over", "ratio", "must"), ("---", *["---:"] * 5)]
    for line in rows:
        other = line["other"] and f"{line['other']} {shown(float(line['other_seconds']))}"
        lines.append(
            (
                f"{line['work']}: {line['side']}",
                str(line["busy"]),
                shown(float(line["seconds"])),
                other or "the step",
                f"{line['ratio']} ({line['ratio_p20']}-{line['ratio_p80']})",
                f"{MUST[line['work']]:g}",
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    example = "scaling.py --works step share --rounds 3"
    options = parser_of(__doc__ or "", example, WORKS, (0,), rounds=7).parse_args(arguments)
    try:
        _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def _run(options: argparse.Namespace) -> None:
    from importlib.metadata import version

    from rich.console import Console
    from rich.progress import Progress

    from minires.kernels.numba.threads import get_num_threads

    check("scaling", options, WORKS)
    facts = {k: v for k, v in environment(get_num_threads()).items() if k in COLUMNS}
    facts["mpi"] = f"mpi4py {version('mpi4py')}"
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        sides = sum(len(SIDES[work]) for work in options.works)
        task = progress.add_task("", total=len(options.busy) * sides * options.rounds)
        for work in options.works:
            for busy in options.busy:
                rounds = []
                for turn in range(options.rounds):
                    taken = {}
                    for side in SIDES[work] if turn % 2 == 0 else reversed(SIDES[work]):
                        progress.update(task, description=f"{work}, {busy} busy, {side}")
                        with beside(busy):
                            taken[side] = measure(work, side, options.seconds)
                        progress.advance(task)
                    rounds.append(taken)
                rows.append({**facts, "busy": busy, **row(work, rounds)})
                append(options.results / "scaling.csv", rows[-1:], COLUMNS)
    print(markdown(rows))


if __name__ == "__main__":
    main()

"""How long minires takes for what residual networks do, and how long PyTorch takes for the same.

Rows on the CPU: training and inference of whole nets, as minires builds them and written as
torchvision writes them; peak memory; every convolution against oneDNN; batch norm with ReLU against
the bandwidth of a copy; small tensors; the share of ``minires depth`` outside kernels.

First both sides are compared: losses and gradients of training steps with PyTorch's in float64,
logits, or the results of a layer; if they disagree nothing is timed. Then they take turns in one
process, with as many threads each, PyTorch in the faster of NCHW and channels last, and the median
ratio of the rounds is the result. Each row is appended to ``benchmarks/results/vs_pytorch.csv`` as
it is done, and the newest of all rows are drawn beside it. Needs the extra ``parity``.

With ``--device cuda`` the rows are steps of nets on one GPU, in ``vs_pytorch_gpu.csv``: captured
steps against PyTorch's eager and compiled ones, in the same arithmetic (``versus/gpu.py``).
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from harness import RESULTS, append, environment

from minires.errors import ArgumentError, MiniresError, message, unknown

if TYPE_CHECKING:
    from versus.works import Work

ROUNDS, QUICK_ROUNDS = 15, 5


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/vs_pytorch.py --only 'train-resnet20*' conv-64-fwd",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="rows, or patterns of rows: see --list"
    )
    parser.add_argument("--list", action="store_true", help="the names of all rows")
    parser.add_argument("--quick", action="store_true", help="some small rows, 5 rounds")
    parser.add_argument("--rounds", type=int, help=f"rounds per row  [{ROUNDS}]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of both  [cpu]")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side  [2]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for CSV and PNG  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def all_rows(device: str) -> dict[str, Work]:
    """Every row of a device, by name."""
    from versus import gpu, works

    return gpu.works() if device == "cuda" else works.works()


def chosen(only: Sequence[str] | None, quick: bool, device: str = "cpu") -> list[str]:
    """Names of the rows to measure.

    Raises:
        ArgumentError: a name or pattern that fits no row.
    """
    rows = all_rows(device)
    if only is None:
        return [name for name, work in rows.items() if work.quick or not quick]
    names = []
    for pattern in only:
        found = fnmatch.filter(rows, pattern)
        if not found:
            raise unknown("row", pattern, rows)
        names += [name for name in found if name not in names]
    return names


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from versus import report

    import minires as mr
    from minires.device import existing

    console = Console()
    if options.list:
        for name, work in all_rows(options.device).items():
            console.print(f"{name:<34} {work.title}", highlight=False, soft_wrap=True)
        return
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    if rounds < 1:
        raise ArgumentError(message("--rounds", "at least 1", rounds))
    rows_there = all_rows(options.device)
    selected = [rows_there[name] for name in chosen(options.only, options.quick, options.device)]
    device = existing(options.device)
    mr.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    facts = environment(options.threads, device) | {"torch": torch.__version__}
    path, columns_of_file = options.results / "vs_pytorch.csv", report.COLUMNS
    if device.type == "cuda":
        facts |= {"cuda_of_torch": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        path, columns_of_file = options.results / "vs_pytorch_gpu.csv", report.GPU_COLUMNS
    rows: list[report.Row] = []
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeLeft(), console=console) as progress:
        task = progress.add_task("", total=sum(work.seconds for work in selected))
        done = 0.0
        for work in selected:
            progress.update(task, description=work.name, completed=done)
            step = work.seconds / (rounds + 1)
            done += work.seconds
            try:
                result = work.measure(rounds, lambda step=step: progress.advance(task, step))
            except Exception as error:
                if device.type == "cpu" or isinstance(error, MiniresError):
                    raise
                # PyTorch's compiler needs more than PyTorch: the other rows are worth having
                first = str(error).partition("\n")[0]
                failed.append(f"{work.name}: {type(error).__name__}: {first}")
                continue
            rows.append(report.row(work, result, facts))
            append(path, rows[-1:], columns_of_file)  # Ctrl-C loses no result
        progress.update(task, completed=done, visible=False)
    if rows:
        console.print(f"{', '.join(report.caption(rows))}.", style="bold", highlight=False)
        console.print(report.table(rows))
        console.print(f"Appended to {path}; drawn in {report.draw(path)}", soft_wrap=True)
    if failed:
        raise SystemExit("error: " + "\n".join(["rows that could not be measured:", *failed]))


if __name__ == "__main__":
    sys.exit(main())

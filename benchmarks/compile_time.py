"""How long the first training step takes: with an empty kernel cache, and with a warm one.

Each measurement is a new Python process that imports minires, builds a net, and trains it for two
steps on a batch of random images. It tells when its first step ended, which is counted from the
moment it was started, and how long both steps took. The first process has an empty cache folder,
of its own, and compiles every kernel it meets; the others find them there. Each row is appended to
``benchmarks/results/compile_time.csv``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from statistics import median
from typing import Any

from harness import RESULTS, append, environment

from minires.errors import ArgumentError, DeviceError, MiniresError, message

COLUMNS = (
    "date", "commit", "minires", "python", "numpy", "numba", "platform", "cpu", "threads", "load",
    "net", "batch", "cache", "processes", "start_to_first_step", "first_step", "second_step",
)  # fmt: skip

STEPS = """
import sys, time
import minires as mr
from minires import models, optim

name, batch, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
net = models.create(name)
optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
x, labels = mr.randn(batch, 3, size, size), mr.arange(batch) % 10
for _ in range(2):
    start = time.time()
    optimizer.zero_grad()
    loss = mr.cross_entropy(net(x), labels)
    loss.backward()
    optimizer.step()
    loss.item()
    print(start, time.time())
"""


@dataclass(frozen=True)
class Times:
    """Seconds: from the start of the process to the end of its first step; of the two steps."""

    to_first_step: float
    first_step: float
    second_step: float


def measure(net: str, batch: int, cache: Path) -> Times:
    """Two training steps in a new process that keeps its kernels in ``cache``.

    Raises:
        DeviceError: the process failed; with the end of what it said.
    """
    size = 32 if net.startswith("cifar_") else 224
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", STEPS, net, str(batch), str(size)],
        capture_output=True,
        text=True,
        env={**environ, "NUMBA_CACHE_DIR": str(cache)},
        check=False,
    )
    if done.returncode:
        raise DeviceError(f"training steps of {net}: {done.stderr.strip().splitlines()[-1]}")
    first, second = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
    return Times(first[1] - started, first[1] - first[0], second[1] - second[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/compile_time.py --net resnet50 --batch 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--net", default="cifar_resnet20", help="from the zoo  [cifar_resnet20]")
    parser.add_argument("--batch", type=int, default=128, help="images of a step  [128]")
    parser.add_argument("--rounds", type=int, default=5, help="processes with a warm cache  [5]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


def _run(options: argparse.Namespace) -> None:
    from minires.kernels.numba.threads import get_num_threads

    if options.rounds < 1:
        raise ArgumentError(message("--rounds", "at least 1", options.rounds))
    facts = environment(get_num_threads()) | {"net": options.net, "batch": options.batch}
    with tempfile.TemporaryDirectory() as folder:
        for cache, rounds in (("empty", 1), ("warm", options.rounds)):
            times = [measure(options.net, options.batch, Path(folder)) for _ in range(rounds)]
            line = row(cache, times)
            append(options.results / "compile_time.csv", [_known(facts) | line], COLUMNS)
            print(
                f"{options.net}, batch {options.batch}, {cache} cache: "
                f"process start to first step {line['start_to_first_step']} s, "
                f"first step {line['first_step']} s, second {line['second_step']} s "
                f"(median of {rounds})"
            )


def row(cache: str, times: Sequence[Times]) -> dict[str, Any]:
    """The medians of some processes, as columns of the CSV file."""
    return {
        "cache": cache,
        "processes": len(times),
        "start_to_first_step": f"{median(t.to_first_step for t in times):.3f}",
        "first_step": f"{median(t.first_step for t in times):.3f}",
        "second_step": f"{median(t.second_step for t in times):.3f}",
    }


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in COLUMNS if name in facts}


if __name__ == "__main__":
    main()

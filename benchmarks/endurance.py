"""Does memory grow, in the long run? Two checks that take minutes, so that no test has them.

* Training: a small residual network takes thousands of steps. The memory of its arrays and that of
  the process must be at the end what they were after the first steps.
* Graphs: graphs of every kind are made, some are looked at, some are run backward, and all are
  dropped, with Python's cycle collector off. Reference counts alone must take them away: what the
  collector finds in the end, and what the arrays hold, must be nothing.

Exits with an error if something is left.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError, MiniresError, message
from minires.kernels.numba import allocator
from minires.models import BasicBlock, cifar_resnet

SETTLED = 100  # steps after which memory has been seen by all
SLACK = 8 << 20  # bytes by which a process may have grown for reasons of its own


def resident() -> int:
    """Bytes of memory that the process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def train(steps: int, advance: Callable[[], object]) -> tuple[int, int]:
    """(growth of the arrays' memory, growth of the process) in bytes, after the first steps."""
    net = cifar_resnet(depth=8)
    optimizer = optim.SGD(net.parameters(), 0.01, momentum=0.9)
    before = 0, 0
    for step in range(steps):
        batch = 8 + step % 3  # sizes change, as the last batch of an epoch does
        optimizer.zero_grad()
        mr.cross_entropy(net(mr.randn(batch, 3, 16, 16)), mr.arange(batch) % 10).backward()
        optimizer.step()
        if step == SETTLED - 1:
            before = allocator.in_use(), resident()
        advance()
    return allocator.in_use() - before[0], resident() - before[1]


def make_graphs(count: int, advance: Callable[[], object]) -> tuple[int, int]:
    """(objects that only the cycle collector found, growth of the arrays' memory in bytes)."""
    conv, norm, block = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), BasicBlock(4, 4)
    x = mr.randn(8, 4, 16, 16, requires_grad=True)
    made: Sequence[Callable[[], mr.Tensor]] = (
        lambda: conv(x),
        lambda: norm(conv(x)),
        lambda: mr.relu(norm(conv(x)) + x),
        lambda: block(x),
        lambda: (x * 2.0).exp()[:1],
        lambda: mr.softmax(x.reshape(8, -1)).sum(),
    )

    def graph(i: int) -> None:
        y, end = made[i % len(made)](), i // len(made) % 3
        if end == 0:
            y.sum().backward()
            x.grad = None
        elif end == 1:
            y.detach().numpy()

    for i in range(3 * len(made)):
        graph(i)
    gc.collect()
    gc.disable()
    before = allocator.in_use()
    try:
        for i in range(count):
            graph(i)
            advance()
        return gc.collect(), allocator.in_use() - before
    finally:
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/endurance.py --steps 300 --graphs 1000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps  [2000]")
    parser.add_argument("--graphs", type=int, default=100_000, help="graphs  [100000]")
    options = parser.parse_args(arguments)
    try:
        left = _run(options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error
    sys.exit(f"error: {left}" if left else 0)


def _run(options: argparse.Namespace) -> str:
    from rich.progress import Progress

    if options.steps <= SETTLED:
        raise ArgumentError(message("--steps", f"more than {SETTLED}", options.steps))
    with Progress(transient=True) as progress:
        task = progress.add_task("training", total=options.steps)
        arrays, process = train(options.steps, lambda: progress.advance(task))
        task = progress.add_task("graphs", total=options.graphs)
        garbage, kept = make_graphs(options.graphs, lambda: progress.advance(task))
    print(
        f"After {options.steps:,} steps: arrays {arrays:+,} bytes, process {process / 2**20:+.1f} "
        f"MiB since step {SETTLED}. After {options.graphs:,} graphs: {garbage} objects for the "
        f"cycle collector, arrays {kept:+,} bytes."
    )
    found = {
        "the memory of arrays grew in training": arrays > 0,
        "the process grew in training": process > SLACK,
        "graphs left garbage": garbage > 0,
        "graphs left memory in use": kept > 0,
    }
    return "; ".join(text for text, true in found.items() if true)


if __name__ == "__main__":
    main()

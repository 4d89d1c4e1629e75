"""What a captured training step is made of on a GPU: the nodes of its CUDA graph, by name.

A small net's kernels are short, and the GPU takes 1.5 to 2 us from one node of a graph to the next:
that many nodes are as long as the work itself. Needs no GPU: the step is recorded on the stand-in
for CuPy (``tests/cupy_stand_in``), whose kernels here do nothing at all. Which kernels there are
depends on the sizes, not on the numbers.

``python benchmarks/gpu_nodes.py`` prints the table for a ResNet-20; ``--list`` every node.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import minires as mr
from minires import optim
from minires.captured.recorder import Graph
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.work import Work
from minires.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from cupy_stand_in import cupy_installed, module, streams

BATCH = 128


@contextmanager
def idle_gpu() -> Iterator[None]:
    """Inside, there is a GPU whose kernels do nothing."""

    def launch(*_: Any, **__: Any) -> None:
        streams.launch(lambda: None)

    with cupy_installed(), patch.object(Kernel, "_function", lambda kernel, device: launch):
        yield


def step_of(depth: int) -> Graph:
    """The graph of a training step of a residual network; its second step, for the first one
    begins what an optimiser keeps."""
    device = "cuda"
    net = mr.models.cifar_resnet(depth).to(device)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    x = mr.zeros(BATCH, 3, 32, 32, device=device)
    labels = mr.zeros(BATCH, dtype="int64", device=device)
    state = [*net.parameters(), *net.buffers()]

    def step() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return loss._array

    step()
    graph = Graph(x.device, [tensor._version for tensor in state])
    with graph.recorded():
        step()
    graph.join()
    return graph


def nodes_of(graph: Graph) -> list[Work]:
    """What each node of the CUDA graph does, in order. A call of CuPy may be several nodes."""
    found, stream = [], module.cuda.Stream(non_blocking=True)
    for part in graph.nodes[-1].parts:
        with stream:
            stream.begin_capture()
            part()
            count = len(stream.end_capture()._work)
        works = [work for work, _ in part.one_by_one()] if hasattr(part, "one_by_one") else None
        found += works or [part.work] * count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--list", action="store_true", help="every node, with its shapes")
    options = parser.parse_args()
    with idle_gpu():
        nodes = nodes_of(step_of(options.depth))
    if options.list:
        for work in nodes:
            print(work.name, *[f"{name}{list(shape)}" for name, shape in work.shapes])
        print()
    for name, count in Counter(work.name for work in nodes).most_common():
        print(f"{count:5d}  {name}")
    print(f"{len(nodes):5d}  nodes of a training step, ResNet-{options.depth}")


if __name__ == "__main__":
    main()

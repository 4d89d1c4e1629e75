"""How data-parallel training of residual networks scales, on paper: no cluster is needed.

A step of p workers is a forward pass, a third of the time that a worker computes, and a backward
pass, two thirds, in which the gradients of the last layers are ready first. Gradients are added up
over all workers in buckets, one after another, as they fill; the optimiser waits for the last one.
An all-reduce of n bytes over p workers, each message of which costs ``alpha`` seconds and ``beta``
more for each byte (Hockney 1994), takes

    ring = 2 (p - 1) alpha + 2 (p - 1)/p n beta       tree = 2 ceil(log2 p) alpha + 2 n beta

(Patarasu and Yuan 2009; Sanders, Speck and Traeff 2009), and the cheaper of the two is used. In
nodes of g GPUs it begins with a ring inside each, by NVLink, which leaves each GPU n/g bytes to
exchange with its likes in other nodes; these g exchanges share the node's network card.

``python benchmarks/scaling_model.py`` prints the tables and everything that is assumed in them;
``--write`` puts the tables into ``docs/distributed.md``, and draws its figure.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import minires as mr
from minires import models
from minires.errors import ArgumentError, message
from minires.files import write_atomic
from minires.report import figures

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "distributed.md", DOCS / "images" / "scaling.png"
BEGIN, END = "<!-- scaling on paper -->", "<!-- end of scaling on paper -->"

WORKERS = (8, 16, 64, 256, 1024)
COUNTS = (8, 32, 128, 256, 1024)


@dataclass(frozen=True)
class Network:
    """What of a network matters here.

    Attributes:
        layers: (parameters, multiply-adds of an image) of each, the last layer first, as the
            backward pass comes to them.
        norms: the channels of each batch norm.
    """

    name: str
    layers: tuple[tuple[int, int], ...]
    norms: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(parameters for parameters, _ in self.layers)


@dataclass(frozen=True)
class Wire:
    """Seconds that a message takes, ``alpha``, and that each byte takes, ``beta``."""

    name: str
    alpha: float
    beta: float


@dataclass(frozen=True)
class Work:
    """A network on one kind of worker, on which b images take ``fixed`` + b / ``rate`` seconds."""

    network: Network
    fixed: float
    rate: float
    batch: int

    def seconds(self, batch: float) -> float:
        """What a worker computes on a batch takes."""
        return self.fixed + batch / self.rate


@dataclass(frozen=True)
class Cluster:
    """Workers, and how they exchange gradients.

    Attributes:
        wire: between nodes; a node has one card.
        per_node: workers in a node.
        inside: between the workers of a node.
        bucket: bytes of gradients that are added up at once, at least.
        bytes_per: of a gradient's entry on the wire.
        overlap: whether the backward pass goes on meanwhile.
        steal: the share of the exchange by which it slows that pass down.
        jitter: standard deviation of a worker's time for a step, relative; all wait for the
            slowest.
        start: seconds to launch an exchange.
    """

    wire: Wire
    per_node: int
    inside: Wire | None
    bucket: float = 25e6
    bytes_per: int = 4
    overlap: bool = True
    steal: float = 0.1
    jitter: float = 0.01
    start: float = 8e-6


# **** what is assumed ****

REACHED = 0.9  # of a network card's rate
ETHERNET10 = Wire("10 Gb/s", 25e-6, 8 / (10e9 * REACHED))
ETHERNET100 = Wire("100 Gb/s", 5e-6, 8 / (100e9 * REACHED))
INFINIBAND400 = Wire("400 Gb/s", 4e-6, 8 / (400e9 * REACHED))
WIRES = (ETHERNET10, ETHERNET100, INFINIBAND400)
NVLINK = Wire("NVLink", 2e-6, 1 / 360e9)
FACEBOOK = Wire("50 Gb/s", 25e-6, 8 / (50e9 * REACHED))

GPUS = {wire: Cluster(wire, 8, NVLINK) for wire in (*WIRES, FACEBOOK)}
CPUS = {wire: Cluster(wire, 1, None, overlap=False, steal=0) for wire in WIRES}

ASSUMED = (  # what, how much, where from
    (
        "a message by TCP on 10 Gb/s Ethernet, RDMA on 100, InfiniBand on 400",
        "25, 5 and 4 us; 0.9 of the rate",
        "usual figures; no network was measured",
    ),
    (
        "NVLink of an H100 or H200, 8 in a node",
        "2 us, 360 GB/s each way",
        "450 GB/s less 20 % of protocol: NVIDIA/nccl-tests#212",
    ),
    (
        "nodes",
        "8 GPUs and one network card",
        "those with a card for each GPU scale better",
    ),
    ("launching an all-reduce", "8 us", "two launches of a kernel; not measured"),
    (
        "a step on an H200",
        "ResNet-50 (16 bits) 2.5 ms + b/3500 s, ResNet-20 0.5 ms + b/60000 s",
        "not measured: minires has not run on several GPUs",
    ),
    (
        "a step on a node of 32 cores",
        "ResNet-20 7.75 ms for 128 images",
        "124 ms on two cores (benchmarks/README.md), spread over 16 times as many without loss",
    ),
    ("jitter", "1 % of a step", "the slowest of p normal draws is sqrt(2 ln p) deviations late"),
    (
        "exchange beside the backward pass",
        "slows it down by 10 % of its own time",
        "it takes multiprocessors and memory; not measured",
    ),
    ("on CPUs", "no overlap", "MPI moves on while it is called: docs/distributed.md"),
    ("buckets", "25 MB where nothing else is said", "PyTorch's default"),
    ("gradients on the wire", "float32 where nothing else is said", ""),
    (
        "backward pass",
        "two thirds of a step, by multiply-adds",
        "two products for each forward one",
    ),
)


@functools.cache
def resnet50() -> Work:
    """ResNet-50 on an H200, 64 images of 224x224."""
    return Work(network("ResNet-50", models.resnet50(), 224, 7), 2.5e-3, 3500, 64)


@functools.cache
def resnet20() -> Work:
    """ResNet-20 on an H200, 128 images of 32x32."""
    return Work(network("ResNet-20", models.cifar_resnet(20), 32, 1), 0.5e-3, 60_000, 128)


def resnet20_on_cpus() -> Work:
    """ResNet-20 on a node of 32 cores, 128 images."""
    return replace(resnet20(), fixed=0.0, rate=128 / (0.124 / 16))


def goyals() -> Work:
    """ResNet-50 as Goyal et al. trained it: 32 images on a P100."""
    return replace(resnet50(), fixed=0.0, rate=220, batch=32)


def network(name: str, net: Any, size: int, shrunk: int) -> Network:
    """The layers of a network for images of ``size`` x ``size``.

    It is run on images ``shrunk`` times smaller, by which all its sizes must be divisible: each
    convolution then does exactly shrunk² times less.
    """
    with mr.backend("numpy"):  # nothing to compile for one small image
        rows = mr.summary(net, (1, 3, size // shrunk, size // shrunk)).rows
    layers = [
        (row.params, row.mult_adds * (shrunk**2 if row.kind == "Conv2d" else 1))
        for row in rows
        if row.params
    ]
    norms = [row.params // 2 for row in rows if row.kind == "BatchNorm2d"]
    return Network(name, tuple(layers[::-1]), tuple(norms))


# **** the model ****


def ring(nbytes: float, workers: int, wire: Wire) -> float:
    """Seconds of an all-reduce by a ring: each worker passes on a p-th of the bytes, 2 (p - 1)
    times."""
    rounds = 2 * (workers - 1)
    return rounds * (wire.alpha + nbytes / workers * wire.beta)


def tree(nbytes: float, workers: int, wire: Wire) -> float:
    """Seconds of an all-reduce up two binary trees and down again, each with half of the bytes, in
    small pieces that follow one another."""
    return 2 * math.ceil(math.log2(workers)) * wire.alpha + 2 * nbytes * wire.beta


def all_reduce(nbytes: float, workers: int, cluster: Cluster) -> float:
    """Seconds of an all-reduce over ``workers`` workers of a cluster.

    Raises:
        ArgumentError: neither part of a node nor full nodes.
    """
    inside = min(workers, cluster.per_node)
    nodes, rest = divmod(workers, inside)
    if rest:
        expected = f"full nodes of {cluster.per_node} workers"
        raise ArgumentError(message("scaling_model", expected, f"{workers} workers"))
    seconds = cluster.start
    if inside > 1 and cluster.inside is not None:
        seconds += ring(nbytes, inside, cluster.inside)
    if nodes > 1:
        shared = replace(cluster.wire, beta=cluster.wire.beta * inside)
        seconds += min(way(nbytes / inside, nodes, shared) for way in (ring, tree))
    return seconds


def step(work: Work, batch: float, workers: int, cluster: Cluster) -> float:
    """Seconds of a training step on ``batch`` images for each of ``workers`` workers."""
    compute = work.seconds(batch)
    if workers == 1:
        return compute
    compute *= 1 + cluster.jitter * math.sqrt(2 * math.log(workers))
    backward = compute * 2 / 3
    operations = sum(count for _, count in work.network.layers)
    now, filled, free, exchanged = compute - backward, 0.0, 0.0, 0.0
    for place, (parameters, count) in enumerate(work.network.layers, 1):
        now += backward * count / operations
        filled += parameters * cluster.bytes_per
        if filled >= cluster.bucket or place == len(work.network.layers):
            took = all_reduce(filled, workers, cluster)
            free = max(now if cluster.overlap else compute, free) + took
            exchanged, filled = exchanged + took, 0.0
    stolen = cluster.steal * min(exchanged, backward) if cluster.overlap else 0.0
    return max(now, free) + stolen


def efficiency(work: Work, workers: int, cluster: Cluster, batch: float | None = None) -> float:
    """Images a second of ``workers`` workers, each with ``batch`` images (by default the work's
    own), over as many times those of one: weak scaling."""
    own = work.batch if batch is None else batch
    return work.seconds(own) / step(work, own, workers, cluster)


def speedup(work: Work, whole: int, workers: int, cluster: Cluster) -> float:
    """How many times faster a step on ``whole`` images is on ``workers`` workers than on one:
    strong scaling."""
    return work.seconds(whole) / step(work, whole / workers, workers, cluster)


def synchronised_norms(work: Work, workers: int, cluster: Cluster) -> float:
    """Seconds of a step that synchronised batch norm adds: two all-reduces of two numbers a channel
    for each, which nothing hides."""
    channels = work.network.norms
    return sum(2 * all_reduce(8 * many, workers, cluster) for many in channels)


def against_goyal(rate: float = 220) -> float:
    """Images a second of 256 P100 over 32 times those of 8, of which Goyal et al. measured "about
    90 %" (arXiv:1706.02677): 32 images each, nodes of 8 with NVLink, 50 Gb/s Ethernet. ``rate`` is
    the images that one P100 trains in a second, which they do not tell."""
    work, cluster = replace(goyals(), rate=rate), GPUS[FACEBOOK]
    return step(work, work.batch, 8, cluster) / step(work, work.batch, 256, cluster)


# **** tables ****

Row = tuple[str, ...]
Table = tuple[str, Row, list[Row]]  # title, heads, rows


def tables() -> Iterator[Table]:
    """All of them."""
    yield (
        "Weak scaling: the share of p workers' full rate, with as many images for each at any p",
        ("", *(f"{workers:,}" for workers in WORKERS)),
        [
            (name, *(f"{efficiency(work, p, cluster):.2f}" for p in WORKERS))
            for name, work, cluster in _weak()
        ],
    )
    yield (
        "Strong scaling: how many times faster p workers are than one on one batch, at 400 Gb/s",
        ("", *(f"{workers:,}" for workers in COUNTS)),
        [
            (
                f"{work.network.name}, batch {whole:,}",
                *(
                    f"{speedup(work, whole, p, GPUS[INFINIBAND400]):.1f}" if p <= whole else ""
                    for p in COUNTS
                ),
            )
            for work, batches in ((resnet50(), (256, 8192, 32768)), (resnet20(), (128, 1024)))
            for whole in batches
        ],
    )
    sizes = (16, 32, 64, 128)
    yield (
        "Images for each worker: ResNet-50 on 1,024 GPUs, buckets of 10 MB",
        ("", *map(str, sizes)),
        [
            (wire.name, *(f"{efficiency(resnet50(), 1024, _small(wire), b):.2f}" for b in sizes))
            for wire in WIRES[1:]
        ],
    )


def _small(wire: Wire) -> Cluster:
    return replace(GPUS[wire], bucket=10e6)


def _weak() -> Iterator[tuple[str, Work, Cluster]]:
    """The rows of the first table."""
    big, small, cpus = resnet50(), resnet20(), resnet20_on_cpus()
    label = f"ResNet-50, {big.batch} images a GPU"
    for wire in WIRES:
        yield f"{label}, {wire.name}", big, GPUS[wire]
        if wire is ETHERNET100:
            yield "the same, no overlap", big, replace(GPUS[wire], overlap=False)
            halved = replace(GPUS[wire], bytes_per=2, bucket=5e6)
            yield "the same, gradients of 16 bits, buckets of 5 MB", big, halved
    yield "the same, buckets of 10 MB", big, _small(INFINIBAND400)
    for wire in WIRES:
        yield f"ResNet-20, {small.batch} images a GPU, {wire.name}", small, GPUS[wire]
    for wire in WIRES[:2]:
        label = f"ResNet-20, {cpus.batch} images a node of 32 cores, {wire.name}"
        yield label, cpus, CPUS[wire]


def sentences() -> Iterator[str]:
    """What the tables do not say."""
    yield (
        f"Against Goyal et al. (2017), who measured about 90 % from 8 to 256 GPUs: "
        f"{against_goyal():.2f} at 220 images/s for one P100, {against_goyal(140):.2f} at 140."
    )
    within, across = (
        1e3 * synchronised_norms(resnet50(), p, GPUS[INFINIBAND400]) for p in (8, 1024)
    )
    yield (
        f"Synchronised batch norm adds {within:.1f} ms to a step of ResNet-50 on 8 GPUs, and "
        f"{across:.1f} ms on 1,024, where a step takes "
        f"{1e3 * step(resnet50(), 64, 1024, GPUS[INFINIBAND400]):.0f} ms."
    )


def markdown() -> str:
    """Tables and sentences for the page."""
    parts = []
    for title, heads, rows in tables():
        parts.append(f"**{title}.**\n")
        parts.append(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
        parts += [f"| {' | '.join(row)} |" for row in rows]
        parts.append("")
    parts += [f"{sentence}\n" for sentence in sentences()]
    parts += ["| assumed | how much | source |\n| --- | --- | --- |"]
    parts += [f"| {' | '.join(row)} |" for row in ASSUMED]
    return "\n".join(parts)


@figures.styled
def figure() -> Any:
    """Weak scaling as curves."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(6.4, 3.6), layout=figures.layout())
    axes = result.add_subplot()
    counts = [1 << k for k in range(11)]
    blue, vermillion = figures.KIND_COLOURS["residual"], figures.KIND_COLOURS["plain"]
    styles = {ETHERNET10: ":", ETHERNET100: figures.DASHED, INFINIBAND400: "-"}
    lines = [
        (f"ResNet-50, {wire.name}", resnet50(), _small(wire), blue, styles[wire])
        for wire in reversed(WIRES)
    ]
    cpus = resnet20_on_cpus(), CPUS[ETHERNET10]
    lines.append((f"ResNet-20 on CPUs, {ETHERNET10.name}", *cpus, vermillion, styles[ETHERNET10]))
    for label, work, cluster, colour, style in lines:
        shares = [efficiency(work, p, cluster) for p in counts]
        axes.plot(counts, shares, color=colour, linestyle=style, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts[::2], [f"{count:,}" for count in counts[::2]])
    axes.set(ylim=(0, 1.03), xlabel="workers", ylabel="share of their full rate")
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.42))
    notes = ["as many images for each worker at any number; on paper, not measured"]
    figures.heading(result, "Where scaling bends", notes)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/scaling_model.py --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    options = parser.parse_args(arguments)
    if options.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        write_atomic(PAGE, f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{rest.split(END)[1]}")
        write_atomic(FIGURE, figures.to_bytes(figure(), "png"))
        return
    _show()


def _show() -> None:
    from rich.console import Console
    from rich.table import Table as Shown

    console = Console()
    assumed: Table = ("What is assumed", ("assumed", "how much", "source"), list(ASSUMED))
    for title, heads, rows in (*tables(), assumed):
        shown = Shown(title=title, title_justify="left")
        for place, head in enumerate(heads):
            numbers = place > 0 and heads is not assumed[1]
            shown.add_column(head, justify="right" if numbers else "left")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    for sentence in sentences():
        console.print(sentence)


if __name__ == "__main__":
    main()

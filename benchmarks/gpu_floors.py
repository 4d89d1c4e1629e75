"""What a GPU must at least do for each layer of a residual network, and how long that takes.

For every shape of convolution, batch norm, pooling and loss in a net: the operations, the bytes
that must move (inputs read once, outputs written once), and the longer of the two times that these
take on an H200. Needs no GPU: the layers are those of a forward pass on the CPU.

``python benchmarks/gpu_floors.py`` prints the tables; ``--write`` puts them into
``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minires as mr
from minires.files import write_atomic
from minires.ops.conv2d import Conv2dGeometry

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- floors of a GPU -->", "<!-- end of floors -->"

BANDWIDTH = 4.3e12  # bytes/s that a copy reaches on an H200, of 4.8e12 in its data sheet
# operations/s of its data sheet, without sparsity; by the names of float32_matmul_precision
PEAK = {"highest": 67e12, "high": 495e12, "medium": 990e12}
ARITHMETIC = {"highest": "fp32", "high": "tf32", "medium": "bf16"}
ITEM = 4  # bytes of a float32

# name: (how to make it, shape of an image, batch)
NETS = {
    "ResNet-20": (lambda: mr.models.cifar_resnet(20), (3, 32, 32), 128),
    "ResNet-50": (lambda: mr.models.resnet50(), (3, 224, 224), 64),
}


@dataclass(frozen=True)
class Layer:
    """One kernel of a net on one shape.

    Attributes:
        kernel: as in ``conv2d``, for each of its three directions.
        shape: for people.
        operations: of one call, a multiply-add is two.
        bytes: that one call must move.
        geometry: of a convolution.
    """

    kernel: str
    shape: str
    operations: int
    bytes: int
    geometry: Conv2dGeometry | None = None

    def seconds(self, precision: str) -> tuple[float, float]:
        """The floor by operations, and the floor by bytes."""
        # only convolutions and matrix products are done by tensor cores
        peak = PEAK[precision] if self.kernel in ("conv2d", "linear") else PEAK["highest"]
        return self.operations / peak, self.bytes / BANDWIDTH


def layers(name: str) -> dict[Layer, int]:
    """The layers of a net of :data:`NETS`, each with how often it is there."""
    make, image, batch = NETS[name]
    net, found = make(), {}

    def see(module: Any, inputs: Any, output: Any) -> None:
        for layer in _layers_of(module, inputs[0].shape, output.shape, batch):
            found[layer] = found.get(layer, 0) + 1

    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(see)
    with mr.no_grad():
        net(mr.zeros(2, *image))
    for layer in _others(net, batch):
        found[layer] = 1
    return found


_geometries: dict[Any, Conv2dGeometry] = {}  # a geometry is equal to itself alone


def _layers_of(module: Any, x: tuple[int, ...], y: tuple[int, ...], batch: int) -> Iterator[Layer]:
    """The kernels that a module with input (n, ...) and output (n, ...) becomes for a batch."""
    numbers_in, numbers_out = batch * _product(x[1:]), batch * _product(y[1:])
    if isinstance(module, mr.nn.Conv2d):
        options = module.stride, module.padding, module.dilation, module.groups
        sizes = ((batch, *x[1:]), module.weight.shape, *options)
        g = _geometries.setdefault(sizes, Conv2dGeometry.from_shapes(*sizes))
        moved = ITEM * (numbers_in + numbers_out + _product(module.weight.shape))
        kernel = f"{g.k_h}x{g.k_w}, stride {g.stride[0]}"
        shape = f"{g.c_in}x{g.h_in}x{g.w_in} to {g.c_out}, {kernel}"
        yield Layer("conv2d", shape, 2 * g.multiply_adds, moved, g)
    elif isinstance(module, mr.nn.BatchNorm2d):
        shape = "x".join(map(str, x[1:]))
        yield Layer("bn + relu, forward", shape, 4 * numbers_in, 2 * ITEM * numbers_in)
        yield Layer("bn + add + relu, forward", shape, 5 * numbers_in, 3 * ITEM * numbers_in)
        yield Layer("bn, backward", shape, 8 * numbers_in, 5 * ITEM * numbers_in)
    elif isinstance(module, mr.nn.MaxPool2d):
        shape = "x".join(map(str, x[1:]))
        moved = ITEM * (numbers_in + 2 * numbers_out)  # and the index
        yield Layer("max_pool2d, each way", shape, numbers_in, moved)
    elif isinstance(module, mr.nn.Linear):
        c_out, c_in = module.weight.shape
        moved = ITEM * (numbers_in + numbers_out + c_in * c_out)
        yield Layer("linear", f"{c_in} to {c_out}", 2 * batch * c_in * c_out, moved)


def _others(net: Any, batch: int) -> Iterator[Layer]:
    """The loss, and the update of all parameters."""
    classes = net.fc.weight.shape[0]
    yield Layer(
        "cross_entropy, each way", f"{batch}x{classes}", 6 * batch * classes, 8 * batch * classes
    )
    numbers = sum(p.numel() for p in net.parameters())
    yield Layer("update, SGD", f"{numbers:,} parameters", 6 * numbers, 5 * ITEM * numbers)


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def markdown() -> str:
    """The tables of all nets."""
    parts = []
    for name, (_, image, batch) in NETS.items():
        size = f"{image[1]}x{image[2]}"
        parts.append(f"**{name}**, {size}, batch {batch}; each line is one call.\n")
        heading = ("kernel", "shape", "calls", "GFLOP", "MB", "bytes µs")
        heading += tuple(f"floor {ARITHMETIC[p]} µs" for p in PEAK)
        parts.append(f"| {' | '.join(heading)} |\n| --- | --- |{' ---: |' * (len(heading) - 2)}")
        found = layers(name)
        for layer in sorted(found, key=lambda layer: layer.kernel):
            floors = []
            for precision in PEAK:
                operations, moved = layer.seconds(precision)
                mark = "**" if operations > moved else ""
                floors.append(f"{mark}{1e6 * max(operations, moved):.2f}{mark}")
            gigas, megas = layer.operations / 1e9, layer.bytes / 1e6
            moved = 1e6 * layer.bytes / BANDWIDTH
            cells = (layer.kernel, layer.shape, found[layer], f"{gigas:.3f}", f"{megas:.2f}")
            parts.append(f"| {' | '.join(map(str, (*cells, f'{moved:.2f}', *floors)))} |")
        parts.append("")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/gpu_floors.py --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    options = parser.parse_args(arguments)
    if not options.write:
        print(markdown())
        return
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    write_atomic(README, f"{before}{BEGIN}\n\n{markdown()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

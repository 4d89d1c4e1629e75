"""Times the CUDA kernels of residual networks on a GPU: convolutions against cuDNN, batch norm
against a copy, each against its floor.

Every convolution shape of ResNet-20 (batch 128) and ResNet-50 (batch 64) in its three directions,
in fp32 and in tf32. First each kernel's result on two images is compared with the NumPy reference,
and its result on the whole batch with PyTorch's in exact float32; one that disagrees is not
timed. Then both sides are recorded as CUDA graphs of many calls, so that no Python stands between
the launches, and the graphs take turns. PyTorch runs channels last with ``cudnn.benchmark`` on and
``allow_tf32`` set to the arithmetic of the row. Rows are appended to
``benchmarks/results/gpu_kernels.csv`` one by one: what is measured is not lost when time is up.

Needs a GPU, CuPy and, for the other side, PyTorch with CUDA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gpu_floors
import numpy as np
from gpu_floors import ARITHMETIC, Layer
from harness import RESULTS, Disagreement, append

import minires as mr
from minires.device import Device, cupy
from minires.environment import describe
from minires.errors import MiniresError, message
from minires.kernels.epilogue import Epilogue

COLUMNS = (
    "date", "commit", "gpu", "driver", "cuda", "cupy", "torch", "net", "kernel", "shape",
    "arithmetic", "microseconds", "other", "other_microseconds", "ratio", "ratio_p20", "ratio_p80",
    "rounds", "error", "floor_microseconds", "of_floor",
)  # fmt: skip
DIRECTIONS = ("conv2d_fwd", "conv2d_bwd_input", "conv2d_bwd_weight")
TOLERANCES = {"highest": 1e-4, "high": 5e-3}  # of the largest entry
CALLS, ROUNDS = 20, 9  # calls of one graph; rounds, in each of which both sides have a turn


def normal(*shape: int, seed: int = 0) -> Any:
    """Standard normal draws, float32, on the GPU."""
    draws = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return cupy().asarray(draws)


# -- clocks


def minires_graph(run: Callable[[], object]) -> Callable[[], float]:
    """A function that runs ``run`` CALLS times as one CUDA graph and returns seconds per call."""
    cuda = cupy().cuda
    stream = cuda.Stream(non_blocking=True)
    with stream:
        run()  # compiles, and allocates from the pool
        stream.synchronize()
        stream.begin_capture()
        for _ in range(CALLS):
            run()
        graph = stream.end_capture()
        start, end = cuda.Event(), cuda.Event()

    def timed() -> float:
        with stream:
            graph.launch(stream)  # not timed: caches and clocks are warm again
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
        return float(cuda.get_elapsed_time(start, end)) / 1e3 / CALLS

    timed.kept = (graph, run)  # type: ignore[attr-defined]  # what the graph reads and writes
    return timed


def torch_graph(run: Callable[[], object]) -> Callable[[], float]:
    """The same for PyTorch."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):  # cuDNN tries its algorithms, which may not be captured
            run()
    torch.cuda.synchronize()
    graph, kept = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            kept[:] = [run()]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        graph.replay()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / CALLS

    return timed


def in_turns(mine: Callable[[], float], theirs: Callable[[], float]) -> tuple[Any, Any]:
    """Seconds per call of both sides, round by round; who comes first changes every round."""
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            times[side].append((mine, theirs)[side]())
    return np.array(times[0]), np.array(times[1])


# -- convolutions against cuDNN


class Convolution:
    """A convolution of a net: arrays of its sizes, and both sides in each direction."""

    def __init__(self, layer: Layer, images: int | None = None) -> None:
        g = layer.geometry
        assert g is not None  # of a layer whose kernel is conv2d
        n = g.n if images is None else images
        shape = (n, g.c_in, g.h_in, g.w_in)
        self.w = normal(g.c_out, g.c_in // g.groups, g.k_h, g.k_w, seed=1)
        self.g = type(g).from_shapes(shape, self.w.shape, g.stride, g.padding, g.dilation, g.groups)
        self.x = normal(n, g.h_in, g.w_in, g.c_in)
        self.gy = normal(n, g.h_out, g.w_out, g.c_out, seed=2)

    def minires(self, direction: str) -> tuple[Callable[[], object], Any]:
        """A function that fills the array that is given with it."""
        from minires.ops.conv2d import kernel_cuda

        out = cupy().empty_like(self._like(direction))
        kernel = getattr(kernel_cuda, direction)
        a, b = self._operands(direction)
        return lambda: kernel(a, b, out, self.g), out

    def numpy(self, direction: str) -> np.ndarray[Any, Any]:
        """The reference's result."""
        from minires.ops.conv2d import kernel_numpy

        out = np.empty_like(self._like(direction).get())
        a, b = (array.get() for array in self._operands(direction))
        getattr(kernel_numpy, direction)(a, b, out, self.g)
        return out

    def torch(self, direction: str) -> Callable[[], Any]:
        """A function that returns PyTorch's result, as a tensor of PyTorch's shape."""
        import torch

        def tensor(array: Any) -> Any:  # channels last: a view of the same memory
            return torch.from_dlpack(array).permute(0, 3, 1, 2)

        x, gy, g = tensor(self.x), tensor(self.gy), self.g
        w = torch.from_dlpack(self.w).contiguous(memory_format=torch.channels_last)
        if direction == "conv2d_fwd":
            return lambda: torch.conv2d(x, w, None, g.stride, g.padding, g.dilation, g.groups)
        wanted = [direction == "conv2d_bwd_input", direction == "conv2d_bwd_weight", False]
        place = int(wanted[1])
        backward = torch.ops.aten.convolution_backward
        options = (None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups, wanted)
        return lambda: backward(gy, x, w, *options)[place]

    def _operands(self, direction: str) -> tuple[Any, Any]:
        return {
            "conv2d_fwd": (self.x, self.w),
            "conv2d_bwd_input": (self.gy, self.w),
            "conv2d_bwd_weight": (self.gy, self.x),
        }[direction]

    def _like(self, direction: str) -> Any:
        return {"conv2d_fwd": self.gy, "conv2d_bwd_input": self.x}.get(direction, self.w)


def difference(mine: Any, theirs: Any, tolerance: float, what: str) -> float:
    """The largest difference, relative to the largest entry, of arrays of NumPy or of CuPy.

    Raises:
        Disagreement: it is above the tolerance.
    """
    scale = float(abs(theirs).max()) or 1.0
    found = float(abs(mine - theirs).max()) / scale
    if not found <= tolerance:  # true for NaN too
        expected = f"the same values to {tolerance:g} of the largest"
        fix = "Nothing was timed: a wrong kernel has no speed."
        raise Disagreement(message(what, expected, f"a difference of {found:.3g}", fix=fix))
    return found


def convolutions(net: str, precision: str) -> Iterator[dict[str, Any]]:
    """The rows of a net's convolutions; of one that is wrong what is wrong with it."""
    import torch

    mr.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = True
    found = [layer for layer in gpu_floors.layers(net) if layer.geometry is not None]
    for layer in found:
        whole, two = Convolution(layer), Convolution(layer, images=2)
        stem = layer.geometry is not None and layer.geometry.c_in == 3
        for direction in DIRECTIONS:
            if stem and direction == "conv2d_bwd_input":
                continue  # nobody asks for the gradient of the images
            try:
                error = compare(whole, two, direction, precision, f"{direction} {layer.shape}")
            except Disagreement as wrong:
                yield {"wrong": str(wrong)}
                continue
            torch.backends.cudnn.allow_tf32 = precision == "high"
            run, theirs = whole.minires(direction)[0], whole.torch(direction)
            a, b = in_turns(minires_graph(run), torch_graph(theirs))
            yield _row(net, direction, layer, precision, a, "cuDNN", b, error)
        cupy().get_default_memory_pool().free_all_blocks()


def compare(
    whole: Convolution, two: Convolution, direction: str, precision: str, what: str
) -> float:
    """The difference from the reference on two images, after one from PyTorch on the whole batch.

    Raises:
        Disagreement: either is too large.
    """
    import torch

    run, out = whole.minires(direction)
    run()
    torch.backends.cudnn.allow_tf32 = False
    exact = whole.torch(direction)()
    exact = exact if direction == "conv2d_bwd_weight" else exact.permute(0, 2, 3, 1)
    difference(out, cupy().from_dlpack(exact), TOLERANCES[precision], what)
    run, out = two.minires(direction)
    run()
    return difference(out.get(), two.numpy(direction), TOLERANCES[precision], what)


# -- batch norm against a copy


def batch_norms(net: str) -> Iterator[dict[str, Any]]:
    """The rows of a net's batch norms, forward: their share of a copy's bandwidth."""
    from minires.ops.batch_norm import kernel_cuda, kernel_numpy

    for layer in gpu_floors.layers(net):
        if not layer.kernel.startswith("bn + "):
            continue
        c, h, w = map(int, layer.shape.split("x"))
        rows = gpu_floors.NETS[net][2] * h * w
        x, other = normal(rows, c), normal(rows, c, seed=1)
        numbers = [abs(normal(c, seed=seed)) + 0.5 for seed in (2, 3, 4, 5)]
        y = cupy().empty_like(x)
        residual = other if "add" in layer.kernel else None

        def run(x: Any = x, y: Any = y, residual: Any = residual, numbers: Any = numbers) -> None:
            kernel_cuda.batch_norm_fwd(x, *numbers, y, Epilogue(residual, True))

        run()
        few = slice(0, 4096)
        reference = np.empty_like(y[few].get())
        shortcut = None if residual is None else residual[few].get()
        given = [array.get() for array in numbers]
        kernel_numpy.batch_norm_fwd(x[few].get(), *given, reference, Epilogue(shortcut, True))
        error = difference(y[few].get(), reference, TOLERANCES["highest"], layer.kernel)
        source = cupy().empty(layer.bytes // 8, np.float32)
        target = cupy().empty_like(source)

        def copy(source: Any = source, target: Any = target) -> None:
            cupy().copyto(target, source)

        a, b = in_turns(minires_graph(run), minires_graph(copy))
        yield _row(net, layer.kernel, layer, "highest", a, "copy of as many bytes", b, error)


# -- rows


def _row(
    net: str, kernel: str, layer: Layer, precision: str, mine: Any, other: str, b: Any, error: float
) -> dict[str, Any]:
    ratios, seconds = mine / b, float(np.median(mine))
    floor = max(layer.seconds(precision))
    return {
        "net": net,
        "kernel": kernel,
        "shape": layer.shape,
        "arithmetic": ARITHMETIC[precision],
        "microseconds": f"{1e6 * seconds:.3f}",
        "other": other,
        "other_microseconds": f"{1e6 * float(np.median(b)):.3f}",
        "ratio": f"{np.median(ratios):.3f}",
        "ratio_p20": f"{np.percentile(ratios, 20):.3f}",
        "ratio_p80": f"{np.percentile(ratios, 80):.3f}",
        "rounds": ROUNDS,
        "error": f"{error:.1e}",
        "floor_microseconds": f"{1e6 * floor:.3f}",
        "of_floor": f"{floor / seconds:.3f}",
    }


def facts() -> dict[str, Any]:
    """What the figures were measured with."""
    runtime = cupy().cuda.runtime
    versions = {
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "cupy": cupy().__version__,
        "gpu": mr.cuda.get_device_name(Device("cuda")),
        "torch": "",
    }
    if "torch" in sys.modules:
        versions["torch"] = sys.modules["torch"].__version__
    date = f"{datetime.now():%Y-%m-%dT%H:%M:%S}"
    return {"date": date, "commit": describe()["commit"], **versions}


PARTS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "bn": lambda: batch_norms("ResNet-20"),
    "conv20-fp32": lambda: convolutions("ResNet-20", "highest"),
    "conv20-tf32": lambda: convolutions("ResNet-20", "high"),
    "conv50-tf32": lambda: convolutions("ResNet-50", "high"),
    "bn50": lambda: batch_norms("ResNet-50"),
    "conv50-fp32": lambda: convolutions("ResNet-50", "highest"),
}


def write_rows(
    rows: Iterable[dict[str, Any]],
    path: Path,
    columns: tuple[str, ...],
    show: Callable[[dict[str, Any]], str],
    what: str,
) -> None:
    """Append each row to a CSV file and print it, as soon as it is measured; exit with an error
    if some of these kernels or tiles are wrong: their rows only say so."""
    wrong = 0
    try:
        for row in rows:
            if "wrong" in row:
                wrong += 1
                print(row["wrong"], flush=True)
                continue
            known = {key: value for key, value in facts().items() if key in columns}
            append(path, [{**known, **row}], columns)
            print(show(row), flush=True)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error
    if wrong:
        raise SystemExit(f"error: {wrong} {what} are wrong")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/gpu_kernels.py --only bn conv20-fp32",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)

    def show(row: dict[str, Any]) -> str:
        return (
            f"{row['net']:<10}{row['kernel']:<26}{row['shape']:<40}{row['arithmetic']:<6}"
            f"{row['microseconds']:>10} us  {row['ratio']:>7} of {row['other']}, "
            f"{float(row['of_floor']):.0%} of the floor's speed"
        )

    rows = (row for part in options.only for row in PARTS[part]())
    write_rows(rows, options.results / "gpu_kernels.csv", COLUMNS, show, "kernels")


if __name__ == "__main__":
    main()

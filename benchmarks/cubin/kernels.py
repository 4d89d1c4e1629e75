"""Every CUDA kernel that minires may ask for, and all of them compiled."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import minires
from cubin import nvrtc
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.cuda.source import text

PACKAGE = Path(minires.__file__).parent
TOGETHER = 8  # kernels of one program: the text is parsed once for all of them
SHARED_KIB = 227  # of a block, on the largest GPUs


def modules() -> list[str]:
    """The modules that have a function ``instances``, by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "\ndef instances(" in path.read_text(encoding="utf-8"):
            found.append(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    return found


def instances() -> dict[tuple[str, str], Kernel]:
    """Every kernel, by its file within the package and its name expression."""
    found = {}
    for module in modules():
        for kernel in importlib.import_module(module).instances():
            found[(str(kernel.file.relative_to(PACKAGE)), kernel.name)] = kernel
    return found


def compile_all(
    kernels: Iterable[Kernel], targets: Sequence[int], processes: int = 2
) -> tuple[dict[tuple[str, str, int], nvrtc.Code], float]:
    """Each kernel for each target, by file, name and target; and the processor's seconds.

    NVRTC does one thing at a time in a process, whatever its threads.

    Raises:
        CompileError: NVRTC refuses one.
        CompilerMissing: there is no NVRTC.
    """
    by_file: dict[Path, list[str]] = {}
    for kernel in kernels:
        by_file.setdefault(kernel.file, []).append(kernel.name)
    jobs = [
        (file, names[i : i + TOGETHER], target)
        for target in targets
        for file, names in by_file.items()
        for i in range(0, len(names), TOGETHER)
    ]
    if nvrtc.missing():
        raise nvrtc.CompilerMissing(nvrtc.missing())
    context = multiprocessing.get_context("spawn")
    found, seconds = {}, 0.0
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [
            pool.submit(nvrtc.compiled, text(file), names, target) for file, names, target in jobs
        ]
        for (file, _, target), job in zip(jobs, running, strict=True):
            codes, spent = job.result()
            seconds += spent
            for code in codes:
                found[(str(file.relative_to(PACKAGE)), code.name, target)] = code
    return found, seconds


def complaints(kernel: Kernel, code: nvrtc.Code) -> list[str]:
    """What stands against running a kernel: it needs more than there is, or memory of its own
    where registers should do."""
    found = []
    if code.stack or code.spills:
        found.append(f"{code.stack} bytes of stack, {code.spills} bytes of spills")
    shared = code.shared + kernel.shared
    if shared > SHARED_KIB * 1024:
        found.append(f"{shared} bytes of shared memory, of which there are {SHARED_KIB} KiB")
    if kernel.block > code.threads:
        found.append(f"blocks of {kernel.block} threads, compiled for {code.threads}")
    warps = -(-kernel.block // 32)
    registers = -(-code.registers // 8) * 8 * 32 * warps  # handed out by eights
    if registers > nvrtc.REGISTERS:
        found.append(f"{registers} registers of a block, of which there are {nvrtc.REGISTERS}")
    return found

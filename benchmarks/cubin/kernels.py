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
# KiB of shared memory that a block may have, by target (CUDA Programming Guide, "Compute
# Capabilities")
SHARED_KIB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
# Kernels of which the host asks for the instances that fit the GPU's shared memory, and for others
# where one does not (cuda_tiles.tile)
FITTED = ("conv2d_patch<",)
# {(target, name expression): reason} of kernels that may spill there, or use a stack
SPILLS = {
    (121, "conv2d_windows<Tf32,128,64,64,32,64,2,AS_IS,3>"): (
        "one number waits outside of registers behind the main loop, once in a thread's life"
    ),
    (121, "conv2d_windows<Fp64,64,32,32,16,64,2,BACKWARD,2>"): (
        "one number waits during a step of 331 instructions; float64 is slow on these GPUs anyway"
    ),
}


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


def shared_limit(target: int) -> int:
    """Bytes of shared memory that a block may have on such a GPU.

    Raises:
        LookupError: nobody has written it down yet.
    """
    if target not in SHARED_KIB:
        raise LookupError(f"sm_{target}: write its shared memory into SHARED_KIB of {__file__}")
    return SHARED_KIB[target] * 1024


def asked_for(kernel: Kernel, code: nvrtc.Code) -> bool:
    """Whether the host launches a kernel on such a GPU at all: not if it knows a smaller one, and
    that one is for GPUs with less shared memory."""
    limit, largest = shared_limit(code.target), max(SHARED_KIB.values()) * 1024
    fits = code.shared + kernel.shared <= limit
    return fits or limit == largest or not kernel.name.startswith(FITTED)


def complaints(kernel: Kernel, code: nvrtc.Code) -> list[str]:
    """What stands against running a kernel: it needs more than there is, or memory of its own
    where registers should do. Nothing against one that is not asked for there."""
    if not asked_for(kernel, code):
        return []
    found = []
    if (code.stack or code.spills) and (code.target, code.name) not in SPILLS:
        found.append(f"{code.stack} bytes of stack, {code.spills} bytes of spills")
    shared, limit = code.shared + kernel.shared, shared_limit(code.target)
    if shared > limit:
        found.append(f"{shared} bytes of shared memory, of which there are {limit // 1024} KiB")
    if kernel.block > code.threads:
        found.append(f"blocks of {kernel.block} threads, compiled for {code.threads}")
    warps = -(-kernel.block // 32)
    registers = -(-code.registers // 8) * 8 * 32 * warps  # handed out by eights
    if registers > nvrtc.REGISTERS:
        found.append(f"{registers} registers of a block, of which there are {nvrtc.REGISTERS}")
    return found


def outdated(codes: Iterable[nvrtc.Code]) -> list[str]:
    """What is wrong with :data:`SPILLS`: a kernel that there is not, or that was compiled and does
    without."""
    names = {name for _, name in instances()}
    found = [f"SPILLS: there is no {name}" for _, name in SPILLS if name not in names]
    fine = {(code.target, code.name) for code in codes if not code.stack and not code.spills}
    return found + [f"SPILLS: sm_{t} {name} has none" for t, name in SPILLS if (t, name) in fine]

"""NVRTC compiles every CUDA kernel, and each has what it needs: no GPU takes part."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import minires

PACKAGE = Path(minires.__file__).parent
# {(file, name): reason} of kernels that may spill, or use a stack
EXCEPTIONS: dict[tuple[str, str], str] = {}
LOOPS = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "cuda_loops.csv"
# {pattern of names: (least share of multiply-adds, reason that it is below 85 %)}
BELOW = {
    r"^conv2d_windows<Fp32,128,16,": (
        0.63,
        "16 output channels: what is read, and found in the image, is multiplied but 16 times",
    ),
    r"^conv2d_windows<Fp32.*BACKWARD": (
        0.73,
        "a batch norm's gradient is computed from two arrays as they are read, 4 operations each",
    ),
    r"^conv2d_windows<Fp32,64,64,.*AFFINE": (
        0.80,
        "a small tile: each number that a batch norm makes is multiplied but 64 times",
    ),
    r"^conv2d_bwd_weight<Fp32, 16, 48,.* 4, 1, AS_IS": (
        0.58,
        "a stem of 16 channels: entries of three channels are read one by one",
    ),
    r"^conv2d_bwd_weight<Fp32, 64, 64,.* 4, 1, AS_IS": (
        0.80,
        "a stem: entries of three channels are read one by one",
    ),
    r"^conv2d_bwd_weight<Fp32, 32, 96,.*AFFINE": (
        0.73,
        "32 output channels: each number that a prologue makes is multiplied but 32 times",
    ),
    r"^conv2d_bwd_weight<Fp32, (64, 64|128, 128),.*(AFFINE|BACKWARD)": (
        0.72,
        "prologues on one or both sides: 4 operations for each number of each array",
    ),
    r"^conv2d_bwd_weight_rows<Fp32, (32|64),.*BACKWARD": (
        0.75,
        "prologues on one or both sides: 4 operations for each number of each array",
    ),
}


@pytest.fixture(scope="module")
def kernels(cubin):
    return cubin("kernels")


@pytest.fixture(scope="module")
def nvrtc(cubin):
    module = cubin("nvrtc")
    if reason := module.missing():
        pytest.skip(reason)
    return module


def test_every_kernel_of_every_file_is_listed(kernels):
    """A kernel that no function ``instances`` names would be compiled on a GPU only."""
    listed = {(file, name.partition("<")[0]) for file, name in kernels.instances()}
    declared = set()
    for path in PACKAGE.rglob("*.cu"):
        text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        bounds = r"(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?"
        names = re.findall(rf"__global__\s+void\s+{bounds}(\w+)\s*\(", text)
        assert len(names) == len(re.findall(r"\b__global__\b", text)), path
        declared |= {(str(path.relative_to(PACKAGE)), name) for name in names}
    assert listed == declared
    assert declared


def some_of(instances):
    """Of each kernel one instance."""
    by_name = {(file, name.partition("<")[0]): k for (file, name), k in instances.items()}
    return list(by_name.values())


@pytest.fixture(scope="module")
def codes(kernels, nvrtc):
    """Every instance for sm_90, one of each kernel for the oldest target and the newest."""
    instances = kernels.instances()
    codes, _ = kernels.compile_all(instances.values(), [90])
    others = (nvrtc.OLDEST, nvrtc.newest_target())
    return codes | kernels.compile_all(some_of(instances), others)[0]


@pytest.mark.slow
def test_every_instance_compiles_and_has_what_it_needs(kernels, codes):
    instances, found = kernels.instances(), {}
    for (file, name, target), code in codes.items():
        if complaints := kernels.complaints(instances[file, name], code):
            found[file, name, f"sm_{target}"] = complaints
    assert {key for key in found if key[:2] not in EXCEPTIONS} == set(), found
    assert {key[:2] for key in found} == set(EXCEPTIONS)  # none that is needed no more


@pytest.mark.slow
def test_main_loops_of_residual_networks_multiply(cubin, codes):
    """Of the instructions in the main loop of each convolution in exact float32 that a ResNet
    launches, at least 85 % are multiply-adds, but for those with a reason."""
    sass = cubin("sass")
    if reason := sass.missing():
        pytest.skip(reason)
    with open(LOOPS, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["used_by"]]
    rows = [row for row in rows if re.match(r"\w+<\s*Fp32,", row["kernel"])]
    assert len(rows) > 30
    low, needed, listings = {}, set(), {}
    for row in rows:
        code = codes[row["file"], row["kernel"], 90]  # else: run benchmarks/cuda_code.py again
        if code.cubin not in listings:  # of several kernels
            listings[code.cubin] = sass.disassembled(code.cubin)
        share = sass.loop(sass.main_loop(listings[code.cubin][code.symbol])).share
        rule = next((rule for rule in BELOW if re.search(rule, code.name)), None)
        if share < (0.85 if rule is None else BELOW[rule][0]):
            low[code.name] = share
        elif share < 0.85:
            needed.add(rule)
    assert low == {}
    assert needed == set(BELOW)


# **** what is read from the compiler is what the kernels are ****


SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) spills(const double* x, double* y) {
  double v[64];
  for (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 64; ++j) sum = sum * v[i] + v[j];
  for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = v[i] * sum;
}
extern "C" __global__ void stack(const float* x, float* y, int n) {
  float v[32] = {};
  for (int i = 0; i < n; ++i) v[int(x[i]) & 31] += x[i];
  for (int i = 0; i < n; ++i) y[i] = v[int(y[i]) & 31];
}
extern "C" __global__ void __launch_bounds__(128) shared(float* y) {
  __shared__ float s[300];
  s[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[299 - threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def found(nvrtc):
    return nvrtc.compiled(SPILLS, ["spills", "stack", "shared"], 90)[0]


class Asked:
    """What a Kernel says of its launches."""

    def __init__(self, block, shared=0):
        self.block, self.shared = block, shared


def test_spills_and_stack_are_seen(kernels, found):
    spills, stack, shared = found
    assert spills.spills > 0
    assert spills.registers <= 64
    assert (stack.stack, stack.spills) == (128, 0)
    assert (shared.stack, shared.spills, shared.shared) == (0, 0, 1200)
    assert "bytes of spills" in kernels.complaints(Asked(1024), spills)[0]
    assert kernels.complaints(Asked(128), stack) == ["128 bytes of stack, 0 bytes of spills"]


def test_blocks_are_held_against_what_a_kernel_was_compiled_for(kernels, found):
    spills, stack, shared = found
    assert (spills.threads, stack.threads, shared.threads) == (1024, 1024, 128)
    assert kernels.complaints(Asked(128), shared) == []
    complaint = ["blocks of 256 threads, compiled for 128"]
    assert kernels.complaints(Asked(256), shared) == complaint


def test_shared_memory_and_registers_have_limits(kernels, found):
    shared = found[2]
    assert kernels.complaints(Asked(128, 227 * 1024 - 1200), shared) == []
    assert kernels.complaints(Asked(128, 227 * 1024 - 1199), shared) == [
        "232449 bytes of shared memory, of which there are 227 KiB"
    ]
    hungry = type(shared)("k", "k", 90, 250, 0, 0, 0, 1024, b"", "")
    assert kernels.complaints(Asked(256), hungry) == []  # 256 each, of 65536
    assert kernels.complaints(Asked(257), hungry) == [
        "73728 registers of a block, of which there are 65536"
    ]


def test_what_does_not_compile_says_where(nvrtc):
    with pytest.raises(nvrtc.CompileError, match=r"sm_90, k:\nhere.cu\(3\): error: .*INFINITY"):
        nvrtc.compiled(
            '#line 2 "here.cu"\n\n__global__ void k(float* y) { *y = INFINITY; }', ["k"], 90
        )


def test_all_are_compiled_in_processes_of_their_own(kernels, nvrtc):
    instances = list(kernels.instances().values())[:9]
    codes, seconds = kernels.compile_all(instances, [80, 90])
    assert [name for _, name, _ in codes] == 2 * [kernel.name for kernel in instances]
    assert seconds > 0

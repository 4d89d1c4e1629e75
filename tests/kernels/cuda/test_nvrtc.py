"""NVRTC compiles the CUDA kernels, and each has what it needs: no GPU takes part.

Those that residual networks launch in exact float32, and a few of the others;
``benchmarks/cuda_code.py`` compiles every instance.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import minires

PACKAGE = Path(minires.__file__).parent
# kernels of convolutions that multiply (the others pack weights, and add shares)
PRODUCTS = r"conv2d_(windows|patch|bwd_weight|bwd_weight_rows)<\s*Fp32,"
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


@pytest.fixture(scope="module")
def used(cubin):
    """By file and name, the convolution kernels of residual networks in exact float32."""
    return cubin("nets").used_by(["highest"])


def some_of(instances, chosen, key):
    """The chosen ones, and of all others one for each key of their names."""
    others = {(file, key(name)): (file, name) for file, name in instances}
    return [k for place, k in instances.items() if place in {*chosen, *others.values()}]


@pytest.fixture(scope="module")
def codes(kernels, nvrtc, used):
    """For sm_90 all that are used, and others of each kernel and type of numbers; for the oldest
    target and the newest one of each kernel, and those that may spill there."""
    instances = kernels.instances()
    chosen = some_of(instances, used, lambda name: name.partition(",")[0])
    codes, _ = kernels.compile_all(chosen, [90])
    for target in (nvrtc.OLDEST, nvrtc.newest_target()):
        spills = [place for place in instances if (target, place[1]) in kernels.SPILLS]
        chosen = some_of(instances, spills, lambda name: name.partition("<")[0])
        codes |= kernels.compile_all(chosen, [target])[0]
    return codes


@pytest.mark.slow
def test_instances_compile_and_have_what_they_need(kernels, codes):
    instances, found = kernels.instances(), {}
    for (file, name, target), code in codes.items():
        if complaints := kernels.complaints(instances[file, name], code):
            found[file, name, f"sm_{target}"] = complaints
    assert found == {}  # mend it, or list it in benchmarks/cubin/kernels.py
    assert kernels.outdated(codes.values()) == []


@pytest.mark.slow
def test_main_loops_of_residual_networks_multiply(cubin, kernels, used, codes):
    """Of the instructions in the main loop of each convolution in exact float32 that a ResNet
    launches, at least 85 % are multiply-adds, but for those with a reason."""
    sass = cubin("sass")
    if reason := sass.missing():
        pytest.skip(reason)
    products = [place for place in used if re.match(PRODUCTS, place[1])]
    assert len(products) > 30
    unknown = set(products) - set(kernels.instances())
    assert unknown == set(), "launched, but not among the instances() of their modules"
    low, needed, listings = {}, set(), {}
    for place in products:
        code = codes[(*place, 90)]
        if code.cubin not in listings:  # of several kernels
            listings[code.cubin] = sass.disassembled(code.cubin)
        loop = sass.loop(sass.main_loop(listings[code.cubin][code.symbol]))
        share = loop.share if loop else 0.0
        rule = next((rule for rule in BELOW if re.search(rule, code.name)), None)
        if share < (0.85 if rule is None else BELOW[rule][0]):
            low[code.name] = share
        elif share < 0.85:
            needed.add(rule)
    assert low == {}, "fewer multiply-adds: mend the loop, or give a reason in BELOW"
    assert set(BELOW) - needed == set(), "patterns of BELOW that no kernel needs any more"


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

    def __init__(self, block, shared=0, name="shared"):
        self.block, self.shared, self.name = block, shared, name


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


def test_what_a_gpu_has_depends_on_the_target(kernels, found):
    shared = found[2]
    for target, most in [(80, 163), (90, 227), (121, 99)]:
        code = dataclasses.replace(shared, target=target)
        fits, more = (most * 1024 - code.shared + n for n in (0, 1))
        assert kernels.complaints(Asked(128, fits), code) == []
        (complaint,) = kernels.complaints(Asked(128, more), code)
        assert complaint.endswith(f"bytes of shared memory, of which there are {most} KiB")
        # the host takes another patch where one does not fit; but not on the largest GPUs
        patch = Asked(128, more, "conv2d_patch<Fp32>")
        assert kernels.asked_for(patch, code) == (target == 90)
        assert kernels.complaints(patch, code) == ([complaint] if target == 90 else [])
    with pytest.raises(LookupError, match="sm_70: write its shared memory into SHARED_KIB"):
        kernels.complaints(Asked(128), dataclasses.replace(shared, target=70))


def test_spills_are_listed_by_target_and_name(kernels, found, monkeypatch):
    spills, stack, shared = found
    names = [next(iter(kernels.instances()))[1], "shared", "gone"]
    listed = {(90, "spills"): "why", **{(90, name): "why" for name in names}}
    monkeypatch.setattr(kernels, "SPILLS", listed)
    assert kernels.complaints(Asked(1024), spills) == []
    assert kernels.complaints(Asked(1024), dataclasses.replace(spills, target=80)) != []
    assert kernels.complaints(Asked(128), stack) != []
    assert kernels.outdated([spills, stack, shared]) == [
        *[f"SPILLS: there is no {name}" for name in ("spills", "shared", "gone")],
        "SPILLS: sm_90 shared has none",
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

"""Each kind of mistake in a kernel is noticed, and said with its line."""

from __future__ import annotations

import numpy as np
import pytest

import cudasim
from cudasim import ArgumentError, BuildError, KernelError, LaunchError

KERNEL = 'extern "C" __global__ void k(float* x, float a, int n) { %s }'
ARGUMENTS = (np.zeros(8, np.float32), np.float32(1), np.int32(3))


def run(body, arguments=ARGUMENTS, threads=32, **conditions):
    kernel = cudasim.RawKernel(KERNEL % body, "k")
    with cudasim.running(**conditions):
        kernel((1,), (threads,), arguments)


FIRST_HALF = "if (threadIdx.x < 16) "
WAITING = {
    "barriers that half of a block reaches": (
        FIRST_HALF + "__syncthreads(); else {\n __syncthreads(); }",
        r"divergent __syncthreads\(\): .* kernel.cu:1 and kernel.cu:2",
    ),
    "a barrier and a warp's": (
        FIRST_HALF + "__syncthreads(); else __syncwarp();",
        r"deadlock: .*__syncthreads at kernel.cu:1 __syncwarp at kernel.cu:1",
    ),
    "a lane that never comes": (
        FIRST_HALF + "x[0] = __shfl_down_sync(0xffffffffu, a, 1); __syncthreads();",
        "deadlock: .*__shfl_down_sync at kernel.cu:1 __syncthreads",
    ),
    "a lane outside of its mask": (
        FIRST_HALF + "x[0] = __shfl_down_sync(0xffff0000u, a, 1);",
        "__shfl_down_sync: calling lane is not in its own mask at kernel.cu:1",
    ),
    "masks that overlap": (
        FIRST_HALF + "__syncwarp(0x1ffffu); else __syncwarp(0xffff0000u);",
        "__syncwarp: overlapping masks in one warp at kernel.cu:1",
    ),
    "lanes at two instructions": (
        FIRST_HALF + "x[0] = __shfl_down_sync(~0u, a, 1); else __shfl_xor_sync(~0u, a, 1);",
        "warp diverges between __shfl_down_sync and __shfl_xor_sync",
    ),
    "an instruction of a part of a warp": (
        'if (threadIdx.x == 3) return; cusim::collective("mma", x, nullptr);',
        "mma: a lane of the warp is missing at kernel.cu:1",
    ),
    "a trap": ("__trap();", r"__trap\(\) at kernel.cu:1 \[block \(0,0,0\) thread \(0,0,0\)\]"),
    "an address of nothing": ("x[1 << 30] = a;", "segmentation fault: access to address 0x"),
    "no end of calls": (
        "struct S { static int f(volatile int* p) { volatile int v[64]; v[0] = *p;"
        " return v[0] ? f(v) + v[1] : 0; } }; volatile int one = 1; x[0] = S::f(&one);",
        "segmentation fault",
    ),
    "a misaligned copy": (
        "__shared__ float s[8]; cusim::copy_async((unsigned char*)&s[1], x, 16, true);",
        "cp.async: misaligned address at kernel.cu:1",
    ),
    "a copy of 12 bytes": (
        "__shared__ float s[8]; cusim::copy_async((unsigned char*)&s[0], x, 12, true);",
        "cp.async of 12 bytes at kernel.cu:1",
    ),
}


@pytest.mark.parametrize("mistake", WAITING)
def test_every_launch_notices(mistake):
    body, text = WAITING[mistake]
    with pytest.raises(KernelError, match=text):
        run(body)
    run("x[0] = a;")  # and the next launch is as good as any


def test_threads_that_have_ended_are_not_waited_for():
    run(FIRST_HALF + "{ x[0] = __shfl_down_sync(~0u, a, 1); __syncwarp(); __syncthreads(); }")


CHECKED = {
    "a race on shared memory": (
        "__shared__ float s[32]; s[threadIdx.x] = a;\n"
        " a = s[31 - threadIdx.x]; if (a > 2) x[0] = a;",
        r"race on shared memory, byte 64: write after read by thread 15 of this .*kernel.cu:1",
    ),
    "a read that a barrier does not keep from the next write": (
        "__shared__ float s[32]; s[threadIdx.x] = a; __syncthreads();\n"
        " a = s[31 - threadIdx.x];\n s[threadIdx.x] = a;",
        r"race on shared memory, byte 60: read after write by thread 15 of .*kernel.cu:2",
    ),
    "sums that are not atomic": ("x[0] += a;", "race on argument 0, byte 0: .* of this block"),
    "a shuffle in place of a barrier of the warp": (
        "__shared__ float s[32]; s[threadIdx.x] = a; __shfl_xor_sync(~0u, a, 1);"
        " a = s[threadIdx.x ^ 1]; if (a > 2) x[0] = a;",
        "race on shared memory",
    ),
    "an entry behind the array": (
        "if (threadIdx.x < 3)\n x[threadIdx.x + 6] = a;",
        "write outside of every array: 4 bytes at an address 0 bytes behind the array of argument"
        r" 0 \[block \(0,0,0\) thread \(2,0,0\)\] at kernel.cu:2",
    ),
    "an entry before the array": ("a = x[-1]; if (a > 2) x[0] = a;", "4 bytes before the array"),
    "half of an entry": (
        "*(double*)(x + 7) = 1.;",
        "misaligned|outside of every array: 4 bytes",
    ),
    "a constant index": (
        "__shared__ float s[8];\n s[threadIdx.x] = a;",
        "out of bounds at kernel.cu:2",
    ),
    "a pack at an odd address": (
        "*(float4*)(x + threadIdx.x % 3) = make_float4(a, a, a, a);",
        "misaligned or null address at kernel.cu:1",
    ),
    "a product beyond 32 bits": ("x[0] = n * 0x40000000;", "overflow of a multiplication"),
    "a sum beyond 32 bits": ("x[0] = n + 0x7fffffff;", "overflow of an addition"),
    "a shift of 32 bits": ("if (1 << (n + 29) == 5) x[0] = a;", "shift by too many bits"),
    "a division by zero": ("if (1 / (n - 3) == 5) x[0] = a;", "division by zero"),
    "dynamic memory that is not there": (
        "extern __shared__ float s[]; s[threadIdx.x] = a;",
        "write outside of every array",
    ),
    "a copy that is not waited for": (
        "__shared__ float4 s[32];"
        " cusim::copy_async((unsigned char*)&s[threadIdx.x % 1], x, 16, true);",
        r"race on shared memory, byte 0: write after write .* at kernel.cu:1",
    ),
    "a copy from outside": (
        "__shared__ float4 s[32]; cusim::copy_async((unsigned char*)&s[threadIdx.x],"
        " x + 4 * threadIdx.x, 16, true);",
        "read outside of every array: 16 bytes",
    ),
}


@pytest.mark.parametrize("mistake", CHECKED)
def test_checked_launches_notice(mistake):
    body, text = CHECKED[mistake]
    with pytest.raises(KernelError, match=text):
        run(body, checked=True)
    run("if (threadIdx.x == 0) x[0] = a;", checked=True)


def test_a_race_between_blocks():
    kernel = cudasim.RawKernel(KERNEL % "if (threadIdx.x == 0) x[0] = a;", "k")
    with (
        cudasim.running(checked=True),
        pytest.raises(KernelError, match=r"race on argument 0, byte 0: .* of another block"),
    ):
        kernel((2,), (32,), ARGUMENTS)


def test_what_is_no_race():
    """Barriers order accesses, a warp's barrier those of its lanes; bytes are not words; what one
    block does in shared memory is nothing to another one."""
    code = """
    extern "C" __global__ void k(unsigned char* bytes, const float* x, float* y) {
      __shared__ float block[64];
      __shared__ float warp[64];
      const int me = threadIdx.x, i = blockIdx.x * 64 + me;
      bytes[i] = (unsigned char)me;
      block[me] = x[me];
      __syncthreads();
      warp[me] = block[63 - me];
      __syncwarp();
      y[i] = warp[me ^ 1];
    }"""
    x = np.arange(64, dtype=np.float32)
    bytes_, y = np.empty(128, np.uint8), np.empty(128, np.float32)
    with cudasim.running(checked=True):
        cudasim.RawKernel(code, "k")((2,), (64,), (bytes_, x, y))
    np.testing.assert_array_equal(bytes_, np.tile(np.arange(64), 2))
    np.testing.assert_array_equal(y, np.tile((63 - x).reshape(32, 2)[:, ::-1].ravel(), 2))


def test_memory_reached_through_addresses():
    code = """
    struct Table { float* arrays[2]; };
    extern "C" __global__ void k(Table table) {
      table.arrays[threadIdx.x % 2][threadIdx.x / 2] = 1.f;
    }
    """
    arrays = [np.zeros(16, np.float32) for _ in range(2)]
    table = np.zeros(1, np.dtype([("arrays", np.uint64, 2)]))
    table["arrays"] = [a.ctypes.data for a in arrays]
    kernel = cudasim.RawKernel(code, "k")
    with cudasim.running(checked=True):
        with pytest.raises(KernelError, match="write outside of every array"):
            kernel((1,), (32,), (table,))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cudasim.module, "reachable", [lambda: arrays])
            kernel((1,), (32,), (table,))
            table["arrays"][0, 1] = 0
            with pytest.raises(KernelError, match="misaligned or null address"):
                kernel((1,), (32,), (table,))
    assert all((a == 1).all() for a in arrays)


MISSING_BARRIER = """
extern "C" __global__ void k(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[63 - threadIdx.x];
}"""
# The last copy is not waited for; only the lateness of copies shows it.
MISSING_WAIT = """
extern "C" __global__ void k(const float* x, float* y) {
  __shared__ float s[64];
  cusim::copy_async((unsigned char*)&s[threadIdx.x], x + threadIdx.x, 4, true);
  cusim::copy_commit();
  cusim::copy_wait(1);
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}"""
# The second copy goes where the others still read; only early copies show it.
TOO_EARLY = """
extern "C" __global__ void k(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  cusim::copy_async((unsigned char*)&s[threadIdx.x], x, 4, false);
  cusim::copy_commit();
  y[threadIdx.x] = s[63 - threadIdx.x];
  cusim::copy_wait(0);
}"""


@pytest.mark.parametrize("code", [MISSING_BARRIER, MISSING_WAIT, TOO_EARLY])
def test_values_or_checks_notice(code):
    x, y = np.arange(64, dtype=np.float32), np.empty(64, np.float32)
    wrong, found = [], []
    for conditions in cudasim.ALL_CONDITIONS:
        with cudasim.running(conditions):
            try:
                cudasim.RawKernel(code, "k")((1,), (64,), (x, y))
                wrong.append(not np.array_equal(y, x[::-1]))
            except KernelError as error:
                found.append(str(error))
    assert any(wrong)
    assert [text for text in found if "race on shared memory" in text] == found != []
    assert ("while a copy to it is under way" in found[0]) == (code is MISSING_WAIT)


def test_fresh_shared_memory_is_poisoned(conditions):
    y = np.zeros(32, np.float32)
    code = """
    extern "C" __global__ void k(float* y) {
      __shared__ float s[32]; extern __shared__ float d[];
      y[threadIdx.x] = s[threadIdx.x] + d[threadIdx.x];
      s[threadIdx.x] = d[threadIdx.x] = 1.f;
    }"""
    kernel = cudasim.RawKernel(code, "k")
    for _ in range(2):
        kernel((1,), (32,), (y,), shared_mem=128)
        assert np.isnan(y).all()


WRONG_ARGUMENTS = {
    "Python's float": ((ARGUMENTS[0], 0.5, np.int32(3)), r"1 is Python's float .* is float32"),
    "Python's int": ((ARGUMENTS[0], np.float32(1), 3), r"2 is Python's int .* is int32"),
    "float64 for float32": ((ARGUMENTS[0], np.float64(1), np.int32(3)), "1 is float64"),
    "unsigned for signed": ((ARGUMENTS[0], np.float32(1), np.uint32(3)), "2 is uint32"),
    "doubles for floats": (
        (np.zeros(8), np.float32(1), np.int32(3)),
        r"a float64 array.*float32\*",
    ),
    "an array with gaps": (
        (np.zeros((4, 4), np.float32)[:, ::2], np.float32(1), np.int32(3)),
        "not contiguous",
    ),
    "too few": (ARGUMENTS[:2], "2 arguments for 3 parameters"),
    "a list": (([1.0], np.float32(1), np.int32(3)), "list, not an array"),
    "a read-only array": (
        (np.broadcast_to(np.float32(1), (1,)), np.float32(1), np.int32(3)),
        "read-only",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_ARGUMENTS)
def test_arguments_are_held_against_the_signature(mistake):
    arguments, text = WRONG_ARGUMENTS[mistake]
    with pytest.raises(ArgumentError, match=text):
        run("x[0] = a;", arguments)


def test_structs_are_held_against_the_signature():
    code = "struct Two { int a, b; }; __global__ void k(Two two) {}"
    kernel = cudasim.RawKernel(code, "k")
    kernel((1,), (32,), (np.zeros(1, "i4,i4"),))
    for wrong, text in (
        (np.zeros(1, "i4,i8"), "a record of 12 bytes, the parameter is a struct of 8 bytes"),
        (np.zeros(2, "i4,i4"), "not an array of one record"),
        (np.zeros(1, np.float64), "not an array of one record"),
    ):
        with pytest.raises(ArgumentError, match=text):
            kernel((1,), (32,), (wrong,))


def test_limits_of_a_launch():
    kernel = cudasim.RawKernel(KERNEL % "extern __shared__ float s[]; s[0] = a;", "k")
    for grid, block in (
        ((0,), (32,)),
        ((1, 65536), (32,)),
        ((1, 1, 65536), (32,)),
        ((1,), (1025,)),
        ((1,), (32, 33)),
        ((1,), (1, 1, 65)),
        ((1,), (0,)),
    ):
        with pytest.raises(LaunchError, match=r"CUDA_ERROR_INVALID_VALUE: k: (grid|block)"):
            kernel(grid, block, ARGUMENTS)
    kernel((1,), (32,), ARGUMENTS, shared_mem=48 * 1024)
    with pytest.raises(LaunchError, match="49156 bytes of dynamic shared memory, 49152 allowed"):
        kernel((1,), (32,), ARGUMENTS, shared_mem=48 * 1024 + 4)
    kernel.max_dynamic_shared_size_bytes = 227 * 1024
    kernel((1,), (32,), ARGUMENTS, shared_mem=227 * 1024)
    with pytest.raises(LaunchError, match="of which a block has 232448"):
        kernel.max_dynamic_shared_size_bytes = 227 * 1024 + 1
    with pytest.raises(LaunchError, match="named symbol not found: other"):
        cudasim.RawModule(code=KERNEL % "").get_function("other")


def test_static_and_dynamic_memory_share_the_limit():
    body = "__shared__ float t[1024]; extern __shared__ float s[]; s[0] = a; t[0] = a;"
    with pytest.raises(LaunchError, match=r"4096 \+ 49152 bytes of static and dynamic"):
        cudasim.RawKernel(KERNEL % body, "k")((1,), (32,), ARGUMENTS, shared_mem=48 * 1024)
    with pytest.raises(LaunchError, match=r"65536 \+ 0 bytes"):
        run("__shared__ float t[16384]; t[0] = a;")


def test_atomics_of_floats_do_not_compile():
    with pytest.raises(BuildError, match="sums in no fixed order"):
        run("atomicAdd(x, a);")


def test_what_does_not_compile_says_where():
    with pytest.raises(BuildError, match=r"kernel.cu:2:\d+: error: .*nothing"):
        run("\n x[0] = nothing;")
    with pytest.raises(BuildError, match="one array per __shared__ declaration, got 1 of 1"):
        run("__shared__ float s[8], t[8];")
    with pytest.raises(BuildError, match=r"got \['--use_fast_math'\]"):
        cudasim.RawModule(code=KERNEL % "", options=("--use_fast_math",)).compile()


def test_lines_of_included_files():
    code = (
        '#line 7 "header.cuh"\n__device__ float f(float* x) { return x[-1]; }\n'
        + KERNEL % "x[0] = f(x);"
    )
    with cudasim.running(checked=True), pytest.raises(KernelError, match=r"at header.cuh:7"):
        cudasim.RawKernel(code, "k")((1,), (32,), ARGUMENTS)


def test_conditions_are_known():
    with (
        pytest.raises(ValueError, match=r"expected order one of .*, got 'sideways'"),
        cudasim.running(order="sideways"),
    ):
        pass


def test_without_a_compiler_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(cudasim.build, "compiler", lambda: None)
    assert "no C++ compiler" in cudasim.missing()
    with pytest.raises(cudasim.SimulatorError, match=r"no C\+\+ compiler \(g\+\+, or CXX\)"):
        run(f"x[0] = {np.random.default_rng().integers(1 << 30)};")

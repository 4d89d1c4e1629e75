"""Machine code is taken apart rightly."""

from __future__ import annotations

import pytest

LISTING = """
\t.section\t.text._Z1kv,"ax",@progbits
_Z1kv:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDSM.16.M88.4 R4, [R0] ;
        /*0020*/                   LDS.128 R8, [R0+0x10] ;
        /*0030*/              @!P0 FFMA R1, R4, R8, R1 ;
        /*0040*/                   FFMA R2, R5, R9, R2 ;
        /*0050*/               @P1 BRA `(.L_x_2) ;
.L_x_1:
        /*0060*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0070*/               @P2 BRA `(.L_x_1) ;
.L_x_2:
        /*0080*/                   LDGSTS.E.BYPASS.128 [R6], desc[UR4][R10.64] ;
        /*0090*/                   FADD R2, R2, R1 ;
        /*00a0*/               @P0 BRA `(.L_x_0) ;
.L_x_3:
        /*00b0*/                   FFMA R1, R4, R8, R1 ;
        /*00c0*/                   BRA `(.L_x_3) ;
\t.section\t.text._Z1gv,"ax",@progbits
        /*0000*/                   EXIT ;
"""


@pytest.fixture(scope="module")
def sass(cubin):
    return cubin("sass")


def test_kernels_and_labels(sass):
    code = sass.parsed(LISTING)
    assert list(code) == ["_Z1kv", "_Z1gv"]
    assert code["_Z1kv"][5] == (0x50, "@P1 BRA 0x80")
    assert code["_Z1gv"] == [(0, "EXIT")]


def test_the_main_loop_has_the_most_multiply_adds_and_no_rare_parts(sass):
    body = sass.main_loop(sass.parsed(LISTING)["_Z1kv"])
    kinds = [sass.kind(instruction) for instruction in body]
    assert kinds == ["LDSM", "LDS", "FFMA", "FFMA", "control", "LDGSTS", "float", "control"]
    assert sass.main_loop(sass.parsed(LISTING)["_Z1gv"]) == []
    assert sass.loop([]) is None


def test_what_counts_allow(sass):
    loop = sass.loop(sass.main_loop(sass.parsed(LISTING)["_Z1kv"]))
    assert (loop.instructions, loop.share, loop.tensor) == (8, 2 / 8, False)
    assert loop.shared == 4 * (4 + 2 + 4)  # ldmatrix, a load of pairs, a copy of 16 bytes
    assert (loop.bound, loop.rate) == ("shared", 2 / 40)
    tensor = sass.loop(["HMMA.1688.F32.TF32 R0, R4, R8, R0", "BRA 0x0"])
    assert tensor.tensor
    assert (tensor.bound, tensor.rate) == ("math", 1)
    double = sass.loop(["DFMA R0, R4, R8, R0", "IADD3 R1, R1, R2, RZ", "BRA 0x0"])
    assert (double.math, double.bound, double.share) == (2, "issue", 1 / 3)


KERNEL = """
extern "C" __global__ void product(const float* x, const float* y, float* z, int n) {
  float sum[8] = {};
  #pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 32)
    #pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] = __fmaf_rn(x[8 * i + j], y[8 * i + j], sum[j]);
  for (int j = 0; j < 8; ++j) z[8 * threadIdx.x + j] = sum[j];
}
"""


def test_of_a_real_kernel(cubin, sass):
    nvrtc = cubin("nvrtc")
    if reason := nvrtc.missing() or sass.missing():
        pytest.skip(reason)
    (code,), _ = nvrtc.compiled(KERNEL, ["product"], 90)
    loop = sass.loop(sass.main_loop(sass.disassembled(code.cubin)[code.symbol]))
    assert loop.counts["FFMA"] == 8
    assert loop.counts["LDG"] == 16
    assert loop.counts["HMMA"] == loop.counts["local"] == 0

"""Gradients of convolutions on a GPU, kernel by kernel, against the reference in float64."""

from __future__ import annotations

import contextlib
import itertools

import cudasim
import numpy as np
import pytest
from gpu import CUDA, REAL, gpu

import minires as mr
from minires.device import Device, move
from minires.kernels import cuda
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, PLAIN, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.memory import allocate
from minires.ops.conv2d import (
    cuda_depthwise,
    cuda_input,
    cuda_plan,
    cuda_weight,
    cuda_weight_rows,
    kernel_cuda,
    kernel_numpy,
)
from minires.ops.conv2d.op import conv2d_geometry

# x, w, stride, padding, dilation, groups
CASES = {
    "3x3": ((2, 20, 9, 7), (24, 20, 3, 3), 1, 1, 1, 1),
    "3x3, stride 2": ((2, 16, 9, 8), (16, 16, 3, 3), 2, 1, 1, 1),
    "1x1": ((2, 64, 5, 5), (64, 64, 1, 1), 1, 0, 1, 1),
    "1x1, stride 2": ((3, 8, 7, 7), (72, 8, 1, 1), 2, 0, 1, 1),
    "stride above kernel": ((1, 8, 11, 10), (8, 8, 2, 2), 4, 0, 1, 1),
    "padding above kernel": ((1, 8, 5, 6), (8, 8, 3, 3), (2, 1), 4, 1, 1),
    "dilated": ((1, 12, 12, 10), (8, 12, 3, 2), (2, 3), (2, 1), (2, 3), 1),
    "dilated, stride 4": ((1, 12, 12, 10), (8, 12, 3, 2), (4, 3), (2, 1), (2, 3), 1),
    "odd": ((1, 4, 6, 5), (7, 4, 2, 5), (1, 3), (3, 2), 1, 1),
    "groups": ((1, 24, 8, 8), (12, 8, 3, 3), 1, 1, 1, 3),
    "one pixel": ((1, 8, 1, 1), (8, 8, 3, 3), 1, 1, 1, 1),
    "one channel": ((3, 1, 6, 5), (1, 1, 3, 3), 1, 1, 1, 1),
    "3 channels": ((2, 3, 8, 8), (16, 3, 3, 3), 1, 1, 1, 1),
    "5 channels": ((2, 5, 6, 7), (6, 5, 3, 3), 1, 1, 1, 1),
    "stem": ((1, 3, 15, 14), (16, 3, 7, 7), 2, 3, 1, 1),
    "no image": ((0, 8, 5, 5), (8, 8, 3, 3), 1, 1, 1, 1),
}
F64 = ("3x3", "odd", "stride above kernel", "padding above kernel", "5 channels")
DEPTHWISE = {
    "3x3": ((2, 8, 9, 7), (8, 1, 3, 3), 1, 1, 1, 8),
    "odd": ((2, 8, 9, 7), (8, 1, 3, 2), (4, 2), (3, 2), (1, 3), 8),
    "5 channels": ((1, 5, 9, 7), (5, 1, 5, 3), 1, 2, 1, 5),
    "two to one": ((1, 6, 9, 7), (3, 2, 3, 3), 1, 1, 1, 3),
    "one to two": ((3, 40, 6, 5), (80, 1, 3, 3), 2, 0, 1, 40),
}
TOLERANCE = {"highest": 2e-6, "high": 1e-3, "medium": 1e-2}
CONDITIONS = [None] if REAL else cudasim.ALL_CONDITIONS


@pytest.fixture(autouse=True, params=[CUDA])
def _gpu(request):
    with gpu():
        yield


@contextlib.contextmanager
def under(conditions):
    """Inside, the simulator runs kernels under these conditions; a GPU as it does."""
    with contextlib.nullcontext() if conditions is None else cudasim.running(conditions):
        yield


@pytest.fixture
def precision():
    """Sets the precision, until the test ends."""
    yield mr.set_float32_matmul_precision
    mr.set_float32_matmul_precision("highest")


@pytest.fixture
def launched(monkeypatch):
    """(name, grid) of what is launched."""
    found = []
    run, write = Kernel.run, cuda.write

    def noted(kernel, grid, arguments):
        found.append((kernel.__name__, grid))
        run(kernel, grid, arguments)

    def written(operand, out):
        found.append(("write", None))
        write(operand, out)

    monkeypatch.setattr(Kernel, "run", noted)
    monkeypatch.setattr(cuda, "write", written)
    return found


def there(array):
    return None if array is None else move(np.ascontiguousarray(array), Device("cuda"))


def operand(rng, shape, kind, dtype):
    """An operand of random values, on the CPU."""
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    k = (0.5 * rng.standard_normal((5, shape[-1]))).astype(dtype)
    if kind == PLAIN:
        return Operand(x)
    return Operand(x, kind, k, y if kind >= GRADIENT else None)


def map_operand(operand, function):
    arrays = (operand.x, operand.coefficients, operand.y)
    x, k, y = (None if a is None else function(a) for a in arrays)
    return Operand(x, operand.kind, k, y)


class Gradients:
    """The operands of both gradients of a case, and what the reference makes of them."""

    def __init__(self, case, dtype="float32", gy=PLAIN, x=PLAIN, seed=0):
        self.g, self.dtype = conv2d_geometry(*case), np.dtype(dtype)
        g, rng = self.g, np.random.default_rng(seed)
        self.gy = operand(rng, (g.n, g.h_out, g.w_out, g.c_out), gy, dtype)
        self.x = operand(rng, (g.n, g.h_in, g.w_in, g.c_in), x, dtype)
        self.w = rng.standard_normal(case[1]).astype(dtype)

    def expected(self):
        """(gx, gw), in float64."""
        g = self.g
        gy, x = (map_operand(o, lambda a: a.astype("float64")) for o in (self.gy, self.x))
        gx, gw = np.empty(x.x.shape), np.empty(self.w.shape)
        with np.errstate(invalid="ignore"):
            kernel_numpy.conv2d_bwd_input(gy, self.w.astype("float64"), gx, g)
            kernel_numpy.conv2d_bwd_weight(gy, x, gw, g)
        return gx, gw

    def results(self, shared=False):
        """(gx, gw) of the kernels."""
        device, g = Device("cuda"), self.g
        gy, x = map_operand(self.gy, there), map_operand(self.x, there)
        gx = allocate(self.x.x.shape, self.dtype, device)
        gw = allocate(self.w.shape, self.dtype, device)
        kernel_cuda.conv2d_bwd_input(gy, there(self.w), gx, g)
        kernel_cuda.conv2d_bwd_weight(gy if shared else map_operand(self.gy, there), x, gw, g)
        return gx.get(), gw.get()


def close(found, expected, tolerance):
    for one, other in zip(found, expected):
        assert np.isfinite(one).all()
        scale = max(np.abs(other).max(), 1e-30) if other.size else 1
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    case = Gradients(CASES[name])
    close(case.results(), case.expected(), TOLERANCE["highest"])


@pytest.mark.parametrize("name", F64)
def test_float64(name):
    for kinds in ((PLAIN, PLAIN), (GATED, RECTIFIED)):
        case = Gradients(CASES[name], "float64", *kinds)
        close(case.results(), case.expected(), 1e-13)


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_depthwise(name, dtype):
    case = Gradients(DEPTHWISE[name], dtype)
    close(case.results(), case.expected(), {"float32": 1e-6, "float64": 1e-14}[dtype])


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_depthwise_forward(name, dtype):
    """With all that an epilogue may have."""
    case = Gradients(DEPTHWISE[name], dtype)
    g, rng = case.g, np.random.default_rng(1)
    assert kernel_cuda.conv2d_way(g, case.dtype) == "depthwise"
    shape, device = case.gy.x.shape, Device("cuda")
    b, residual = (rng.standard_normal(s).astype(dtype) for s in (g.c_out, shape))
    expected, y = np.empty(shape), allocate(shape, case.dtype, device)
    mean, var = (allocate((g.c_out,), case.dtype, device) for _ in range(2))
    x, w, bias, added = (a.astype("float64") for a in (case.x.x, case.w, b, residual))
    kernel_numpy.conv2d_fwd(x, PackedWeights(w, bias), expected, g, Epilogue(added, relu=True))
    weights = PackedWeights(there(case.w), there(b))
    epilogue = Epilogue(there(residual), relu=True, statistics=(mean, var))
    kernel_cuda.conv2d_fwd(there(case.x.x), weights, y, g, epilogue)
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    found = [y.get(), mean.get(), var.get()]
    close(found, [expected, expected.mean((0, 1, 2)), expected.var((0, 1, 2))], tolerance)


@pytest.mark.parametrize("name", ["3x3, stride 2", "1x1", "3 channels"])
@pytest.mark.parametrize("level", ["high", "medium"])
def test_rounded_products(name, level, precision):
    precision(level)
    case = Gradients(CASES[name])
    found, expected = case.results(), case.expected()
    close(found, expected, TOLERANCE[level])
    with pytest.raises(AssertionError):  # they are rounded indeed
        close(found, expected, TOLERANCE["highest"])


ROWS = {  # 3 x 3 taps of few channels: tiles of 4 x 32, 4 x 16 and 4 x 8 pixels
    "16 channels": ((2, 16, 8, 32), (16, 16, 3, 3), 1, 1, 1, 1),
    "16 to 20 channels": ((1, 16, 7, 30), (20, 16, 3, 3), 1, (2, 0), 1, 1),
    "32 channels": ((2, 32, 4, 16), (32, 32, 3, 3), 1, 1, 1, 1),
    "32 to 40 channels": ((1, 32, 3, 12), (40, 32, 3, 3), 1, (1, 2), 1, 1),
    "64 channels": ((2, 64, 8, 8), (64, 64, 3, 3), 1, 1, 1, 1),
    "64 to 68 channels": ((1, 64, 8, 16), (68, 64, 3, 3), 1, (1, 0), 1, 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name, launched):
    case = Gradients(ROWS[name])
    close(case.results(), case.expected(), TOLERANCE["highest"])
    assert "conv2d_bwd_weight_rows" in [name for name, _ in launched]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [(PLAIN, PLAIN), (GATED, RECTIFIED)])
@pytest.mark.parametrize("c", [16, 32, 64])
def test_rows_of_many_tiles(c, kinds, monkeypatch):
    """All tiles are one share: the next is brought while one is multiplied. There is no padding, so
    nothing that is not finite is computed again."""
    tile = cuda_weight_rows.TILES[c]
    monkeypatch.setattr(cuda_weight_rows, "BLOCKS", 1)
    x, w = (1, c, 2 + tile.h, 2 + 3 * tile.w), (c + 4, c, 3, 3)
    case = Gradients((x, w, 1, 0, 1, 1), gy=kinds[0], x=kinds[1])
    cuda_weight.plan.cache_clear()
    found, expected = set(), case.expected()
    for conditions in CONDITIONS:
        with under(conditions):
            results = case.results()
        close(results, expected, TOLERANCE["highest"])
        found.add(results[1].tobytes())
    cuda_weight.plan.cache_clear()
    assert len(found) == 1


@pytest.mark.parametrize("level", ["highest", "high"])
@pytest.mark.parametrize("name", ["16 to 20 channels", "32 to 40 channels", "64 channels"])
def test_rows_with_prologues(name, level, launched, precision):
    precision(level)
    for kinds in ((GATED, RECTIFIED), (PLAIN, RECTIFIED), (GRADIENT, PLAIN)):
        case = Gradients(ROWS[name], gy=kinds[0], x=kinds[1])
        close(case.results(), case.expected(), TOLERANCE[level])
    assert [name for name, _ in launched].count("conv2d_bwd_weight_rows") == 3


PROLOGUES = {
    "3x3": ((1, 16, 8, 30), (16, 16, 3, 3), 1, 1, 1, 1),
    "1x1": CASES["1x1"],
    "stride 2": ((1, 32, 7, 7), (32, 32, 3, 3), 2, 1, 1, 1),
    "odd channels": CASES["5 channels"],
}


@pytest.mark.parametrize("kinds", [(GATED, RECTIFIED), (GRADIENT, NORMALISED), (PASSED, PLAIN)])
@pytest.mark.parametrize("name", PROLOGUES)
def test_prologues(name, kinds):
    case = Gradients(PROLOGUES[name], gy=kinds[0], x=kinds[1])
    close(case.results(), case.expected(), TOLERANCE["highest"])


@pytest.mark.parametrize("kinds", [(NORMALISED, PLAIN), (PLAIN, RECTIFIED), (RECTIFIED, GATED)])
def test_prologues_of_other_operands(kinds):
    """A batch norm with fixed statistics has a gradient that is NORMALISED."""
    case = Gradients(PROLOGUES["3x3"], gy=kinds[0], x=kinds[1])
    close(case.results(), case.expected(), TOLERANCE["highest"])


@pytest.mark.parametrize("level", ["high", "medium"])
def test_prologues_of_rounded_products(level, precision):
    precision(level)
    case = Gradients(PROLOGUES["3x3"], gy=GATED, x=RECTIFIED)
    close(case.results(), case.expected(), TOLERANCE[level])


def test_a_gradient_with_a_prologue_is_written_once(launched):
    """With many channels and taps it is, and both gradients read what was written."""
    case = Gradients(((1, 68, 4, 4), (68, 68, 3, 3), 1, 1, 1, 1), gy=GATED)
    close(case.results(shared=True), case.expected(), TOLERANCE["highest"])
    assert [name for name, _ in launched].count("write") == 1


# **** under which conditions kernels run ****


CHECKED = {
    "3x3": (CASES["3x3"], "highest", PLAIN, PLAIN),
    "prologues": (PROLOGUES["stride 2"], "highest", GATED, RECTIFIED),
    "rows, 16 channels": (ROWS["16 to 20 channels"], "highest", GATED, RECTIFIED),
    "rows, 32 channels": (ROWS["32 to 40 channels"], "highest", PLAIN, PLAIN),
    "rows, 64 channels": (ROWS["64 to 68 channels"], "high", PLAIN, RECTIFIED),
    "tiles of one warp row": (PROLOGUES["1x1"], "highest", GATED, RECTIFIED),
    "phases": (CASES["padding above kernel"], "highest", PLAIN, PLAIN),
    "odd": (CASES["odd"], "highest", PLAIN, PLAIN),
    "3 channels": (CASES["3 channels"], "highest", PLAIN, PLAIN),
    "tf32": (PROLOGUES["3x3"], "high", GATED, RECTIFIED),
    "bfloat16": (PROLOGUES["3x3"], "medium", GATED, RECTIFIED),
    "depthwise": (DEPTHWISE["3x3"], "highest", PLAIN, PLAIN),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_same_bits_in_any_order_without_races(name, precision):
    """Threads forward, backward and shuffled, copies early and late, every access looked at."""
    sizes, level, gy, x = CHECKED[name]
    precision(level)
    case = Gradients(sizes, gy=gy, x=x)
    found = set()
    for conditions in CONDITIONS:
        with under(conditions):
            results = case.results()
        close(results, case.expected(), TOLERANCE[level])
        found.add(b"".join(a.tobytes() for a in results))
    assert len(found) == 1


# **** shares and parts ****


def test_pixels_fall_into_shares(launched):
    """The sum of many shares, in which steps end at any pixel of a row, an image, or the batch."""
    case = Gradients(((3, 16, 13, 11), (16, 16, 3, 3), 1, 1, 1, 1))
    close(case.results(), case.expected(), TOLERANCE["highest"])
    grid = next(grid for name, grid in launched if name == "conv2d_bwd_weight")
    assert grid == (3, 2)  # shares of 256 pixels, of 429


def test_shares_follow_from_sizes():
    """Enough blocks for any GPU, none without pixels, and no share that is too small to pay."""
    for batch, c, size in itertools.product((1, 3, 64, 128), (16, 32, 64, 128, 256), (1, 7, 32)):
        g = conv2d_geometry((batch, c, size, size), (c, c, 3, 3), 1, 1, 1, 1)
        way = cuda_weight.plan(g, batch, "Fp32", (4, 4), 0, 0)
        by_rows = "rows" in way.kernel.name
        blocks, shares = way.grid
        share, pixels = int(way.sizes["share"][0]), batch * size * size
        all_of_them = int(way.sizes["tiles" if by_rows else "pixels"][0])
        assert (shares - 1) * share < all_of_them <= shares * share
        assert share >= (1 if by_rows else 64)
        assert shares <= 8 or shares * blocks <= 512
        if pixels >= 2**16:
            assert shares * blocks >= 126
        assert by_rows == ((c <= 64 and size == 32) or (c, size) == (64, 7))


def test_shares_of_large_blocks_come_out_even():
    """144 blocks would keep 128 multiprocessors waiting for 16; 4 times as many do not."""
    shares = [cuda_weight.shares_of("wide", blocks, 196, 512 * 4608) for blocks in (144, 128, 1)]
    assert shares == [4, 1, 3]
    assert cuda_weight.shares_of("wide", 36, 784, 256 * 2304) == 7  # 252 blocks, 2 each
    assert cuda_weight.shares_of("wide", 16, 784, 256 * 1024) == 8  # 128 blocks
    assert cuda_weight.shares_of("64", 9, 8192, 64 * 576) == 56


def test_operations_are_counted():
    """By the definition, and beyond 2^31."""
    for x, w, groups in (
        ((128, 256, 56, 56), (256, 256, 3, 3), 1),
        ((256, 16, 32, 32), (16, 16, 3, 3), 1),
        ((256, 64, 56, 56), (128, 16, 1, 1), 4),
    ):
        g = conv2d_geometry(x, w, 1, w[2] // 2, 1, groups)
        way = cuda_weight.plan(g, g.n, "Fp32", (4, 4), 0, 0)
        like_x = np.broadcast_to(np.float32(0), (g.n, g.h_in, g.w_in, g.c_in))
        arguments = (None, None, None, like_x, None, None, way.sizes)
        assert way.kernel.work(arguments).operations == 2 * g.multiply_adds
    g = conv2d_geometry((256, 960, 56, 56), (960, 1, 3, 3), 2, 1, 1, 960)
    for of_y in (True, False):
        sizes = cuda_depthwise._sizes(g, g.n, 4, of_y)
        kernel = cuda_depthwise._kernel("depthwise_fwd", np.dtype("float32"), 4)
        assert kernel.work((*[None] * 6, sizes)).operations == 2 * g.multiply_adds


def test_large_batches_are_cut(monkeypatch, launched):
    """One launch reaches 2^31 entries: more images are several launches, whose sums are added."""
    case = Gradients(((5, 8, 6, 5), (8, 8, 3, 3), 2, 1, 1, 1))
    whole = case.results()
    before = len(launched)
    monkeypatch.setattr(cuda_plan, "LIMIT", 2 * 8 * 6 * 5)  # two images
    parts = case.results()
    names = [name for name, _ in launched[before:]]
    assert names.count("conv2d_bwd_weight") == names.count("add_shares") == 3
    close(parts, case.expected(), TOLERANCE["highest"])
    assert np.array_equal(parts[0], whole[0])
    for name in ("3x3", "one to two"):
        depthwise = Gradients(DEPTHWISE[name])
        monkeypatch.setattr(cuda_plan, "LIMIT", 8 * 9 * 7 if name == "3x3" else 40 * 6 * 5)
        close(depthwise.results(), depthwise.expected(), 1e-6)


def test_arrays_that_begin_anywhere():
    """A view may begin at any entry: it is then read one by one."""
    case = Gradients(CASES["1x1"])
    flat = there(np.concatenate([[0], case.gy.x.ravel()]).astype("float32"))
    gw = allocate(case.w.shape, case.dtype, Device("cuda"))
    gy = flat[1:].reshape(case.gy.x.shape)
    kernel_cuda.conv2d_bwd_weight(gy, there(case.x.x), gw, case.g)
    close([gw.get()], case.expected()[1:], TOLERANCE["highest"])


def test_every_kernel_that_is_chosen_is_listed(monkeypatch, precision):
    """And every one of the list is chosen somewhere."""
    listed = {kernel.name for kernel in cuda_weight.instances()}
    found = set()
    monkeypatch.setattr(Kernel, "run", lambda kernel, grid, arguments: found.add(kernel.name))
    kinds = [(PLAIN, PLAIN), (PLAIN, RECTIFIED), (GATED, PLAIN), (GATED, NORMALISED)]
    sizes = list(itertools.product((3, 16, 32, 64, 67, 128), (3, 51, 128), (1,), (1,)))
    sizes += itertools.product((16,), (16, 32, 64), (16,), (3,))
    for level, dtype in (*((level, "float32") for level in TOLERANCE), ("highest", "float64")):
        precision(level)
        for (c_out, c_in, size, k), (gy, x) in itertools.product(sizes, kinds):
            w = (c_out, c_in, k, k)
            case = Gradients(((1, c_in, size, 2 * size), w, 1, k // 2, 1, 1), dtype, gy, x)
            gw = allocate(case.w.shape, case.dtype, Device("cuda"))
            gy, x = map_operand(case.gy, there), map_operand(case.x, there)
            kernel_cuda.conv2d_bwd_weight(gy, x, gw, case.g)
    assert {name for name in found if "bwd_weight" in name or "add_shares" in name} == listed


# **** what is not finite ****


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("kinds", [(PLAIN, PLAIN), (GATED, RECTIFIED), (GRADIENT, NORMALISED)])
def test_padding_takes_no_part(bad, kinds):
    """An infinite gy at the border reaches the weights whose taps lie inside, and no others."""
    case = Gradients(PROLOGUES["3x3"], gy=kinds[0], x=kinds[1])
    case.gy.x[0, 0, 0, 3] = case.gy.x[0, 7, 4, 5] = bad
    case.x.x[0, 0, 8, 2] = bad
    if kinds[0] != PLAIN:  # where the gate is open
        case.gy.y[...] = case.gy.coefficients[0] + 0.1 * case.gy.coefficients[1]
        case.gy.coefficients[2] = 1
    _, expected = case.expected()
    _, gw = case.results()
    assert not np.isfinite(expected).all()
    assert np.isfinite(expected[3]).any()
    np.testing.assert_array_equal(np.isnan(gw), np.isnan(expected))
    np.testing.assert_allclose(gw, expected, rtol=1e-4, atol=1e-4)


# **** the phases of the input gradient ****


def test_phases_are_the_definition():
    """Row by row: which taps meet which rows of gy."""
    for size, k, s, p, d in itertools.product(
        (1, 2, 7, 8), (1, 2, 3, 5), (1, 2, 3, 4, 6), (0, 1, 4), (1, 2, 3)
    ):
        seen = {}
        for a in cuda_input.axis_phases(size, k, s, p, d):
            for row in range(a.size):
                meets = {
                    (a.tap + m * a.step, row - a.padding + m * a.dilation) for m in range(a.taps)
                }
                assert seen.setdefault(a.first + row * s, meets) is meets  # written once
        expected = {
            h: {(u, (h + p - u * d) // s) for u in range(k) if (h + p - u * d) % s == 0}
            for h in range(size)
        }
        assert seen == expected


def test_every_entry_of_gx_is_written():
    """Also those that no tap meets, by launches that write only their own."""
    gx, _ = Gradients(CASES["stride above kernel"]).results()
    assert np.isfinite(gx).all()
    assert not gx[:, [2, 3, 6, 7, 10]].any()


# **** the costs of memory ****


@pytest.mark.skipif(REAL, reason="the simulator counts")
@pytest.mark.parametrize("level", ["highest", "high", "medium"])
@pytest.mark.parametrize("name", ["16", "32", "64", "wide", *list(ROWS)[::2]])
def test_no_bank_conflicts(name, level, precision):
    """Accesses to shared memory take no longer than their bytes, and to global memory whole
    sectors."""
    precision(level)
    c = {"16": 16, "32": 32, "64": 64, "wide": 128}.get(name)
    case = Gradients(ROWS.get(name, ((1, c, 8, 8), (c, c, 1, 3), 1, (0, 1), 1, 1)))
    gw = allocate(case.w.shape, case.dtype, Device("cuda"))
    gy, x = there(case.gy.x), there(case.x.x)
    with cudasim.counting() as counts:
        kernel_cuda.conv2d_bwd_weight(gy, x, gw, case.g)
    for kind, count in counts.items():
        limit = 1.3 if "global" in kind else 1.0
        assert count.excess <= limit, (kind, count)

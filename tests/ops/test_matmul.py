"""Matrix products: every combination of dimensions, derivatives, nothing-sized, errors."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import host, tensor, there

import minires as mr
from minires.errors import DTypeError, ShapeError
from minires.gradcheck import check, check2

SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((1, 1), (1, 1)),
    ((2, 2, 3), (2, 3, 2)),
    ((2, 2, 3), (3, 2)),
    ((2, 3), (2, 3, 2)),
    ((2, 1, 2, 3), (3, 3, 1)),
    ((3,), (2, 3, 2)),
    ((2, 2, 3), (3,)),
]
LAYOUTS = {
    "contiguous": np.copy,
    "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.flip(a).copy()[(slice(None, None, -1),) * a.ndim],
}


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in shapes]


def leaves(arrays):
    return [there(a).requires_grad_() for a in arrays]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_values_and_derivatives(shapes, device):
    arrays = draw(*shapes)
    before = [a.copy() for a in arrays]
    y = mr.matmul(*leaves(arrays))
    expected = np.matmul(*arrays)
    assert y.shape == expected.shape
    np.testing.assert_allclose(host(y), expected, rtol=1e-13)
    check(mr.matmul, leaves(arrays)).assert_ok()
    check2(mr.matmul, leaves(arrays)).assert_ok()
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_float32(layout, device):
    a, b = map(LAYOUTS[layout], draw((3, 4, 5), (5, 6)))
    np.testing.assert_allclose(host(there(a) @ there(b)), a @ b, rtol=1e-12)
    x, w = leaves([a.astype("float32"), b.astype("float32")])
    y = x @ w
    assert y.dtype == np.float32
    np.testing.assert_allclose(host(y), a @ b, rtol=1e-5, atol=1e-5)
    assert {g.dtype for g in mr.grad(y.sum(), [x, w])} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "shapes",
    [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0)), ((0, 2, 3), (3, 2)), ((0,), (0,))],
    ids=str,
)
def test_zero_size(shapes, device):
    x, w = (mr.zeros(s, requires_grad=True, device=device) for s in shapes)
    y = x @ w
    assert y.shape == np.matmul(np.zeros(shapes[0]), np.zeros(shapes[1])).shape
    assert not host(y).any()
    for g, v in zip(mr.grad(y.sum(), [x, w]), (x, w)):
        assert g.shape == v.shape
        assert not host(g).any()


def test_arrays_on_either_side():
    a = np.float32([[1, 2], [3, 4]])
    x = tensor([1.0, 10.0])
    assert (a @ x).tolist() == [21, 43]
    assert (x @ a).tolist() == [31, 42]
    assert isinstance(a @ x, mr.Tensor)
    assert x.matmul(x).item() == 101


def test_infinities_come_without_warnings(device):
    x = tensor([[np.inf, 1.0]])
    assert np.isnan((x @ tensor([[0.0], [1.0]])).item())
    assert ((x * 0 + 1e38) @ (x.T * 0 + 1e38)).isfinite().any().item() is False


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(lead, bias, device):
    arrays = draw((*lead, 3), (2, 3), (2,))[: 3 if bias else 2]
    y = mr.linear(*leaves(arrays))
    expected = arrays[0] @ arrays[1].T + (arrays[2] if bias else 0)
    np.testing.assert_allclose(host(y), expected, rtol=1e-13)
    check(mr.linear, leaves(arrays)).assert_ok()
    check2(mr.linear, leaves(arrays)).assert_ok()


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (
            lambda: mr.ones(2, 3) @ mr.ones(2, 3),
            ShapeError,
            r"matmul: expected x\.shape\[-1\] == y\.shape\[-2\], got 3 and 2 \(\(2, 3\) @ \(2, 3\)",
        ),
        (lambda: mr.ones(3) @ mr.ones(2), ShapeError, "got 3 and 2"),
        (lambda: mr.ones(2, 3) @ mr.ones(2), ShapeError, "got 3 and 2"),
        (lambda: mr.tensor(1.0) @ mr.ones(2), ShapeError, "at least one dimension each"),
        (lambda: mr.ones(2) @ 3, DTypeError, "matmul: expected a tensor, got int"),
        (lambda: mr.matmul(np.ones(2), np.ones(2)), DTypeError, "expected a tensor, got ndarray"),
        (
            lambda: mr.ones(2, 1, 3) @ mr.ones(3, 3, 1),
            ShapeError,
            "leading sizes that broadcast",
        ),
        (lambda: mr.tensor([1]) @ mr.tensor([1]), DTypeError, "floating-point tensor, got int64"),
        (lambda: mr.ones(2) @ mr.ones(2, dtype="float64"), DTypeError, "float32 .* float64"),
        (lambda: mr.linear(mr.ones(2, 3), mr.ones(4, 2)), ShapeError, "got 3 and 2"),
        (
            lambda: mr.linear(mr.ones(2, 3, 4, 4), mr.ones(5, 48)),
            ShapeError,
            r"Flatten feature maps first: x\.flatten\(1\)",
        ),
        (lambda: mr.linear(mr.ones(3), mr.ones(3)), ShapeError, r"w \(out, in\) and b \(out,\)"),
        (lambda: mr.linear(mr.ones(3), mr.ones(2, 3), mr.ones(3)), ShapeError, r"b \(3,\)"),
        (lambda: mr.linear(mr.tensor(1.0), mr.ones(2, 3)), ShapeError, "got a scalar"),
        (lambda: mr.linear(np.ones(3), mr.ones(2, 3)), DTypeError, "linear: expected a tensor"),
    ],
)
def test_errors(act, error, words):
    with pytest.raises(error, match=words):
        act()


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_parity(shapes):
    torch = pytest.importorskip("torch")
    arrays = draw(*shapes, seed=2)
    inputs = leaves(arrays)
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, theirs = inputs[0] @ inputs[1], others[0] @ others[1]
    gy = np.asarray(np.random.default_rng(3).standard_normal(y.shape))
    np.testing.assert_allclose(y.detach().data, theirs.detach().numpy(), rtol=1e-12)
    expected = torch.autograd.grad(theirs, others, torch.tensor(gy))
    for g, t in zip(mr.grad(y, inputs, mr.from_numpy(gy)), expected):
        np.testing.assert_allclose(g.data, t.numpy(), rtol=1e-12)


def blas_threads():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    return [library["num_threads"] for library in threadpoolctl.threadpool_info()]


def test_threads_of_blas_do_not_spin_after_the_product_of_a_layer():
    """They would hold the cores that the next kernel runs on, for some 25 ms."""
    x, w = mr.randn(8, 2048), mr.randn(1000, 2048)
    mr.nn.functional.linear(x, w)  # what is done once is done
    time.sleep(0.1)
    burnt = []
    for _ in range(5):
        mr.nn.functional.linear(x, w)
        start = time.process_time()
        time.sleep(0.01)
        burnt.append(time.process_time() - start)
    assert sorted(burnt)[2] < 0.005


def test_a_product_may_be_asked_for_while_another_is_computed():
    """By code that the garbage collector runs."""
    code = (
        "import faulthandler, gc, minires as mr\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"
        "a = mr.randn(32, 32)\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        a @ a\n"
        "for threshold in range(1, 30):\n"
        "    gc.set_threshold(threshold, 1, 1)\n"
        "    for _ in range(20):\n"
        "        last = Last()\n"
        "        last.me = last\n"
        "        del last\n"
        "        a @ a\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr


def test_threads_of_blas_come_back_after_an_interrupt():
    x = mr.randn(64, 64)
    before = blas_threads()

    def interrupt(number, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(100):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.00001 * turn)
                while True:
                    x @ x
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    x @ x
    assert blas_threads() == before


def test_threads_of_blas_are_as_many_as_before_when_several_threads_multiply():
    x, w = mr.randn(64, 512), mr.randn(512, 64)
    expected = x.numpy() @ w.numpy()
    before = blas_threads()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: (x @ w).numpy(), range(200)))
    assert blas_threads() == before
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)

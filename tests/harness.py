"""One body of checks for every hand-written operation, on every backend."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from gpu import other_order

import minires as mr
from minires.gradcheck import check, check2
from minires.nn import init

F64 = "float64"
TOLERANCE = {"float64": 1e-11, "float32": 3e-5}


def arrays(*shapes, seed=0):
    """Normal draws of these shapes, float64."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def distinct(*shapes, seed=0):
    """Values at least 0.1 apart and away from 0, in random order: no ties, no kinks nearby."""
    rng = np.random.default_rng(seed)
    result = []
    for shape in shapes:
        size = int(np.prod(shape))
        result.append(np.asarray((rng.permutation(size) - size / 2 + 0.5).reshape(shape) * 0.1))
    return result


def leaf(values, dtype=F64):
    """A tensor of these values that requires a gradient."""
    return tensor(values, dtype=dtype, requires_grad=True)


# **** devices ****


_place = "cpu"


@contextlib.contextmanager
def on(device):
    """Inside, the tensors of tests are on this device; :func:`host` gives their values."""
    global _place
    before, _place = _place, device
    try:
        yield
    finally:
        _place = before


def place():
    """The device that the present test is about."""
    return _place


def tensor(values, **options):
    """``mr.tensor`` on the device that the test is about."""
    return mr.tensor(values, device=_place, **options)


def zeros(*shape, **options):
    """``mr.zeros`` on that device."""
    return mr.zeros(*shape, device=_place, **options)


def ones(*shape, **options):
    """``mr.ones`` on that device."""
    return mr.ones(*shape, device=_place, **options)


def host(value):
    """The values of a tensor, or of an array of any device, as an array of NumPy's; a number as it
    is."""
    array = value._array if isinstance(value, mr.Tensor) else value
    return array.get() if hasattr(array, "get") else array


def there(array):
    """A tensor of an array's values, in its memory order, on the device that the test is about."""
    if _place == "cpu" or not array.ndim:
        return mr.from_numpy(array).to(_place)
    # a copy to a GPU has the order of C: copy what has that order, and look at it as the array does
    down = [axis for axis in range(array.ndim) if array.strides[axis] < 0]
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    plain = np.flip(array, down).transpose(order)
    gap = max(plain.strides[-1] // plain.itemsize, 1) if plain.size else 1
    plain = np.repeat(plain, gap, -1) if gap > 1 else plain
    moved = mr.from_numpy(np.ascontiguousarray(plain)).to(_place).data
    moved = moved[..., ::gap] if gap > 1 else moved
    moved = moved.transpose(np.argsort(order).tolist())
    return mr.Tensor(np.flip(moved, down) if down else moved)


def line():
    """The line of the caller, as messages write it."""
    return inspect.currentframe().f_back.f_lineno


LAYOUTS = {
    "contiguous": lambda a: a.copy(),
    "channels_last": lambda a: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every_second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.flip(a, axis=(-1, 1)).copy()[:, ::-1][..., ::-1],
    "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
}


def run(f, values, upstream=None):
    """``f`` on tensors of these arrays: (result, gradients, the upstream gradient used)."""
    tensors = [there(v).requires_grad_() for v in values]
    y = f(*tensors)
    if upstream is None:
        upstream = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    given = there(upstream)
    gradients = mr.grad(y, tensors, given)
    assert {str(t.device).split(":")[0] for t in (y, *gradients)} == {_place}
    if _place == "cpu":
        return y.detach().data, [g.data for g in gradients], upstream
    # inputs and upstream gradient unmodified, and no two of all in the same memory
    for t, value in zip((*tensors, given), (*values, upstream)):
        assert np.array_equal(host(t), value)
    for one, other in itertools.combinations((*tensors, given, *gradients), 2):
        assert one.numel() == 0 or not np.shares_memory(one.data, other.data)
    return host(y), [host(g) for g in gradients], upstream


def check_op(f, values, dtype="float64"):
    """Values and gradients of ``f`` against the references, and the invariants of every op."""
    with mr.backend("numpy"), on("cpu"):
        expected, expected_gradients, upstream = run(f, values)
    values = [v.astype(dtype) if v.dtype != dtype else v for v in values]
    upstream = upstream.astype(dtype)
    before = [v.copy() for v in values], upstream.copy()
    y, gradients, _ = run(f, values, upstream)
    with other_order():
        again, gradients_again, _ = run(f, values, upstream)

    close(y, expected, dtype)
    for gradient, reference, value in zip(gradients, expected_gradients, values):
        assert gradient.shape == value.shape
        close(gradient, reference, dtype)
    # dtype kept, same bits twice, inputs and upstream gradient unmodified
    assert {a.dtype.name for a in (y, *gradients)} == {dtype}
    assert np.array_equal(y, again)
    for one, other in zip(gradients, gradients_again):
        assert np.array_equal(one, other)
    for value, old in zip((*values, upstream), (*before[0], before[1])):
        assert np.array_equal(value, old)
    # no two results share memory with each other or with what came in
    for one, other in itertools.combinations((*gradients, *values, upstream), 2):
        assert one.size == 0 or not np.shares_memory(one, other)


def close(actual, expected, dtype):
    scale = np.abs(expected).max() if expected.size else 1
    assert np.isfinite(actual).all() or not np.isfinite(expected).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * max(scale, 1))


def check_gradients(f, values, second=True):
    """First and second derivatives against differences, in float64."""
    tensors = [tensor(v, requires_grad=True) for v in values]
    check(f, tensors).assert_ok()
    if second:
        check2(f, tensors).assert_ok()


def against_torch(f, g, values, tolerance=1e-10):
    """Values and gradients of minires' ``f`` against PyTorch's ``g`` on the same numbers."""
    torch = pytest.importorskip("torch")
    y, gradients, upstream = run(f, values)
    tensors = [torch.tensor(v.copy(), requires_grad=True) for v in values]
    z = g(*tensors)
    np.testing.assert_allclose(y, z.detach().numpy(), rtol=tolerance, atol=tolerance)
    expected = torch.autograd.grad(z, tensors, torch.tensor(upstream))
    for mine, theirs in zip(gradients, expected):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=tolerance, atol=tolerance)


@contextlib.contextmanager
def one_thread(*libraries):
    """Run the kernels of minires or PyTorch, or of both, on one thread.

    For tiny inputs: handing them to other threads takes longer than the work, and many times as
    long where those have to wait for a core. The results are the same to the last bit.
    """
    before = [library.get_num_threads() for library in libraries]
    for library in libraries:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in zip(libraries, before):
            library.set_num_threads(threads)


@contextlib.contextmanager
def undrawn():
    """Networks are built without drawing their large weights, which stay zeros and take no memory.

    For tests that load weights, or look at no values: drawing tens of millions takes seconds.
    """

    def large(shape):
        return math.prod(shape) > 10_000

    class Draws:
        def __getattr__(self, name):
            draw = getattr(mr.random.generator(), name)

            def drawn(first, second, shape):  # a mean and a deviation, or two ends
                return np.broadcast_to(0.0, shape) if large(shape) else draw(first, second, shape)

            return drawn if name in ("normal", "uniform") else draw

    def fill(tensor, values):
        return tensor if large(np.shape(values)) else before(tensor, values)

    before = init._fill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init, "random", SimpleNamespace(generator=Draws))
        patch.setattr(init, "_fill", fill)
        yield


def raises(kind, *words):
    """``pytest.raises`` of this kind, whose text has all these words in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, text and table rows."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.text, self.rows = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

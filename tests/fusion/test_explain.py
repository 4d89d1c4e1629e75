"""explain: it tells what is deferred and what will run, computes nothing, and is right about it."""

from __future__ import annotations

import pytest

import minires as mr
from minires import models, nn
from minires.autograd import Around, Function
from minires.autograd.engine import around
from minires.errors import DTypeError
from minires.fusion.backward import LazyBatchNormGradient, LazyReLUGradient, LazySum

SHAPE = (4, 16, 16, 16)


@pytest.fixture
def block():
    mr.manual_seed(0)
    block = models.BasicBlock(16, 16)
    block(mr.randn(*SHAPE))  # for statistics
    return block


@pytest.fixture
def x():
    mr.manual_seed(1)
    return mr.randn(*SHAPE)


def steps(y):
    return [(row.what, row.state, row.by.partition(" (")[0]) for row in mr.explain(y).rows]


def launches(y):
    """The kernels that run when somebody looks at y."""
    with mr.profile() as p:
        _ = y._array
    return [event.work.name for event in p.events if event.kind == "kernel"]


def passes(y):
    """The same without those that prepare coefficients or weights."""
    return [name for name in launches(y) if name.endswith(("fwd", "convolve"))]


def test_a_residual_block_in_training(block, x):
    y = block(x)
    explained = mr.explain(y)
    assert [(row.what, row.state) for row in explained.rows] == [
        ("input of batch_norm", "computed"),
        ("residual", "computed"),
        ("batch_norm", "deferred"),
        ("add", "deferred"),
        ("relu", "deferred"),
    ]
    assert explained.rows[0].by.startswith("recorded by <Conv2d ")
    assert [row.by for row in explained.deferred] == [
        "batch_norm_fwd of batch_norm.kernel_numba",
        "epilogue 'residual' of batch_norm",
        "epilogue 'relu' of batch_norm",
    ]
    assert {(row.shape, row.dtype, row.device) for row in explained.rows} == {
        (SHAPE, "float32", "cpu")
    }
    assert sum(row.runs for row in explained.rows) == 1
    assert "3 operations are deferred, and 1 will run" in str(explained)
    assert passes(y) == ["batch_norm.fwd"]


def test_it_computes_nothing(block, x):
    plain = block(x).detach().numpy().tobytes()
    y = block(x)
    with mr.profile() as p:
        first, second = str(mr.explain(y)), repr(mr.explain(y))
    assert first == second
    assert p.events == []
    assert y._lazy is not None
    assert y._lazy.array is None
    assert y.detach().numpy().tobytes() == plain


def test_a_tensor_that_is_there(block, x):
    y = block(x)
    _ = y._array
    explained = mr.explain(y)
    assert explained.deferred == []
    (row,) = explained.rows
    assert row.what == "tensor"
    assert row.by == f"recorded by {y.grad_fn!r}"
    assert str(explained).endswith("Nothing is deferred: the values are there.")
    assert mr.explain(x).rows[0].by == ""


def test_a_convolution_reads_through_batch_norm_and_relu(block, x):
    y = block.conv2(mr.relu(block.bn1(block.conv1(x))))
    assert steps(y) == [
        ("input of batch_norm", "computed", mr.explain(y).rows[0].by),
        ("batch_norm", "deferred", "prologue 'rectified' of conv2d"),
        ("relu", "deferred", "prologue 'rectified' of conv2d"),
        ("weights", "deferred", "packed at each call, for they are being trained"),
        ("conv2d", "deferred", "conv2d_fwd of conv2d.kernel_numba"),
    ]
    ran = launches(y)
    assert "batch_norm.fwd" not in ran
    assert sum(row.startswith("conv2d.") and row.endswith("convolve") for row in ran) == 1


def test_evaluation_is_one_convolution_and_its_weights_are_kept(block, x):
    block.eval()
    with mr.no_grad():
        for kept in (False, True):
            y = block(x)
            state = "computed" if kept else "deferred"
            weights = "kept until they are written"
            weights = weights if kept else f"packed, and then {weights}"
            assert steps(y) == [
                ("input", "computed", ""),
                ("residual", "computed", ""),
                ("weights, times the batch norm's scale", state, weights),
                ("conv2d", "deferred", "conv2d_fwd of conv2d.kernel_numba"),
                ("batch_norm", "deferred", "weights of conv2d"),
                ("add", "deferred", "epilogue 'residual' of conv2d"),
                ("relu", "deferred", "epilogue 'relu' of conv2d"),
            ]
            assert sum(row.runs for row in mr.explain(y).rows) == (1 if kept else 2)
            ran = launches(y)
            assert sum(name.endswith("convolve") for name in ran) == 1
            assert (len(ran) == 1) == kept
        with mr.no_grad():
            block.conv2.weight.mul_(2.0)
        assert mr.explain(block(x)).rows[2].state == "deferred"


def test_weights_of_a_convolution_alone_are_kept(x):
    w = mr.randn(16, 16, 3, 3)
    with mr.no_grad():
        for state in ("deferred", "computed"):
            y = mr.conv2d(x, w, padding=1)
            assert mr.explain(y).rows[1].what == "weights"
            assert mr.explain(y).rows[1].state == state
            _ = y._array


@pytest.mark.parametrize(
    ("channels", "way"), [(16, "winograd"), (3, "direct")], ids=["winograd", "direct"]
)
def test_the_way_of_a_convolution_is_the_one_that_runs(channels, way):
    y = mr.conv2d(mr.randn(8, channels, 32, 32), mr.randn(16, channels, 3, 3), padding=1)
    assert mr.explain(y).rows[-1].by == f"conv2d_fwd of conv2d.kernel_numba ({way})"
    assert f"conv2d.{way}.convolve" in launches(y)
    with mr.precise():
        y = mr.conv2d(mr.randn(8, channels, 32, 32), mr.randn(16, channels, 3, 3), padding=1)
        assert mr.explain(y).rows[-1].by.endswith("(direct)")
        assert "conv2d.direct.convolve" in launches(y)


def test_precise_evaluation_keeps_batch_norm_by_itself(block, x):
    block.eval()
    with mr.no_grad(), mr.precise():
        y = block(x)
        runs = [row.by.partition(" (")[0] for row in mr.explain(y).rows if row.runs][1:]
        assert runs == [
            "conv2d_fwd of conv2d.kernel_numba",
            "batch_norm_fwd of batch_norm.kernel_numba",
        ]
        assert passes(y) == ["conv2d.direct.convolve", "batch_norm.fwd"]


def test_a_residual_that_is_normalised_on_the_way(x):
    block = models.BasicBlock(16, 16, shortcut="C")
    y = block(x)
    prologue = ("batch_norm", "deferred", "prologue 'normalised' of batch_norm")
    assert prologue in steps(y)
    assert passes(y) == ["batch_norm.fwd"]


@pytest.mark.parametrize("mode", [mr.no_fusion, lambda: mr.backend("numpy"), mr.detect_anomaly])
def test_nothing_is_deferred_where_operations_run_by_themselves(block, x, mode):
    with mode():
        y = block(x)
        assert mr.explain(y).deferred == []


class Explaining(Around):
    """Explains every gradient that a node gets."""

    def __init__(self, inner, seen):
        super().__init__(inner)
        self.seen = seen

    def backward(self, node, gys):
        for gy in gys:
            lazy = type(gy._lazy)
            self.seen.setdefault(lazy, []).append(mr.explain(gy))
            assert type(gy._lazy) is lazy
        return self.inner.backward(node, gys)


def test_gradients_on_their_way(block, x):
    x.requires_grad = True
    seen: dict[type, list] = {}
    with around("explaining", lambda engine: Explaining(engine, seen)):
        y = block(block(x))
        (y * y).sum().backward()
    whats = {kind: [[r.what for r in e.rows] for e in found] for kind, found in seen.items()}
    masked = ["gradient", "gradient", "output of relu", "sum of gradients", "relu's gradient"]
    assert masked in whats[LazyReLUGradient]
    taken = ["gradient", "input of batch_norm", "batch_norm", "relu", "relu's gradient"]
    assert taken in whats[LazyReLUGradient]
    assert whats[LazySum][0][-1] == "sum of gradients"
    gated = [rows for rows in whats[LazyBatchNormGradient] if "relu's gradient" in rows]
    assert gated[0][-2:] == ["relu's gradient", "batch_norm's gradient"]
    gradient = seen[LazyBatchNormGradient][0].rows[-1]
    assert gradient.by == "write, prologue 'gradient'"
    assert gradient.runs


def test_a_function_of_ones_own_may_ask(x):
    found = []

    class Peek(Function):
        @staticmethod
        def forward(ctx, a):
            return a.copy()

        @staticmethod
        def backward(ctx, gy):
            found.append(mr.explain(gy))
            return gy

    conv, bn = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
    mr.relu(bn(Peek.apply(conv(x)))).sum().backward()
    assert [row.what for row in found[0].deferred][-1] == "batch_norm's gradient"


def test_what_is_no_tensor():
    with pytest.raises(DTypeError, match="explain: expected a tensor, got list"):
        mr.explain([1.0])

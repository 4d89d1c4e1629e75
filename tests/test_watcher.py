"""Complex steps through every operation, and what operations with kinks say of their choices."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from harness import distinct, raises

import minires as mr
from minires import nn, ops
from minires.autograd import Function, in_complex_step
from minires.errors import DTypeError
from minires.models import BasicBlock, PreActBlock
from minires.watcher import watch

H = 1e-30

# Functions that no complex step can go through, and why.
UNSAFE = {
    "Cast": "rounding to another precision is a staircase",
    "SetItem": "has no forward; memory of real numbers cannot take the imaginary part",
    "SyncBatchNorm": "statistics of other processes come as real numbers",
    "SyncBatchNormGradients": "the same",
}


def functions():
    for module in pkgutil.walk_packages(ops.__path__, "minires.ops."):
        if "kernel_" not in module.name:
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, Function):
                    yield value


def test_every_function_is_complex_safe_or_says_why_not():
    found = {f.__name__: f.complex_safe for f in functions() if f is not Function}
    assert len(found) > 40
    assert {name for name, safe in found.items() if not safe} == set(UNSAFE)


def positive(*shape):
    return np.random.default_rng(5).uniform(0.5, 2, shape)


LABELS = np.array([2, 0, -100, 1])
CHOICE = np.array([[True, False, True], [False, False, True]])
STATISTICS = np.array([0.3, -0.2]), np.array([1.5, 0.7])


def batch_norm(training):
    def f(x, w, b):
        mean, var = (mr.from_numpy(s.copy()) for s in STATISTICS)
        return ops.batch_norm(x, mean, var, w, b, training=training)

    return f


def dropout(x):
    return ops.dropout(x, 0.4, generator=np.random.default_rng(3))


def in_place(x, y):
    z = x * y
    z += x
    z[:, 1:].relu_()
    z *= 2.0
    z[0].clip_(-1.0, 1.0)
    return z.mul_(y)


def branches(x):
    small = (x > -0.15) & (x <= 0.15)
    return ops.where(small, x * x, (x >= 0).double() * x) + x.sign() * x + (x != 0).astype(x.dtype)


A, B = distinct((2, 3), (2, 3), seed=1)
IMAGE, TALL = distinct((2, 4, 5, 4), (2, 2, 7, 3), seed=2)
CASES = {
    "add": (ops.add, A, B[0]),
    "sub": (ops.sub, A, B[:, :1]),
    "mul": (ops.mul, A, B),
    "div": (ops.div, A, B[0]),
    "numbers": (lambda x: 2 - 3 * x / 4 + 1 / x - (-x) + 2.5**x, A),
    "pow": (ops.pow, positive(2, 3), B[0]),
    "pow_number": (lambda x: x**3 + x**-2 + x**2 + x**0, A),
    "pow_half": (lambda x: x**0.5 + x**1.7, positive(3)),
    "pow_constant": (lambda x: x ** mr.from_numpy(np.array([2.0, 3.0, -1.0])), A),
    "exp": (ops.exp, A),
    "log": (ops.log, positive(2, 3)),
    "sqrt": (ops.sqrt, positive(2, 3)),
    "abs": (ops.abs, A),
    "tanh": (ops.tanh, A),
    "sigmoid": (ops.sigmoid, A),
    "clip": (lambda x: x.clip(-0.1, 0.17) + x.clip(min=0.02) + x.clip(max=0.02), A),
    "maximum": (ops.maximum, A, B),
    "minimum": (ops.minimum, A, B[0]),
    "maximum_number": (lambda x: ops.maximum(0.1, x) + ops.minimum(x, 0.12), A),
    "where": (lambda x, y: ops.where(CHOICE, x, y) + ops.where(x > y, x, 0.5), A, B),
    "branches": (branches, A),
    "remainder": (lambda x: x * (x.detach() // 0.3 + 1), A),
    "sum": (lambda x: x.sum(1) * x.sum(), A),
    "mean": (lambda x: x.mean((0, 1)) * x, A),
    "var": (lambda x: x.var(1) + x.std(1, correction=0), A),
    "amax": (lambda x: x.amax(1) * x.amin(0, keepdim=True).sum(), A),
    "max": (lambda x: x.max(1).values * x.min(0, keepdim=True).values.sum() + x.max(), A),
    "argmax": (lambda x: x * x.argmax(1).astype(x.dtype).reshape(-1, 1), A),
    "logsumexp": (lambda x: x.logsumexp(1), A * 50),
    "softmax": (lambda x: x.softmax(0), A),
    "log_softmax": (lambda x: x.log_softmax(1), A),
    "matmul": (ops.matmul, A, B.T),
    "matmul_vectors": (lambda x, y: (x @ y) @ x @ y, A, B[0]),
    "linear": (ops.linear, A, distinct((4, 3), seed=3)[0], B[0, [0, 1, 2, 0]]),
    "views": (lambda x: x.T.reshape(-1, 2).unsqueeze(1).expand(3, 5, 2).permute(2, 0, 1), A),
    "contiguous": (lambda x: x.T.contiguous().clone().flatten().squeeze(), A),
    "indexing": (lambda x: x[1:, ::2] * x[[0, 0, 1], [2, 2, 1]][:, None] * x[0, 1], A),
    "mask": (lambda x: x[x > 0] * 2, A),
    "concatenate": (lambda x, y: ops.concatenate([x, y * 2, x], 1), A, B),
    "stack": (lambda x, y: ops.stack([x, y], 1).split([1, 2], 2)[1], A, B),
    "pad": (lambda x: ops.pad(x, (1, -1, 0, 2), 0.5), A),
    "in_place": (in_place, A, B),
    "dtype": (lambda x: x.double() * x.to("cpu"), A),
    "dropout": (dropout, A),
    "relu": (ops.relu, A),
    "conv2d": (
        lambda x, w, b: ops.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        *(IMAGE, *distinct((3, 4, 3, 2), (3,), seed=4)),
    ),
    "conv2d_groups": (
        lambda x, w: ops.conv2d(x, w, groups=2),
        *(IMAGE, *distinct((4, 2, 2, 3), seed=5)),
    ),
    "batch_norm": (batch_norm(True), TALL, *distinct((2,), (2,), seed=6)),
    "batch_norm_matrix": (batch_norm(True), TALL[:, :, 0, 0] * [1, 2], *distinct((2,), (2,))),
    "batch_norm_evaluation": (batch_norm(False), TALL, *distinct((2,), (2,), seed=6)),
    "max_pool2d": (lambda x: ops.max_pool2d(x, (3, 2), stride=2, padding=1, ceil_mode=True), TALL),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, 2, stride=1, count_include_pad=False), TALL),
    "adaptive_avg_pool2d": (lambda x: ops.adaptive_avg_pool2d(x, (3, 2)), TALL),
    "cross_entropy": (
        lambda x: ops.cross_entropy(x, mr.from_numpy(LABELS), label_smoothing=0.1),
        distinct((4, 3), seed=7)[0],
    ),
    "cross_entropy_probabilities": (
        lambda x, q: ops.cross_entropy(x, q, reduction="sum"),
        *(distinct((2, 3), seed=7)[0], positive(2, 3)),
    ),
}


def complex_step(evaluate, tensors, directions):
    """``evaluate()`` while the tensors hold x + ih d: (real part, imaginary part / h)."""
    arrays = [t._array for t in tensors]
    try:
        for t, d in zip(tensors, directions):
            t._array = t._array + 1j * H * d
        with mr.backend("numpy"), watch(complex_step=True) as seen:
            results = [r._array for r in evaluate()]
    finally:
        for t, array in zip(tensors, arrays):
            t._array = array
    assert seen.unsafe == set()
    return [r.real for r in results], [r.imag / H for r in results]


def close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12 * max(1, np.abs(e).max(initial=0)))


def problem(name):
    """The function, its tensors, a direction for each, and an upstream gradient."""
    f, *values = CASES[name]
    rng = np.random.default_rng(9)
    tensors = [mr.tensor(v, dtype="float64", requires_grad=True) for v in values]
    with mr.no_grad():
        v = rng.standard_normal(f(*tensors).shape)
    return f, tensors, [rng.standard_normal(t.shape) for t in tensors], v


@pytest.mark.parametrize("name", CASES)
def test_complex_step_is_the_directional_derivative(name):
    f, tensors, directions, v = problem(name)
    with mr.backend("numpy"):
        y = f(*tensors)
        gradients = mr.grad(y, tensors, mr.from_numpy(v))
    with mr.no_grad():
        real, slope = complex_step(lambda: [f(*tensors)], tensors, directions)
    close(real, [y.data])
    expected = sum((g.data * d).sum() for g, d in zip(gradients, directions))
    close([(slope[0] * v).sum()], [expected])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("create_graph", [False, True])
def test_complex_step_through_the_backward_pass(name, create_graph):
    f, tensors, directions, v = problem(name)

    def gradients(create_graph):
        return mr.grad(f(*tensors), tensors, mr.from_numpy(v), create_graph=create_graph)

    with mr.backend("numpy"):
        first = gradients(True)
        # <first, d> differentiated once more is the Hessian of <f, v> times d, by its symmetry
        curved = [(g, d) for g, d in zip(first, directions) if g.requires_grad]
        second = [np.zeros(t.shape) for t in tensors]
        if curved:
            outs, ups = [g for g, _ in curved], [mr.from_numpy(d) for _, d in curved]
            found = mr.grad(outs, tensors, ups, allow_unused=True)
            second = [s if g is None else g.data for s, g in zip(second, found)]
    real, slopes = complex_step(lambda: gradients(create_graph), tensors, directions)
    close(real, [g.data for g in first])
    close(slopes, second)


@pytest.mark.parametrize("perturbed", [0, 1, 2])
@pytest.mark.parametrize("name", ["conv2d", "batch_norm", "batch_norm_evaluation", "linear"])
def test_one_complex_argument_among_real_ones(name, perturbed):
    """The others keep float64 arrays, and all gradients still come out."""
    f, tensors, directions, v = problem(name)
    one, d = tensors[perturbed], directions[perturbed]
    with mr.no_grad():
        _, slope = complex_step(lambda: [f(*tensors)], [one], [d])
    real, _ = complex_step(lambda: mr.grad(f(*tensors), tensors, mr.from_numpy(v)), [one], [d])
    gradients = mr.grad(f(*tensors), tensors, mr.from_numpy(v))
    close(real, [g.data for g in gradients])
    close([(slope[0] * v).sum()], [(gradients[perturbed].data * d).sum()])


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock])
def test_complex_step_through_a_block_leaves_its_statistics_real(block):
    module = block(2, 3, 2, shortcut="B").double()
    x = mr.tensor(TALL, requires_grad=True)
    (d,) = distinct(TALL.shape, seed=8)
    fresh = {k: v.data.copy() for k, v in module.state_dict().items()}
    with mr.backend("numpy"):
        module(x)
    expected = {k: v.data.copy() for k, v in module.state_dict().items()}
    module.load_state_dict({k: mr.from_numpy(v) for k, v in fresh.items()})
    with mr.no_grad():
        complex_step(lambda: [module(x)], [x], [d])
    for name, value in module.state_dict().items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_allclose(value.data, expected[name], rtol=1e-14)


def test_gradients_of_several_paths_add_up_in_a_complex_step():
    """Where a real gradient arrives first and a complex one is added to it."""
    x, w = (mr.tensor(a, requires_grad=True) for a in (A, B))
    y = [None]

    def gradient():
        y[0] = w + w * 3 + w * x
        return mr.grad(y[0].sum(), w)

    real, slopes = complex_step(gradient, [x], [B])
    close(real, [4 + A])
    close(slopes, [B])


# **** in a complex step the real part chooses, whatever the imaginary one ****


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda x: ops.relu(x), [0, 0]),
        (lambda x: ops.abs(x), [0, 0]),
        (lambda x: ops.maximum(x, 0.0), [1, 1]),
        (lambda x: ops.minimum(x, 0.0), [1, 1]),
        (lambda x: x.clip(0.0, 1.0), [1, 1]),
        (lambda x: x.clip(max=0.0), [1, 1]),
        (lambda x: x.amax(keepdim=True).expand(2), [0.5, 0.5]),
    ],
)
def test_a_kink_has_the_derivative_that_backward_takes(f, slope):
    x = mr.tensor(np.zeros(2), requires_grad=True)
    for d in (np.ones(2), -np.ones(2), np.array([1.0, -1.0])):
        gradient = mr.grad(f(x), x, mr.from_numpy(d))[0].data
        with mr.no_grad():
            _, step = complex_step(lambda: [f(x)], [x], [d])
        close([(step[0] * d).sum()], [(gradient * d).sum()])
    close([mr.grad(f(x).sum(), x)[0].data], [np.array(slope) * (2 if 0.5 in slope else 1)])


def test_max_pool2d_takes_the_first_of_equal_values_whatever_the_imaginary_part():
    x = mr.tensor(np.zeros((1, 1, 2, 2)), requires_grad=True)
    _, step = complex_step(
        lambda: [ops.max_pool2d(x, 2)], [x], [np.array([-1.0, 5, 2, 3]).reshape(x.shape)]
    )
    assert step[0].item() == -1


def test_comparisons_look_at_the_real_part_in_a_complex_step():
    x = mr.from_numpy(np.array([0.0 + 1j * H, 0.0 - 1j * H, 1.0]))
    with watch(complex_step=True):
        assert in_complex_step()
        for result, expected in (
            (x > 0, [False, False, True]),
            (x >= 0, [True, True, True]),
            (x < 0, [False, False, False]),
            (x == 0, [True, True, False]),
            (x != mr.zeros(3, dtype="float64"), [False, False, True]),
            (x.any(), True),
            (x.all(), False),
        ):
            assert result.tolist() == expected
        assert x.argmax().item() == 2
        assert x.sign().tolist() == [0, 0, 1]
        assert (x // 0.3).tolist() == [0, 0, 3]
        assert (x % 0.3).data.imag.tolist() == [H, -H, 0]
        assert x.long().tolist() == [0, 0, 1]
    assert not in_complex_step()
    assert (x == 0).tolist() == [False, False, False]  # elsewhere complex numbers are whole


def test_a_write_into_real_memory_stops_a_complex_step():
    x = mr.from_numpy(np.array([1.0 + 1j * H]))
    y = mr.zeros(3, dtype="float64")
    with watch(complex_step=True):
        with raises(DTypeError, "assignment: a complex step cannot go through", "float64 memory"):
            y[0] = x[0]
        with raises(DTypeError, "in-place operation: expected", "float64", "complex128"):
            y += x
    assert y.tolist() == [0, 0, 0]


def test_a_cast_is_reported_as_unsafe():
    with watch() as seen:
        mr.ones(2).double()
        (mr.ones(2) > 0).float()  # a mask is no number that was rounded
    assert seen.unsafe == {"Cast"}


# **** switches ****

# name of the switch, function, where it switches (the function of one number, near it)
SWITCHES = {
    "relu": (ops.relu, 0.0),
    "relu_": ("relu", lambda x: (x * 1).relu_(), 0.0),
    "abs": (ops.abs, 0.0),
    "clip_low": ("clip", lambda x: x.clip(-1.0, 2.0), -1.0),
    "clip_high": ("clip", lambda x: x.clip(max=2.0), 2.0),
    "maximum": (lambda x: ops.maximum(x, 0.7), 0.7),
    "minimum": (lambda x: ops.minimum(0.7, x), 0.7),
    "amax": (lambda x: x.amax(), 0.5),
    "amin": (lambda x: x.amin(), 0.25),
    "max": ("argmax", lambda x: x.max(0).values, 0.5),
    "argmin": (lambda x: x.argmin(), 0.25),
    "max_pool2d": (lambda x: ops.max_pool2d(x.reshape(1, 1, 1, 3), (1, 3)), 0.5),
    "<": (lambda x: ops.where(x < 0.7, x, 0.7), 0.7),
    ">=": (lambda x: x >= 0.7, 0.7),
    "sign": (lambda x: x.sign(), 0.0),
    "//": (lambda x: x.detach() // 1.0, 1.0),
    "%": (lambda x: x.detach() % 1.0, 1.0),
}


@pytest.mark.parametrize("case", SWITCHES)
def test_crossing_a_kink_changes_the_switches_and_nothing_else_does(case, backend):
    *name, f, kink = SWITCHES[case]

    def switches(value, step=False):
        x = mr.tensor(np.array([value, 0.25, 0.5]))
        with watch(complex_step=step) as seen:
            f(x)
        return seen.switches

    below, above = switches(kink - 0.01), switches(kink + 0.01)
    assert [n for n, _ in below] == [n for n, _ in above] == [*(name or [case])]
    assert below != above
    assert switches(kink - 0.02) == below
    assert switches(kink + 0.02) == above
    assert f(mr.ones(3, dtype="float64")) is not None  # and unwatched
    assert switches(kink - 0.01) == below


def test_clip_tells_one_side_from_the_other():
    found = []
    for value in (-2.0, 2.0):
        with watch() as seen:
            mr.full((3,), value).clip(-1, 1)
        found.append(seen.switches)
    assert found[0] != found[1]


def test_integers_and_masks_do_not_switch():
    with watch() as seen:
        x = mr.arange(4)
        assert ((x > 1) | (x == 0)).sum().item() == 3
        x.argmax()
        x % 3
    assert seen.switches == []


def test_nothing_is_computed_for_nobody(monkeypatch):
    """Unwatched, a pattern of choices is not even made."""
    monkeypatch.setattr("hashlib.blake2b", lambda *a, **k: pytest.fail("digested unwatched"))
    x = mr.tensor(A, requires_grad=True)
    (ops.relu(x).clip(0.1, 0.2) + abs(x)).amax().backward()
    ops.max_pool2d(x.reshape(1, 1, 2, 3), 2)


def test_a_complex_step_switches_as_the_real_function_does():
    x = mr.tensor(TALL)
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(2).double(), nn.ReLU())
    with mr.backend("numpy"), watch() as real:
        net(x)
    x._array = TALL + 1j * H * TALL
    with mr.backend("numpy"), watch(complex_step=True) as step:
        net(x)
    assert step.switches == real.switches

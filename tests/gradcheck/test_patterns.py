"""Every signature of a wrong Jacobian is put into words, and no accident is."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays

import minires as mr
from minires.gradcheck.patterns import describe
from minires.ops import avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu


def jacobian(f, x):
    """(output shape, argument shape, J) of one of minires' own operations."""
    j = mr.jacobian(f, mr.tensor(x)).numpy()
    output = j.shape[: j.ndim - x.ndim]
    return output, x.shape, j.reshape(-1, x.size)


X, W = arrays((2, 2, 5, 4), (3, 2, 3, 3))
SKIP = X[:, :, :4, :3]
CONV_X = jacobian(lambda x: conv2d(x, mr.tensor(W), padding=1), X)
CONV_W = jacobian(lambda w: conv2d(mr.tensor(X), w, padding=1), W)
NORM = jacobian(lambda x: batch_norm(x, None, None, training=True), SKIP)
BLOCK = jacobian(
    lambda x: relu(conv2d(x, mr.tensor(W[:2] / 2), padding=1) + x), SKIP
)  # D (J_F + I)
DENSE = ((4,), (4,), arrays((4, 4), seed=2)[0])
LINEAR_W = jacobian(lambda w: linear(mr.tensor(arrays((3, 4), seed=5)[0]), w), arrays((4, 4))[0])


def told(case, analytic, name="x", others=None):
    output, shape, numeric = case
    wrong = np.abs(analytic - numeric) > 1e-7 + 1e-5 * np.abs(numeric)
    assert wrong.any()
    noise = 1 + 1e-9 * np.random.default_rng(7).standard_normal(numeric.shape)
    return describe(analytic, numeric * noise, wrong, output, shape, name, others)


def argument(case, change):
    """The Jacobian with ``change`` made in an array of shape (m, *argument shape)."""
    _, shape, numeric = case
    analytic = numeric.reshape(-1, *shape).copy()
    change(analytic)
    return analytic.reshape(numeric.shape)


def output(case, change):
    """The Jacobian with ``change`` made in an array of shape (*output shape, n)."""
    shape, _, numeric = case
    analytic = numeric.reshape(*shape, -1).copy()
    change(analytic)
    return analytic.reshape(numeric.shape)


def times(index, factor):
    def change(j):
        j[index] *= factor

    return change


def every(*index):
    return (..., *index)


# ------------------------------------------------------------------- how the values differ


def test_zero():
    assert told(DENSE, DENSE[2] * 0) == "the gradient is zero everywhere"
    assert told(CONV_X, argument(CONV_X, times(every(3), 0))) == (
        "the gradient is zero, only in the last column of x (w = 3): a remainder dropped?"
    )
    scattered = DENSE[2].copy()
    scattered[[0, 1, 2], [1, 2, 0]] = 0
    assert told(DENSE, scattered) == "analytic is zero at the failing entries"


def test_sign():
    assert told(CONV_W, -CONV_W[2], "w") == "opposite sign"
    assert told(CONV_W, output(CONV_W, times(1, -1)), "w") == ("opposite sign; only image n=1")


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.001, "all off by the same factor 1.001"),
        (2, "counted twice"),
        (0.5, "all off by the same factor 0.5"),
        (5, "all off by the same factor 5 (5 = h of x, a missing mean?)"),
        (40, "all off by the same factor 40 (40 = n·h·w of x, a missing mean?)"),
        (
            1 / 5,
            "all off by the same factor 0.2 (1/5 = 1/h of x, a missing sum, or a mean too many?)",
        ),
        (7, "all off by the same factor 7"),
    ],
)
def test_a_constant_factor(factor, words):
    assert told(CONV_X, CONV_X[2] * factor) == words


def test_a_kernel_turned_around():
    flipped, swapped = W[..., ::-1, ::-1].copy(), W.swapaxes(-1, -2).copy()
    assert told(CONV_W, argument(CONV_W, lambda j: j[...].__setitem__(
        ..., j.swapaxes(-1, -2).copy())), "conv1.weight",
    ) == "kernel rows and columns exchanged (transposed)"  # fmt: skip
    for kernel, words in (
        (swapped, "kernel rows and columns exchanged (transposed)"),
        (flipped, "kernel rotated by 180°"),
    ):
        wrong = jacobian(lambda x, k=kernel: conv2d(x, mr.tensor(k), padding=1), X)[2]
        assert told(CONV_X, wrong) == words
    rotated = CONV_W[2].reshape(-1, 3, 2, 3, 3)[..., ::-1, ::-1].reshape(CONV_W[2].shape)
    assert told(CONV_W, rotated, "w") == "kernel rotated by 180°"
    transposed = LINEAR_W[2].reshape(-1, 4, 4).swapaxes(1, 2).reshape(-1, 16)
    assert told(LINEAR_W, transposed, "w") == "rows and columns of w exchanged (transposed)"


def test_two_arguments_exchanged():
    a, b = DENSE[2], arrays((4, 4), seed=3)[0]
    words = told(DENSE, b, others={"c": (a + b, a + b), "b": (a, b)})
    assert words == "this is the gradient of b (the two are exchanged)"
    assert told(DENSE, b, others={"b": (b, b)}) == "this is the gradient of b"
    assert "gradient of" not in told(DENSE, b, others={"b": (a, a)})


def test_the_upstream_gradient_itself():
    assert told(DENSE, np.eye(4)) == (
        "the gradient is the upstream gradient itself: the chain rule was forgotten"
    )
    x = arrays((2, 3), seed=4)[0]
    assert "the chain rule was forgotten" in told(jacobian(mr.tanh, x), np.eye(6))


def test_a_single_entry():
    wrong = DENSE[2].copy()
    wrong[1, 2] *= 1.001
    assert told(DENSE, wrong) == "one single entry, off by the factor 1.001"
    case = ((4,), (4,), np.diag([1.0, 2, 3, 4]))
    wrong = case[2].copy()
    wrong[1, 2] = 5
    assert told(case, wrong) == "one single entry, where the output does not depend on the input"


def test_a_gradient_where_there_is_none():
    x = np.round(SKIP)  # many ties
    case = jacobian(lambda x: max_pool2d(x, 2), x)
    y = max_pool2d(mr.tensor(x), 2).numpy()
    tied = np.zeros((*case[0], *x.shape))
    for n, c, i, j in np.ndindex(*case[0]):
        block = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        tied[n, c, i, j, n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = block == y[n, c, i, j]
    words = told(case, tied.reshape(case[2].shape))
    assert words.startswith("a gradient where the output does not depend on the input (e.g. a tie")


def test_wrong_places():
    x, w = X[:, :, :, :4], W[:, :, :2, :2].copy()
    right = jacobian(lambda x: conv2d(x, mr.tensor(w), padding=1, dilation=2), x)
    wrong = jacobian(lambda x: conv2d(x, mr.tensor(w), padding=(1, 0))[:, :, 1:, :], x)
    assert right[0] == (2, 3, 5, 4)
    wrong = np.resize(wrong[2], right[2].shape)
    assert told(right, wrong).startswith(
        "the gradient lands in the wrong places (stride, dilation or padding mixed up?)"
    )


def test_not_finite():
    wrong = DENSE[2].copy()
    wrong[1] = np.nan
    failing = np.isnan(wrong)
    assert describe(wrong, DENSE[2], failing, (4,), (4,), "x") == "NaN or infinity at 4 entries"


def test_entries_that_could_not_be_judged_are_left_out():
    numeric = DENSE[2].copy()
    numeric[0] = np.nan
    wrong = np.isfinite(numeric)
    assert describe(-DENSE[2], numeric, wrong, (4,), (4,), "x").startswith("opposite sign")


# ---------------------------------------------------------------------- where the failures are

NOISE = 1 + arrays((200, 200), seed=8)[0]


def spoiled(case, kind, index):
    """The entries at ``index`` each off by a factor of its own."""
    factors = np.ones(case[2].shape)
    shape = (-1, *case[1]) if kind is argument else (*case[0], -1)
    view = factors.reshape(shape)
    view[index] = np.resize(NOISE, view[index].shape)
    return case[2] * factors


@pytest.mark.parametrize(
    ("case", "name", "kind", "index", "words"),
    [
        (CONV_W, "w", argument, every(1), "all failures have kw=1"),
        (CONV_W, "w", argument, every(2, slice(None)), "all failures have kh=2"),
        (CONV_W, "w", argument, every(2, 0), "all failures have kh=2, kw=0"),
        (CONV_W, "w", argument, (slice(None), 1), "all failures have c_out=1"),
        (CONV_W, "w", output, 0, "only image n=0"),
        (CONV_W, "w", output, (0, 1, 2, 2), "only output[0, 1, 2, 2]"),
        (CONV_X, "x", argument, (slice(None), slice(None), 1), "only channel c=1 of x"),
        (CONV_X, "x", argument, (slice(None), 0), "only image n=0 of x"),
        (CONV_X, "x", argument, (slice(None), 0, 1, 2, 3), "only x[0, 1, 2, 3]"),
        (CONV_X, "x", output, (slice(None), 2), "only output channel c=2"),
        (CONV_X, "x", argument, every(2, slice(None)), "only row h=2 of x"),
        (CONV_X, "x", argument, every(4, slice(None)), "only in the last row of x (h = 4): a rem"),
        (CONV_X, "x", argument, every(slice(2, 4)), "only the last columns of x (w >= 2): a rem"),
        (LINEAR_W, "fc.weight", argument, (slice(None), 3), "all failures have out=3 of fc.weight"),
        (LINEAR_W, "fc.weight", output, 2, "only image n=2"),
    ],
)
def test_places(case, name, kind, index, words):
    assert told(case, spoiled(case, kind, index), name).startswith(words)


def test_borders():
    x = arrays((2, 2, 6, 5))[0]
    case = jacobian(lambda x: conv2d(x, mr.tensor(W), padding=1), x)
    edge = np.ones((6, 5), bool)
    edge[1:-1, 1:-1] = False
    assert told(case, spoiled(case, argument, (..., edge))) == (
        "only border entries of x (h or w at the edge): padding?"
    )
    edge[0], edge[:, 0] = False, False
    edge[-1], edge[:, -1] = True, True
    assert told(case, spoiled(case, argument, (..., edge))) == (
        "only the last rows and columns of x (h >= 5 or w >= 4): a remainder dropped?"
    )
    case = jacobian(lambda w: conv2d(mr.tensor(x), w, padding=1), W)
    edge = np.ones((6, 5), bool)
    edge[1:-1, 1:-1] = False
    assert told(case, spoiled(case, output, (slice(None), slice(None), edge)), "w") == (
        "only border entries of output (h or w at the edge): padding?"
    )


def test_how_and_where_together():
    words = told(CONV_W, argument(CONV_W, times(every(1), 2)), "conv1.weight")
    assert words == "all failures have kw=1: counted twice"
    words = told(CONV_W, argument(CONV_W, times(every(1), 1.5)), "conv1.weight")
    assert words == "all failures have kw=1: all off by the same factor 1.5"
    words = told(CONV_X, argument(CONV_X, times((slice(None), slice(None), 0), -1)))
    assert words == "opposite sign; only channel c=0 of x"


# ------------------------------------------------------------------ batch norm and residual blocks


def test_batch_norm():
    rows = SKIP.transpose(1, 0, 2, 3).reshape(2, -1)
    hat = (SKIP - rows.mean(1)[:, None, None]) / (rows.std(1)[:, None, None])
    inverse, m, same = 1 / rows.std(1), rows.shape[1], np.eye(2)
    mean, product = (
        np.einsum("cd,c,ncij,mdkl->ncijmdkl", same, inverse / m, a, a).reshape(NORM[2].shape)
        for a in (np.ones_like(hat), hat)
    )
    average = "the same difference for all entries of a channel: a batch average is missing"
    assert told(NORM, NORM[2] + mean) == average
    one_channel = np.repeat([True, False, True, False], 12)
    assert told(NORM, NORM[2] + mean * one_channel) == average
    assert told(NORM, NORM[2] + product) == (
        "a product of rank one is missing in each channel (as the x̂ term of batch norm)"
    )
    assert "mean and variance taken for constants" in told(NORM, NORM[2] + mean + product)
    # one row of a channel is of rank one too, but says nothing of batch norm
    row = product * (np.arange(48) == 5)[:, None]
    assert "rank one" not in told(NORM, NORM[2] + row)
    assert "no simple pattern" in told(NORM, NORM[2] + mean * NOISE[:48, :48])


def test_the_skip_of_a_block():
    y_open = np.diag(BLOCK[2].any(axis=1).astype(float))
    assert 10 < y_open.sum() < 48
    j = BLOCK[2]
    assert told(BLOCK, j - y_open) == "∂x is missing the identity (the skip was dropped)"
    assert told(BLOCK, j + y_open) == "∂x: the identity is counted twice"
    assert told(BLOCK, j + 0.001 * y_open) == "∂x: the identity is scaled by 1.001"
    second = y_open * (np.indices((2, 2, 4, 3))[1].reshape(-1) == 1)
    assert told(BLOCK, j - second) == "∂x: the identity is missing for channel c=1"
    assert told(BLOCK, j + 0.5 * second) == "∂x: the identity is scaled by 1.5 for channel c=1"
    assert "was the skip added after the ReLU?" in told(BLOCK, j + np.eye(48) - y_open)


def test_the_skip_of_option_a():
    """S is a 0/1 matrix: every second pixel, and channels of zeros."""

    def block(x):
        padded = mr.concatenate([x[:, :, ::2, ::2], x[:, :1, ::2, ::2] * 0], 1)
        return conv2d(x, mr.tensor(W), stride=2, padding=1) + padded

    case = jacobian(block, X)
    branch = jacobian(lambda x: conv2d(x, mr.tensor(W), stride=2, padding=1), X)[2]
    assert told(case, branch) == "∂x is missing the identity (the skip was dropped)"


# ------------------------------------------------------------------------------- no false hints


def test_nothing_found():
    noise = DENSE[2] * (1 + arrays((4, 4), seed=9)[0])
    assert told(DENSE, noise) == "no simple pattern (100 % of the entries, spread over all)"
    some = np.where(arrays((4, 4), seed=10)[0] > 0.5, noise, DENSE[2])
    assert told(DENSE, some).startswith("no simple pattern (")


@pytest.mark.parametrize("seed", range(20))
def test_accidents_have_no_pattern(seed):
    rng = np.random.default_rng(seed)
    for case, name in ((CONV_X, "x"), (CONV_W, "w"), (NORM, "x"), (BLOCK, "x")):
        here = (rng.random(case[2].shape) < 0.2) & (case[2] != 0)
        analytic = np.where(here, case[2] + rng.standard_normal(case[2].shape), case[2])
        assert told(case, analytic, name).startswith("no simple pattern")


def test_two_entries_are_no_constant_ratio():
    wrong = DENSE[2].copy()
    wrong[0, 0] *= 3
    wrong[2, 3] *= 3
    assert told(DENSE, wrong) == "no simple pattern (12.5 % of the entries, spread over all)"


def test_a_diagonal_is_no_skip():
    """An elementwise function has nothing beside its diagonal."""
    case = ((6,), (6,), np.diag([0.5, 2, -0.3, 0.7, 1.2, 3]))
    assert "identity" not in told(case, case[2] - np.eye(6))


def test_pooling_without_its_mean():
    case = jacobian(lambda x: avg_pool2d(x, (2, 2)), SKIP)
    words = told(case, case[2] * 4)
    assert words == (
        "all off by the same factor 4 (each output depends on 4 entries of x, a missing mean?)"
    )


@pytest.mark.parametrize(
    ("output", "shape"), [((), (6,)), ((6,), ()), ((1,), (6,)), ((1, 6), (1, 1))]
)
def test_single_outputs_and_inputs(output, shape):
    m, n = int(np.prod(output)), int(np.prod(shape))
    numeric = arrays((m, n), seed=11)[0]
    noise = numeric * (1 + arrays((m, n), seed=12)[0])
    assert told((output, shape, numeric), noise).startswith("no simple pattern (100 %")
    assert told((output, shape, numeric), numeric * 1.5) == "all off by the same factor 1.5"


def test_a_number():
    assert describe(np.array([[3.0]]), np.array([[2.0]]), np.array([[True]]), (), (), "x") == (
        "one single entry, off by the factor 1.5"
    )


def test_entries_that_fail_without_a_difference():
    """As where backward is right row by row, and wrong for a dense upstream gradient."""
    assert describe(DENSE[2], DENSE[2], DENSE[2] != 0, (4,), (4,), "x") == ""
    negated = DENSE[2].copy()
    negated[0] *= -1
    everything = np.ones((4, 4), bool)
    assert describe(negated, DENSE[2], everything, (4,), (4,), "x") == (
        "opposite sign; only output[0]"
    )


def test_a_factor_on_everything_outweighs_what_else_fits():
    """A channel's mean has the same derivative everywhere: so has the difference, if doubled."""
    case = jacobian(lambda x: x.mean((0, 2, 3), keepdim=True).expand(*x.shape), SKIP)
    assert told(case, 2 * case[2]) == "counted twice"
    minus = ((4,), (4,), -np.eye(4))
    assert told(minus, np.eye(4)) == "opposite sign"

"""Batch normalisation: formulas, running statistics, both modes, second order."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    against_torch,
    arrays,
    check_gradients,
    check_op,
    host,
    ones,
    place,
    raises,
    tensor,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops import batch_norm

SHAPES = [
    (2, 3, 4, 5),
    (1, 1, 2, 1),
    (1, 5, 3, 2),
    (7, 1, 1, 1),
    (2, 17, 3, 1),
    (33, 2, 1, 3),
    (5, 4),
    (2, 1),
]


def training(x, w, b):
    return batch_norm(x, None, None, w, b, training=True)


def evaluation(mean, var):
    def f(x, w, b):
        return batch_norm(x, tensor(mean), tensor(var), w, b)

    return f


def test_batch_norm_by_hand(anywhere):
    x = tensor([[1.0, 10.0], [3.0, 10.0]], dtype="float64")
    y = batch_norm(
        x,
        None,
        None,
        tensor([2.0, 1.0], dtype="float64"),
        tensor([0.5, 7.0], dtype="float64"),
        training=True,
        eps=1e-14,
    )
    np.testing.assert_allclose(host(y), [[-1.5, 7.0], [2.5, 7.0]], atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_against_reference(shape, dtype, device):
    x, w, b = arrays(shape, shape[1:2], shape[1:2])
    check_op(training, [x * 3 + 5, w, b], dtype)
    check_op(lambda x: batch_norm(x, None, None, training=True), [x], dtype)
    mean, var = arrays(shape[1:2], shape[1:2], seed=3)

    def fixed(x, w, b):
        statistics = (tensor(s).astype(x.dtype) for s in (mean, var**2))
        return batch_norm(x, *statistics, w, b)

    check_op(fixed, [x, w, b], dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_batch_norm_any_strides(layout, anywhere):
    x, w, b = arrays((2, 3, 4, 5), (3,), (3,))
    check_op(training, [layout(x), w[::-1], b])


@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (4, 3)], ids=str)
def test_batch_norm_gradients(shape, anywhere):
    c = shape[1:2]
    check_gradients(training, arrays(shape, c, c))
    mean, var = arrays(c, c, seed=3)
    check_gradients(evaluation(mean, var**2), arrays(shape, c, c))


def test_batch_norm_third_order(device):
    tensors = [tensor(a, requires_grad=True) for a in arrays((3, 2, 2, 2), (2,), (2,))]
    x = tensors[0]
    (gx,) = mr.grad((training(*tensors) ** 3).sum(), x, create_graph=True)
    (ggx,) = mr.grad((gx**2).sum(), x, create_graph=True)
    (gggx,) = mr.grad((ggx**2).sum(), x)
    assert np.abs(host(gggx)).max() > 0


def test_batch_norm_running_statistics(anywhere):
    (x,) = arrays((4, 2, 3, 1))
    mean, var = tensor([1.0, 2.0], dtype="float64"), tensor([3.0, 4.0], dtype="float64")
    versions = mean._version.count
    batch_norm(tensor(x), mean, var, training=True, momentum=0.25)
    rows = x.transpose(0, 2, 3, 1).reshape(-1, 2)
    np.testing.assert_allclose(host(mean), 0.75 * np.array([1, 2]) + 0.25 * rows.mean(0))
    unbiased = rows.var(0, ddof=1)
    np.testing.assert_allclose(host(var), 0.75 * np.array([3, 4]) + 0.25 * unbiased)
    assert mean._version.count > versions
    before = host(mean).copy()
    batch_norm(tensor(x), mean, var)  # evaluation reads only
    np.testing.assert_array_equal(host(mean), before)


def test_batch_norm_backward_keeps_its_statistics(anywhere):
    """Training on the buffers between forward and backward does not change the gradient."""
    (x,) = arrays((4, 2))
    mean, var = zeros(2, dtype="float64"), ones(2, dtype="float64")
    t = tensor(x, requires_grad=True)
    y = batch_norm(t, mean, var)
    mean.data[...] = 100
    y.sum().backward()
    np.testing.assert_allclose(host(t.grad), 1 / np.sqrt(1 + 1e-5))


def test_batch_norm_of_large_offsets_keeps_digits(device):
    """The mean is subtracted before squaring: an offset does not eat the variance."""
    (x,) = arrays((64, 3, 4, 4))
    y = batch_norm(tensor((x + 1000).astype(np.float32)), None, None, training=True)
    reference = batch_norm(tensor(x), None, None, training=True)
    assert np.abs(host(y) - host(reference)).max() < 2e-3


def test_batch_norm_threads_do_not_show():
    limit = mr.get_num_threads()
    (x,) = arrays((9, 5, 7, 3))
    results = []
    try:
        for threads in range(1, limit + 1):
            mr.set_num_threads(threads)
            t = mr.tensor(x.astype(np.float32), requires_grad=True)
            y = batch_norm(t, None, None, training=True)
            results.append((y.data, mr.grad((y**3).sum(), t)[0].data))
    finally:
        mr.set_num_threads(limit)
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], result))


def test_batch_norm_empty_batch_in_evaluation(anywhere):
    y = batch_norm(zeros(0, 3, 2, 2), zeros(3), ones(3))
    assert y.shape == (0, 3, 2, 2)


def test_batch_norm_nan_stays_in_its_channel(anywhere):
    (x,) = arrays((2, 3, 2, 2))
    x[1, 1, 0, 0] = np.nan
    y = host(batch_norm(tensor(x), None, None, training=True))
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, [0, 2]]).all()


def test_batch_norm_of_values_whose_squares_overflow(anywhere):
    """Infinite statistics are results, of which NumPy gives no warning."""
    x = tensor(arrays((2, 3, 2, 2))[0].astype(np.float32))
    x[:, 1] *= 1e30
    mean, var = zeros(3), ones(3)
    y = batch_norm(x, mean, var, training=True)
    assert np.isinf(host(var)).tolist() == [False, True, False]
    assert np.isfinite(host(y)[:, [0, 2]]).all()


ERRORS = {
    "one_value": ((1, 64, 1, 1), {"training": True}, ShapeError, ["(1, 64, 1, 1)", "drop_last"]),
    "empty": ((0, 3, 2, 2), {"training": True}, ShapeError, ["more than one value per channel"]),
    "weight": ((2, 3), {"weight": mr.ones(4)}, ShapeError, ["weight of shape (3,)", "(4,)"]),
    "eps": ((2, 3), {"eps": 0.0}, ArgumentError, ["eps a finite number > 0, got 0.0"]),
    "momentum": (
        (2, 3),
        {"momentum": 1.5},
        ArgumentError,
        ["momentum a finite number"],
    ),
    "dtype": ((2, 3), {"weight": mr.ones(3, dtype="float64")}, DTypeError, ["one dtype"]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_batch_norm_errors(case, device):
    shape, options, kind, words = case
    options = {k: v.to(place()) if hasattr(v, "to") else v for k, v in options.items()}
    with raises(kind, "batch_norm", *words):
        batch_norm(zeros(shape), zeros(shape[1]), ones(shape[1]), **options)


@pytest.mark.parametrize("shape", SHAPES[:6], ids=str)
def test_parity_batch_norm(shape):
    torch = pytest.importorskip("torch")
    c = shape[1:2]
    against_torch(
        training,
        lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, True),
        arrays(shape, c, c),
        tolerance=1e-8,
    )


def test_gradients_of_one_image_meet_in_two_memory_orders():
    """Of one image, a map in the order of channels is not one in the order of rows."""

    def gradients():
        mr.manual_seed(0)
        x = mr.randn(1, 4, 5, 5, requires_grad=True)
        u = mr.batch_norm(x * 1.0, None, None, training=True)
        v = mr.batch_norm(u, None, None, training=True)
        loss = (v * mr.randn(1, 4, 5, 5)).sum() + (v * mr.randn(1, 4, 5, 5)).sum()
        u.detach().numpy()  # someone has it: work that reads it cannot wait
        loss.backward()
        return x.grad.numpy()

    with mr.no_fusion():
        expected = gradients()
    np.testing.assert_allclose(gradients(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("option", [{"eps": "a"}, {"eps": None}, {"momentum": "x"}])
def test_options_that_are_no_numbers(option):
    ((name, value),) = option.items()
    with raises(ValueError, f"batch_norm: expected {name}", f"got {value!r}"):
        mr.batch_norm(mr.zeros(2, 4), None, None, training=True, **option)


def test_batches_are_counted_where_running_statistics_move(device):
    x, count = tensor(np.arange(6.0).reshape(3, 2)), mr.zeros((), dtype="int64", device=device)
    running = mr.zeros(2, dtype=x.dtype, device=device), mr.ones(2, dtype=x.dtype, device=device)
    for training, expected in ((True, 1), (False, 1), (True, 2)):
        mr.ops.batch_norm(x, *running, training=training, num_batches_tracked=count)
        assert count.item() == expected
    mr.ops.batch_norm(x, None, None, training=True, num_batches_tracked=count)
    assert count.item() == 2


@pytest.mark.parametrize(
    "count", [mr.zeros(1, dtype="int64"), mr.zeros(())], ids=["shape", "dtype"]
)
def test_a_count_that_kernels_cannot_raise(count):
    x, running = mr.ones(3, 2), (mr.zeros(2), mr.ones(2))
    with raises(ValueError, "batch_norm: expected num_batches_tracked of shape (), int64, on cpu"):
        mr.ops.batch_norm(x, *running, training=True, num_batches_tracked=count)
    assert running[0].tolist() == [0, 0]

"""Options of arithmetic, norms, losses and conversions, by hand and by gradient checks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import arrays, check_gradients, distinct, host, leaf, ones, raises, tensor

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.nn import functional as F


def test_alpha(device):
    x, y = tensor([1.0, 2.0]), tensor([10.0, 20.0])
    assert mr.add(x, y, alpha=0.5).tolist() == [6, 12]
    assert x.sub(y, alpha=-2).tolist() == [21, 42]
    assert x.add_(y, alpha=3) is x
    assert x.tolist() == [31, 62]
    assert tensor([3]).add(tensor([2]), alpha=4).tolist() == [11]


def test_alpha_gradients():
    check_gradients(lambda x, y: mr.add(x, y[0], alpha=2.5) ** 2, arrays((2, 3), (4, 3)))
    check_gradients(lambda x, y: mr.sub(x, y, alpha=-1.5) ** 2, arrays((2, 3), (2, 3)))


def test_quotients_of_integers_by_hand(device):
    pairs = [*itertools.product((-7, -6, 0, 6, 7), (-3, -2, 2, 3))]
    x, y = (tensor([pair[i] for pair in pairs]) for i in (0, 1))
    down, to_zero = (mr.div(x, y, rounding_mode=mode) for mode in ("floor", "trunc"))
    assert down.dtype == to_zero.dtype == np.int64
    assert down.tolist() == [a // b for a, b in pairs]
    assert to_zero.tolist() == [int(a / b) for a, b in pairs]
    least = tensor([np.iinfo(np.int64).min])
    assert mr.div(least, 2, rounding_mode="trunc").tolist() == [-(2**62)]


def test_quotients_of_floats_by_hand():
    x = mr.tensor([-3.5, 3.5, 1.0, -1.0, float("nan")], requires_grad=True)
    y = mr.div(x, 2, rounding_mode="floor")
    np.testing.assert_array_equal(host(y), [-2, 1, 0, -1, np.nan])
    np.testing.assert_array_equal(host(x.div(2, rounding_mode="trunc")), [-1, 1, 0, -0.0, np.nan])
    np.testing.assert_array_equal(
        host(mr.div(x, 0.0, rounding_mode="trunc")), [-np.inf, np.inf, np.inf, -np.inf, np.nan]
    )
    assert not y.requires_grad


def test_remainders(backend):
    def powers(x, y):
        return (x % y) ** 2

    x, y = distinct((3, 4))[0] * 3, 0.7 + np.abs(arrays((3, 4))[0])
    check_gradients(powers, [x, y])
    check_gradients(powers, [x, -y[:1]])
    check_gradients(lambda y: (2.5 % y) * y, [y])
    assert (mr.tensor([-7, 7]) % mr.tensor([3, -3])).tolist() == [2, -2]
    assert mr.remainder(7, mr.tensor([4])).tolist() == [3]
    with raises(ArgumentError, "%: integer division by zero"):
        mr.tensor([1]) % 0


def test_clamp_by_tensors(device):
    x = tensor([-2.0, 0.0, 2.0, 9.0], requires_grad=True)
    low = tensor([-1.0, -1.0, -1.0, 5.0], requires_grad=True)
    high = tensor([1.0, 1.0, 1.0, 3.0], requires_grad=True)
    y = x.clamp(low, high)
    assert y.tolist() == [-1, 0, 1, 3]  # the upper bound has the last word
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 0, 0]
    assert low.grad.tolist() == [1, 0, 0, 0]
    assert high.grad.tolist() == [0, 0, 1, 1]


def test_clamp_in_place_and_with_numbers():
    x = mr.tensor([[-2.0, 0.5], [2.0, -0.5]])
    assert x.clip(mr.tensor([[0.0], [1.0]]), 1).tolist() == [[0, 0.5], [1, 1]]
    assert x.clip(0, mr.tensor([0.25, 0.75])).tolist() == [[0, 0.5], [0.25, 0]]
    assert x.clamp_(max=mr.tensor(0.0)) is x
    assert x.tolist() == [[-2, 0], [0, -0.5]]
    check_gradients(
        lambda x, a, b: x.clamp(a - 1, b + 1) ** 2, [*arrays((2, 3)), *arrays((3,), (2, 1), seed=3)]
    )


def test_max_and_min_of_two_tensors(device):
    x, y = tensor([[1.0, 5.0]]), tensor([[3.0], [4.0]])
    assert mr.max(x, y).tolist() == [[3, 5], [4, 5]]
    assert x.min(other=y).tolist() == [[1, 3], [1, 4]]
    assert mr.max(tensor([1, 4]), tensor([2, 3])).tolist() == [2, 4]
    with raises(ArgumentError, "max: expected dim or another tensor, got both"):
        mr.max(x, 1, other=y)
    with raises(DTypeError, "min: expected a tensor, got int"):
        x.min(other=2)


def test_softplus_of_any_sharpness():
    x = np.array([-50.0, -1.0, 0.0, 0.1, 1.0, 50.0])
    for beta in (0.5, 3.0, -2.0):
        expected = np.logaddexp(0, beta * x) / beta
        np.testing.assert_allclose(host(F.softplus(mr.tensor(x), beta)), expected, rtol=1e-14)
    above = F.softplus(mr.tensor(x), 1, 0.5)
    np.testing.assert_array_equal(host(above)[4:], x[4:])
    check_gradients(lambda x: mr.softplus(x, 2.0, 0.3), distinct((3, 4)))
    with raises(ArgumentError, "softplus: expected beta other than 0"):
        mr.softplus(mr.ones(2), 0.0)


def test_converted_first(device):
    x = tensor([[1, 2, 3], [3, 3, 3]])
    assert x.softmax(1, dtype="float64").dtype == np.float64
    np.testing.assert_allclose(host(x.softmax(1, dtype="float32"))[1], 1 / 3, rtol=1e-6)
    assert x.log_softmax(1, dtype="float32").dtype == np.float32
    assert x.sum(dtype="float32").item() == 15
    assert x.sum(0, dtype="int32").dtype == np.int32
    assert x.mean(1, dtype="float64").tolist() == [2, 3]
    assert x.norm(1, dtype="float32").item() == 15
    y = tensor([1.0, 2.0], requires_grad=True)
    y.softmax(0, dtype="float64").sum().backward()
    assert y.grad.dtype == np.float32


@pytest.mark.parametrize("p", [0.25, 0.5, -0.5, -1, -2, -3.5])
def test_norms_below_one(p):
    (x,) = distinct((3, 4))
    expected = (np.abs(x) ** p).sum(1) ** (1 / p)
    np.testing.assert_allclose(host(mr.norm(mr.tensor(x), p, 1)), expected, rtol=1e-12)
    check_gradients(lambda x: mr.norm(x, p, 0), [x])


def test_norms_below_one_where_there_are_zeros(device):
    x = tensor([[0.0, 4.0, 9.0], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0]], requires_grad=True)
    assert host(mr.norm(x, 0.5, 1)).tolist() == pytest.approx([25, 0, (3 + 2**0.5) ** 2])
    assert host(mr.norm(x, -1, 1)).tolist() == pytest.approx([0, 0, 4 / 7])
    assert mr.norm(x, 0, 1).tolist() == [2, 0, 3]
    for p in (0.5, -1):
        x.grad = None
        mr.norm(x, p, 1).sum().backward()
        gradient = host(x.grad)
        assert np.isfinite(gradient).all()
        assert (gradient[0, 0], *gradient[1]) == (0, 0, 0, 0)
        assert gradient[2].all()
    with raises(ShapeError, "norm: expected at least one entry"):
        ones(0).norm(-1)


# **** labels of pixels, and of one vector ****

PLACES = {"pixels": (2, 4, 3, 2), "line": (3, 4, 5), "vector": (4,), "none": (0, 4, 3)}


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize("shape", PLACES.values(), ids=PLACES)
def test_labels_anywhere_are_rows(loss, shape, backend):
    """Each place by itself, as a row (1, c)."""
    x = leaf(arrays(shape)[0])
    places = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    labels = mr.randint(0, 4, places)
    weight = mr.tensor([0.5, 2.0, 1.0, 3.0], dtype="float64")
    got = loss(x, labels, weight, ignore_index=1, reduction="none")
    assert got.shape == places
    rows = np.moveaxis(host(x), min(1, len(shape) - 1), -1)
    for place in np.ndindex(*places):
        label = mr.tensor(host(labels)[place][None])
        one = loss(mr.tensor(rows[place][None]), label, weight, ignore_index=1, reduction="none")
        assert host(got)[place] == pytest.approx(one.item())
    if places and 0 in places:
        with raises(ShapeError, "at least one row to average"):
            loss(x, labels)


def test_gradients_of_labels_anywhere():
    labels = mr.randint(0, 3, (2, 2, 2))
    weight = mr.tensor([1.0, -0.5, 2.0], dtype="float64")
    for loss in (F.cross_entropy, F.nll_loss):
        check_gradients(lambda x, f=loss: f(x, labels, weight), arrays((2, 3, 2, 2)))
        check_gradients(lambda x, f=loss: f(x, labels[0, 0, 0]), arrays((3,)))


def test_weights_of_any_sign():
    x, labels = mr.tensor(arrays((3, 2))[0]), mr.tensor([0, 1, 1])
    plain = F.nll_loss(x, labels, reduction="none")
    weight = mr.tensor([3.0, -1.0], dtype="float64")
    factors = np.array([3.0, -1.0, -1.0])
    expected = (host(plain) * factors).sum() / factors.sum()
    assert F.nll_loss(x, labels, weight).item() == pytest.approx(expected)
    assert F.nll_loss(x, labels, -weight).item() == pytest.approx(expected)


def test_labels_that_do_not_fit():
    x = mr.ones(2, 3, 4, 5)
    for loss in (F.cross_entropy, F.nll_loss):
        with raises(ShapeError, "expected labels of shape (2, 4, 5), got (2, 4)"):
            loss(x, mr.zeros(2, 4).long())
        with raises(ShapeError, "expected scores of shape (n, c, ...) or (c,), got ()"):
            loss(mr.tensor(1.0), mr.tensor(0))
        with raises(ArgumentError, "expected labels in 0..2, got 3"):
            loss(x, mr.full((2, 4, 5), 3, dtype="int64"))
    with raises(ShapeError, "expected probabilities of shape (2, 3, 4, 5), got (2, 4, 5)"):
        F.cross_entropy(x, mr.ones(2, 4, 5))


# **** memory formats, new tensors ****


def test_memory_formats(device):
    x = ones(2, 3, 4, 5, requires_grad=True)
    y = x.to(memory_format=mr.channels_last)
    assert y.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert x.to(memory_format=mr.preserve_format) is x
    assert x.to(memory_format=mr.contiguous_format) is x
    assert y.contiguous() is not y
    assert y.contiguous(memory_format=mr.channels_last) is y
    assert x.clone(memory_format=mr.channels_last).data.transpose(0, 2, 3, 1).flags.c_contiguous
    if device == "cpu":
        assert y.clone().data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert y.double(memory_format=mr.contiguous_format).data.flags.c_contiguous
    y.sum().backward()
    assert host(x.grad).all()


def test_to_copies_where_it_is_asked_to():
    x = mr.ones(2)
    assert x.to("cpu") is x
    for y in (x.to("cpu", copy=True), x.to("cpu", "float32", False, True), x.to(x, False, True)):
        assert not np.shares_memory(y.data, x.data)
    assert x.to("float64", copy=True).dtype == np.float64
    assert x.clone(memory_format=mr.preserve_format) is not x


def test_a_module_takes_a_memory_format():
    net = nn.Conv2d(1, 2, 3)
    weight = net.weight
    assert net.to(memory_format=mr.channels_last) is net
    assert net.to("float64", non_blocking=True, memory_format=mr.channels_last).weight is weight
    assert weight.dtype == np.float64
    with raises(ArgumentError, "Module.to: expected a memory format"):
        net.to(memory_format="sideways")
    with raises(DTypeError, "dtype: expected"):
        net.to()


@pytest.mark.parametrize("wrong", ["nchw", 3, mr.relu])
def test_no_memory_format(wrong):
    x = mr.ones(1, 1, 1, 1)
    for call in (x.contiguous, x.clone, x.float, x.to, mr.nn.Linear(1, 1).to):
        with raises(ArgumentError, "expected a memory format: channels_last"):
            call(memory_format=wrong)
    with raises(ShapeError, "channels_last: expected x of shape (n, c, h, w)"):
        mr.ones(2, 2).to(memory_format=mr.channels_last)


FACTORIES = {
    "zeros": lambda **o: mr.zeros(2, 3, **o),
    "ones": lambda **o: mr.ones(2, 3, **o),
    "empty": lambda **o: mr.empty(2, 3, **o),
    "full": lambda **o: mr.full((2, 3), 2, **o),
    "arange": lambda **o: mr.arange(4, **o),
    "linspace": lambda **o: mr.linspace(0, 1, 3, **o),
    "eye": lambda **o: mr.eye(3, **o),
    "rand": lambda **o: mr.rand(2, **o),
    "randn": lambda **o: mr.randn(2, **o),
    "randint": lambda **o: mr.randint(5, (2,), **o),
    "randperm": lambda **o: mr.randperm(4, **o),
    "tensor": lambda **o: mr.tensor([1, 2], **o),
    "zeros_like": lambda **o: mr.zeros_like(ones(2).int(), **o),
    "ones_like": lambda **o: mr.ones_like(ones(2).int(), **o),
    "empty_like": lambda **o: mr.empty_like(ones(2).int(), **o),
    "full_like": lambda **o: mr.full_like(ones(2).int(), 3, **o),
    "rand_like": lambda **o: mr.rand_like(ones(2), **o),
    "randn_like": lambda **o: mr.randn_like(ones(2), **o),
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
def test_every_factory_takes_a_dtype_a_device_and_requires_grad(make, device):
    x = make(dtype="float64", device=device, requires_grad=True)
    assert x.dtype == np.float64
    assert x.device.type == device
    assert x.requires_grad
    assert x.is_leaf
    assert not make(dtype="float32").requires_grad
    with raises(ArgumentError, "unknown device 'tpu'"):
        make(device="tpu")


def test_like_keeps_the_device_of_what_it_is_like(device):
    x = ones(2, 3)
    for make in (mr.zeros_like, mr.ones_like, mr.empty_like, mr.rand_like, mr.randn_like):
        assert make(x).device == x.device
        assert make(x, device="cpu").device.type == "cpu"


def test_linspace_of_integers_drops_fractions():
    assert mr.linspace(0, 10, 5, dtype="int64").tolist() == [0, 2, 5, 7, 10]
    assert mr.linspace(-3, 3, 5, dtype="int64").tolist() == [-3, -1, 0, 1, 3]
    assert mr.linspace(4.9, 4.9, 1, dtype="int64").tolist() == [4]
    assert mr.linspace(1, 2, 0, dtype="int64").tolist() == []
    assert mr.linspace(mr.tensor(1.0), mr.tensor([3]), 3).tolist() == [1, 2, 3]


def test_draws_that_a_dtype_does_not_have():
    assert mr.randint(200, 256, (9,), dtype="uint8").dtype == np.uint8
    with raises(DTypeError, "randint: expected"):
        mr.randint(200, 257, (9,), dtype="uint8")
    with raises(DTypeError, "randperm: expected"):
        mr.randperm(129, dtype="int8")
    assert mr.randperm(128, dtype="int8").tolist() != [*range(128)]
    assert mr.randperm(0, dtype="int8").shape == (0,)


def test_tensors_of_no_entries_are_joined_to_anything():
    x = mr.ones(2, 3)
    assert mr.cat([mr.tensor([]), x], 1).shape == (2, 3)
    assert mr.cat([x, mr.zeros(0), x]).shape == (4, 3)
    assert mr.cat([mr.zeros(0), mr.zeros(0)]).shape == (0,)
    with raises(ShapeError, "shapes that agree"):
        mr.cat([x, mr.zeros(0, 2)])

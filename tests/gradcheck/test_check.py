"""The checker catches what is wrong, names it, restores what it touched, and takes any input."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from harness import arrays, distinct, host, raises, tensor, there

import minires as mr
from minires import nn
from minires.errors import GradcheckError, GraphError
from minires.gradcheck import check, check2, check_module, detection_bound
from minires.models import BasicBlock


def leaf(*shape, seed=0, dtype="float64"):
    return tensor(arrays(shape, seed=seed)[0].astype(dtype), requires_grad=True)


_calls = itertools.count()


class Planted(mr.Function):
    """y = 3 x0 x1, with a backward that is wrong in one way."""

    complex_safe = True

    @staticmethod
    def forward(ctx, x, w, fault):
        ctx.save(x, w)
        ctx.save_constants(np.ones(3))
        ctx.fault = fault
        return 3 * x * w

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        gx, gw = gy * w * 3, gy * x * 3
        if ctx.fault == "ignores gy":
            gx = mr.ones_like(gy) * w * 3
        elif ctx.fault == "not linear in gy":
            gx = gy * gy * w * 3
        elif ctx.fault == "one entry":
            spoiled = gx.data.copy()
            spoiled[1, 2] *= 1.001
            gx = mr.tensor(spoiled)
        elif ctx.fault == "writes into gy":
            gy.data[...] *= 2
        elif ctx.fault == "writes into saved":
            ctx.constants[0][...] += 1
        elif ctx.fault == "writes into x":
            x.data[...] += 1
        elif ctx.fault == "random":
            gx = gx * (1 + next(_calls) % 7 * 1e-14)  # of two calls in a row never the same bits
        return gx, gw, None


FAULTS = {
    "ignores gy": ["a zero upstream gradient gives a gradient of x that is not zero"],
    "not linear in gy": ["backward is not linear in its upstream gradient"],
    "one entry": [
        "x [2, 3]: 1 of 36 entries disagree",
        "∂output[1, 2] / ∂x[1, 2]",
        "analytic",
        "numeric",
        "ratio 1.001",
        "w [2, 3]: ok",
    ],
    "writes into gy": ["backward writes into its upstream gradient"],
    "writes into saved": ["backward changes an array that Planted saved"],
    "writes into x": ["backward changes an array that Planted saved"],
    "random": ["a second backward pass gives other bits for the gradient of x"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_backward_that_breaks_a_rule_is_caught(fault):
    x, w = leaf(2, 3), leaf(2, 3, seed=1)
    before = x.data.copy()
    report = check(lambda x, w: Planted.apply(x, w, fault), [x, w])
    assert not report
    with raises(GradcheckError, *FAULTS[fault]):
        report.assert_ok()
    np.testing.assert_array_equal(x.data, before)  # whatever backward did to it
    assert check(lambda x, w: Planted.apply(x, w, None), [x, w])


def test_a_batch_norm_without_its_x_hat_term_is_caught_where_ones_are_blind():
    class Centred(mr.Function):
        complex_safe = True

        @staticmethod
        def forward(ctx, x):
            ctx.save_constants(x.real)
            return (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).mean(0))

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.constants
            inv_std = 1 / x.std(0)
            return mr.tensor((gy.data - gy.data.mean(0)) * inv_std)

    x = leaf(5, 2)
    (ones,) = mr.grad(Centred.apply(x).sum(), [x])
    assert abs(ones.data).max() < 1e-15  # as the right gradient is
    with raises(GradcheckError, "product of rank one"):
        check(Centred.apply, x).assert_ok()


def test_second_order_is_checked():
    class Flat(mr.Function):
        """x³ with the right gradient, which claims not to depend on x."""

        complex_safe = True

        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x**3

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved
            return gy * 3 * x * x.detach()

    x = leaf(3)
    check(Flat.apply, x).assert_ok()
    assert not check2(Flat.apply, x)
    check2(lambda x: x**3, x).assert_ok()


def test_names_come_from_the_function():
    x, w = leaf(2, 3), leaf(3)
    assert [a.name for a in check(lambda image, scale: image * scale, [x, w]).arguments] == [
        "image",
        "scale",
    ]
    assert [a.name for a in check(lambda *xs: xs[0] * xs[1], [x, w]).arguments] == [
        "input 0",
        "input 1",
    ]
    assert [a.name for a in check(mr.mul, [x, w], names="ab").arguments] == ["a", "b"]


def test_the_report_is_plain_data():
    report = check(mr.tanh, leaf(2, 3))
    data = json.loads(json.dumps(report.as_dict()))
    assert data["ok"] is True
    assert data["backend"] == "numba"
    assert data["arguments"][0]["entries"] == 36
    with mr.backend("numpy"):
        assert check(mr.tanh, leaf(2)).backend == "numpy"


def test_layouts_are_kept_for_the_gradient(anywhere):
    """What is differentiated numerically is contiguous; what backward sees is the user's."""
    image = np.ascontiguousarray(arrays((4, 5, 3, 2))[0])
    for x in (image.T, image[::-1, :, ::2].transpose(3, 2, 0, 1), image.transpose(2, 3, 0, 1)):
        x = there(x[:2, :2]).requires_grad_()
        w = leaf(2, 2, 2, 2, seed=1)
        check(lambda x, w: mr.conv2d(x, w, padding=1), [x, w]).assert_ok()


# **** references ****


@pytest.mark.parametrize("reference", ["complex step", "richardson", "central"])
def test_every_reference_agrees_and_is_named(reference):
    x, w = leaf(2, 3), leaf(3, 2, seed=1)
    report = check(lambda x, w: (x @ w).tanh().exp(), [x, w], reference=reference)
    assert report
    assert {a.reference for a in report.arguments} == {reference}
    assert all(a.relative < {"complex step": 1e-14}.get(reference, 1e-8) for a in report.arguments)


def test_an_unknown_operation_is_checked_by_differences_and_the_report_says_so():
    class Sine(mr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return np.sin(x)

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved
            return gy * mr.tensor(np.cos(x.data))

    report = check(Sine.apply, leaf(2, 3))
    assert report
    assert report.arguments[0].reference == "richardson"
    assert "no complex step: Sine not marked complex_safe" in str(report)


def test_an_operation_that_is_falsely_marked_is_found_out():
    class Modulus(mr.Function):
        """|x|² is not analytic: its complex step gives nothing."""

        complex_safe = True

        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return (x * x.conj()).real * (1 + 0j) if x.dtype.kind == "c" else x * x

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved
            return gy * x * 2

    report = check(Modulus.apply, leaf(3))
    assert report
    assert report.arguments[0].reference == "richardson"
    assert "some part of the path is not analytic" in str(report)


def test_kernels_that_compute_another_value_than_the_references_are_a_fault(monkeypatch):
    from minires.ops.relu import kernel_numba

    right = kernel_numba.relu_fwd

    def wrong(x, y):
        right(x, y)
        y *= 1 + 1e-6

    monkeypatch.setattr(kernel_numba, "relu_fwd", wrong)
    with raises(GradcheckError, "fault: the kernels give another value than the NumPy references"):
        check(mr.relu, leaf(3)).assert_ok()
    with mr.backend("numpy"):
        check(mr.relu, leaf(3)).assert_ok()


# **** kinks ****


@pytest.mark.parametrize("reference", [None, "richardson", "central"])
def test_points_next_to_a_kink_are_no_false_failures(reference):
    x = mr.tensor([0.0, 1e-3, -1e-4, 1e-5, 3e-7, 2.0], dtype="float64", requires_grad=True)
    for f in (mr.relu, abs, lambda x: x.clip(0, 1e-3), lambda x: mr.maximum(x, 0.0)):
        report = check(f, x, reference=reference)
        assert report, report
        assert report.arguments[0].skipped == 0


def test_a_kink_is_named_and_judged_from_the_side_of_the_branch_taken():
    x = mr.tensor([[1.0, -1.0], [0.5, 0.0]], dtype="float64", requires_grad=True)
    report = check(mr.relu, x, reference="richardson")
    assert report
    assert "x[1, 1] sits on a switch of relu" in str(report)
    assert report.arguments[0].reference == "richardson (1 one-sided)"


class Corner(mr.Function):
    """|x| with a slope of one's choice at 0."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_constants(np.where(x == 0, slope, np.sign(x)))
        mr.autograd.switch("corner", lambda: np.sign(x))
        return np.abs(x)

    @staticmethod
    def backward(ctx, gy):
        return gy * mr.tensor(ctx.constants[0]), None


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.3, 1.0])
def test_any_sub_gradient_is_right_at_a_kink(slope):
    x = mr.tensor(np.linspace(-1, 1, 5), requires_grad=True)
    report = check(lambda x: Corner.apply(x, slope), x)
    assert report
    assert report.arguments[0].skipped == 0
    assert "interval" in report.arguments[0].reference


def test_what_is_no_sub_gradient_is_skipped_and_more_than_a_few_skips_fail():
    many = mr.tensor([-1, 0, *np.linspace(0.1, 1, 23)], dtype="float64", requires_grad=True)
    report = check(lambda x: Corner.apply(x, 2.0), many)
    assert report
    assert report.arguments[0].skipped == 1
    assert "kink-skipped 1" in str(report)
    few = mr.tensor([-1.0, 0.0, 1.0], dtype="float64", requires_grad=True)
    with raises(GradcheckError, "only 8 of 9 entries could be checked"):
        check(lambda x: Corner.apply(x, 2.0), few).assert_ok()


@pytest.mark.slow
def test_deep_rectified_blocks_give_no_false_failure_by_differences():
    mr.manual_seed(3)
    net = nn.Sequential(*(BasicBlock(4, 4) for _ in range(6))).double()
    x = leaf(2, 4, 3, 2, seed=5)
    report = check_module(net, x, reference="richardson", probes=2)
    assert report, report
    assert check_module(net, x, probes=2)


# **** float32 ****


def test_float32_is_checked_in_float64_and_then_in_units_of_rounding(anywhere):
    x, w = leaf(2, 3, 5, 4, dtype="float32"), leaf(2, 3, 3, 2, seed=1, dtype="float32")
    report = check(lambda x, w: mr.conv2d(x, w, padding=1), [x, w])
    assert report
    assert x.dtype == np.float32
    assert "float32 (x, w): differences have 3 digits there at best" in str(report)
    for argument in report.arguments:
        assert argument.reference == "complex step"
        assert 0 < argument.rounding < 2


def test_float32_is_judged_where_only_backward_compares():
    x = mr.tensor([0.5, 1.5, 2.0], requires_grad=True)  # pow asks in backward whether x is 0
    y = mr.tensor([2.0, 3.0, 0.5], requires_grad=True)
    report = check(lambda x, y: x**y, [x, y])
    assert all(0 < argument.rounding < 2 for argument in report.arguments)
    assert "not judged" not in str(report)


def test_a_float32_kernel_that_loses_digits_is_caught(monkeypatch):
    from minires.ops.conv2d import kernel_numba

    right = kernel_numba.conv2d_bwd_weight

    def coarse(gy, x, gw, g):
        right(gy, x, gw, g)
        if gw.dtype == np.float32:
            gw[...] = gw.astype(np.float16)

    monkeypatch.setattr(kernel_numba, "conv2d_bwd_weight", coarse)
    x, w = leaf(2, 3, 5, 4, dtype="float32"), leaf(2, 3, 3, 2, seed=1, dtype="float32")
    with raises(GradcheckError, "w [2, 3, 3, 2]: float32 errs by", "units of rounding", "x [2"):
        check(lambda x, w: mr.conv2d(x, w, padding=1), [x, w]).assert_ok()


def test_a_float32_result_that_is_off_is_a_fault(monkeypatch):
    from minires.ops.relu import kernel_numba

    right = kernel_numba.relu_fwd

    def wrong(x, y):
        right(x, y)
        if y.dtype == np.float32:
            y *= 1 + 1e-4

    monkeypatch.setattr(kernel_numba, "relu_fwd", wrong)
    with raises(GradcheckError, "the float32 result is off by"):
        check(mr.relu, leaf(4, dtype="float32")).assert_ok()


# **** probes ****


@pytest.mark.parametrize(("probes", "times"), [(1, 10), (2, 10), (1, 100)])
def test_the_detection_bound_holds(probes, times):
    """Against the worst case, an error of rank one, by simulation."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200_000, probes))
    missed = (np.abs(a * b) <= 1 / times).all(axis=1).mean()
    bound = detection_bound(probes, times)
    assert missed < bound < 5**probes * missed


def test_probes_stand_in_for_large_jacobians_and_say_what_they_miss():
    w = mr.tensor(arrays((1001, 1001))[0] / 30)
    report = check(lambda x: x @ w, leaf(1001))
    (argument,) = report.arguments
    assert report
    assert argument.entries == 64
    assert "are missed with probability below 6e-10" in str(report)

    class Off(mr.Function):
        complex_safe = True

        @staticmethod
        def forward(ctx, x):
            return x @ w.data

        @staticmethod
        def backward(ctx, gy):
            gx = gy.data @ w.data.T
            gx[7] += 1e-3 * gy.data[500]
            return mr.tensor(gx)

    report = check(Off.apply, leaf(1001))
    assert not report
    assert "probes disagree" in str(report)


def test_probes_can_be_asked_for(anywhere):
    x, w = leaf(2, 2, 3, 4), leaf(2, 2, 3, 3, seed=1)
    report = check2(lambda x, w: mr.conv2d(x, w, padding=1).tanh(), [x, w], probes=3)
    assert report
    assert [a.entries for a in report.arguments] == [9, 9, 9]


# **** modules ****


@pytest.mark.slow
def test_a_module_is_checked_with_its_parameters_and_left_as_it_was(backend):
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
    before = {name: host(value).copy() for name, value in module.state_dict().items()}
    state = mr.random.get_state()
    report = check_module(module, leaf(2, 2, 4, 5, dtype="float32"))
    assert report, report
    assert [a.name for a in report.arguments] == ["x", "0.weight", "0.bias", "1.weight", "1.bias"]
    assert mr.random.get_state() == state
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(host(value), before[name])
        assert value.dtype == before[name].dtype
    assert module.training
    assert check_module(module, leaf(2, 2, 4, 5, dtype="float32"), second_order=True, probes=2)


def test_check_takes_modules_too():
    report = check(nn.Linear(3, 2), leaf(4, 3, dtype="float32"))
    assert [a.name for a in report.arguments] == ["x", "weight", "bias"]


def test_a_module_may_take_labels():
    loss = nn.CrossEntropyLoss()
    assert check_module(loss, [leaf(3, 4), mr.tensor([1, 0, 3])])


def test_a_frozen_parameter_is_no_argument():
    module = nn.Linear(3, 2)
    module.weight.requires_grad = False
    assert [a.name for a in check_module(module, leaf(4, 3, dtype="float32")).arguments] == [
        "x",
        "bias",
    ]


def test_a_parameter_without_influence_is_an_error():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    with raises(GraphError, "depends on unused.weight", "Leave unused.weight out"):
        check_module(Forgetful(), leaf(2, 3, dtype="float32"))


def test_a_path_that_is_cut_is_a_failure_and_named():
    with raises(
        GradcheckError, "the gradient is zero everywhere", "no path on the tape", "detach()"
    ):
        check(lambda x, w: x * w.detach(), [leaf(3), leaf(3, seed=1)]).assert_ok()
    with raises(GradcheckError, "the gradient is wrong"):
        check(lambda x: x * x.detach(), leaf(3)).assert_ok()


def test_entries_of_max_pool_ties_and_strides(anywhere):
    x = there(distinct((2, 2, 5, 6))[0].round(0)).requires_grad_()  # many ties
    check(lambda x: mr.max_pool2d(x, 3, stride=2, padding=1), x).assert_ok()


# **** sizes of all kinds side by side ****


def values(*numbers):
    return mr.tensor(np.array(numbers), requires_grad=True)


class Wrong(mr.Function):
    """exp, with the sign of the derivative flipped where |x| < 1."""

    complex_safe = True

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return np.exp(x)

    @staticmethod
    def backward(ctx, gy):
        (x,) = ctx.saved
        return gy * x.exp() * mr.tensor(np.where(np.abs(x.data.real) < 1, -1.0, 1.0))


@pytest.mark.parametrize("reference", [None, "richardson"])
def test_large_entries_do_not_hide_small_ones(reference):
    report = check(Wrong.apply, values(20.0, 0.5, -0.5), reference=reference)
    assert report.arguments[0].failures == 2
    assert not check(lambda x: Wrong.apply(x * 1e-3) + 1e12, values(0.5, -0.2))


RIGHT = {
    "saturated softmax": (
        lambda x: mr.softmax(x, 1),
        mr.tensor(30 * arrays((4, 5))[0], requires_grad=True),
    ),
    "saturated": (lambda x: mr.concatenate([mr.tanh(x), mr.sigmoid(x)]), values(0.1, 19, -25, 60)),
    "log": (mr.log, values(1e-3, 1, 5, 1e3)),
    "reciprocal": (lambda x: 1 / x, values(1e-6, 1, 1e6)),
    "root": (mr.sqrt, values(1e-8, 1)),
    "softmax": (lambda x: mr.softmax(x, 1), mr.tensor(1e6 + arrays((3, 4))[0], requires_grad=True)),
    "std": (lambda x: x.std(1), mr.tensor(1e6 + arrays((3, 4))[0], requires_grad=True)),
    "clipped by its norm": (
        lambda x: x * mr.minimum(mr.tensor(np.array(1.0)), 20 / (x * x).sum().sqrt()),
        mr.tensor(arrays((6, 6))[0], requires_grad=True),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_scales_and_offsets_are_no_false_failures(name):
    f, x = RIGHT[name]
    report = check(f, x)
    assert report, report
    assert report.arguments[0].reference == "complex step"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batch_norm_far_from_zero(dtype):
    x = mr.tensor((1e4 + arrays((4, 3, 4, 2))[0]).astype(dtype), requires_grad=True)
    module = nn.BatchNorm2d(3)
    report = check_module(module if dtype == "float32" else module.double(), x)
    assert report, report


def test_differences_that_have_not_converged_judge_nothing():
    report = check(lambda x: 1 / x, values(1e-6, 1, 1e6), reference="richardson")
    (argument,) = report.arguments
    assert not argument.failures
    assert argument.skipped


class Coarse(mr.Function):
    """sin, whose backward is wrong in float32 only."""

    complex_safe = True

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return np.sin(x)

    @staticmethod
    def backward(ctx, gy):
        (x,) = ctx.saved
        return gy * mr.tensor(np.cos(x.data) * x.dtype.type(0.5 if x.dtype == np.float32 else 1))


@pytest.mark.parametrize("options", [{}, {"probes": 3}])
def test_float32_is_judged_behind_a_constant_and_by_probes(options):
    with raises(GradcheckError, "x [5]: float32 errs by"):
        check(lambda x: Coarse.apply(x) + 1e6, leaf(5, dtype="float32"), **options).assert_ok()


def test_what_nothing_was_compared_for_is_said():
    assert "nothing to compare for a: it or the result is empty" in str(
        check(lambda a: a[:0], leaf(3))
    )


def test_modules_that_a_function_reaches_are_left_as_they_were():
    norm = nn.BatchNorm2d(3)  # float32, lent in float64 like the input
    before = norm.running_mean.data.copy()
    x = leaf(2, 3, 4, 2, dtype="float32")
    assert check(lambda x: norm(x), x)
    assert check(norm.forward, x)
    np.testing.assert_array_equal(norm.running_mean.data, before)
    assert norm.weight.dtype == np.float32


def test_code_that_was_not_made_for_a_checker_runs():
    def strict(x):
        assert x.shape == (6, 6)
        assert x.dtype == np.float64
        return x * {6: 2.0}[x.shape[0]]

    report = check(strict, leaf(6, 6))
    assert report
    assert "the function does not take complex numbers" in str(report)


def test_a_gradient_of_nan_is_called_that():
    with raises(GradcheckError, "fault: the gradient of x has NaN or infinity"):
        check(lambda x: (x * x).sum().sqrt(), values(0.0, 0.0)).assert_ok()


def test_a_backward_that_leaves_the_tape_is_named_at_second_order():
    class Off(mr.Function):
        complex_safe = True

        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x**3

        @staticmethod
        def backward(ctx, gy):
            return gy * mr.tensor(3 * ctx.saved[0].data ** 2)

    with raises(GradcheckError, "no path on the tape leads back to x", "backward computes with it"):
        check2(Off.apply, leaf(3), names=["x"]).assert_ok()


def test_what_the_engine_derived_from_weights_does_not_outlive_them():
    """It keeps what it makes of weights until they are written; a check gives them other values."""
    net = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    net(mr.randn(8, 2, 3, 3))
    net.eval()
    x = mr.randn(2, 2, 3, 4, requires_grad=True)
    before = net(x).detach().numpy()
    check(lambda x: net(x), x).assert_ok()
    check2(lambda x, w, b: net(x), [x, net[0].weight, net[0].bias]).assert_ok()
    np.testing.assert_array_equal(net(x).detach().numpy(), before)

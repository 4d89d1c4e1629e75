"""The catalogue covers everything there is, adds up what it finds, and shows what is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import models, nn, ops
from minires.device import CPU, _backend, _kernel_module
from minires.errors import ArgumentError, DeviceError, KernelMissing
from minires.models import blocks, variants
from minires.selfcheck import CASES, Backend, backends, catalogue, examine, plan, select
from minires.selfcheck.catalogue.arrays import NOT_DIFFERENTIABLE
from minires.selfcheck.catalogue.case import LAYOUTS, apart, normal
from minires.selfcheck.catalogue.layers import CONTAINERS

NUMPY, NUMBA = Backend("numpy"), Backend("numba")
BLOCKS = ["PlainBlock", "BasicBlock", "Bottleneck", "PreActPlainBlock", "PreActBlock"]
BLOCKS += ["PreActBottleneck", "SqueezeExcitation", "CifarNet", "ResNet"]


def named(kind):
    return {case.name for case in CASES if case.kind == kind}


def kernel(op, backend="numpy"):
    return _kernel_module(op, backend)


# **** everything there is ****


def test_every_operation_has_a_case():
    missing = set(ops.__all__) - set(NOT_DIFFERENTIABLE) - named("operation")
    assert not missing, f"add cases, or reasons to NOT_DIFFERENTIABLE, for {sorted(missing)}"
    assert set(NOT_DIFFERENTIABLE) <= set(ops.__all__)
    assert not set(NOT_DIFFERENTIABLE) & named("operation")


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
def test_what_has_no_case_has_no_gradient(name):
    x = mr.tensor([0.5, -1.0], requires_grad=True)
    result = getattr(ops, name)(*([x, x] if name == "allclose" else [x]))
    assert not getattr(result, "requires_grad", False)


def test_every_layer_has_a_case():
    layers = {
        name
        for name in nn.__all__
        if inspect.isclass(getattr(nn, name)) and issubclass(getattr(nn, name), nn.Module)
    }
    assert layers - set(CONTAINERS) == named("layer")


def test_every_block_and_network_has_a_case():
    kinds = {
        name
        for module in (blocks, models)
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, nn.Module)
        and value.__module__.startswith("minires.models")
        and value not in (variants.Block, variants.ResidualBlock, variants.PreActResidualBlock)
        and not name.startswith("_")
    }
    assert kinds == named("block")
    for name in ("BasicBlock", "Bottleneck", "PreActBlock", "PreActBottleneck"):
        labels = " ".join(case.label for case in select([name]))
        for word in ("train", "eval", "stride 2", "shortcut A", "shortcut B", "shortcut C"):
            assert word in labels, f"{name} lacks {word}"


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "relu"])
def test_every_argument_of_a_kernel_is_checked_in_odd_layouts(name):
    layouts = {values.layout for case in select([name]) for values in case.inputs.values()}
    assert "reversed" in layouts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_who_uses_kernels_is_known(case, monkeypatch):
    """An array expression runs once for both CPU backends: it must not reach any kernel."""

    def refuse(op, name):
        raise KernelMissing(op)

    subject, leaves = case.subject(0), list(case.tensors(0).values())
    monkeypatch.setattr(sys.modules["minires.device"], "_kernel_module", refuse)
    if case.kernels and str(case) != "cross_entropy, probabilities":
        with pytest.raises(KernelMissing):
            subject(*leaves).detach().numpy()  # work may be deferred until someone looks
    else:
        subject(*leaves).detach().numpy()


def test_labels_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


# **** values and layouts ****


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    values = normal(2, 3, 4, 5, layout=name)
    leaf = mr.from_numpy(values.leaf(np.random.default_rng(0)))
    assert leaf.data.flags.c_contiguous
    view = values.view(leaf)
    assert view.shape == (2, 3, 4, 5)
    assert np.shares_memory(view.data, leaf.data)
    strides = {
        "contiguous": (480, 160, 40, 8),
        "channels last": (480, 8, 120, 24),
        "every second": (960, 320, 80, 16),
        "reversed": (-480, -160, -40, -8),
        "transposed": (480, 160, 8, 32),
        "broadcast": (0, 160, 40, 8),
    }
    assert view.data.strides == strides[name]


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_apart_stays_away_from_kinks(size):
    values = np.sort(apart(size).leaf(np.random.default_rng(0)).reshape(-1))
    assert np.abs(values).min() >= 1 / 16
    assert size == 1 or np.diff(values).min() >= 1 / 8


def test_values_depend_on_the_seed_only():
    case = select(["conv2d"])[0]
    first, again, other = (case.tensors(seed)["x"].data for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32


def test_batch_norms_are_taken_away_from_their_start():
    module = next(c for c in CASES if c.name == "BatchNorm2d").subject(0)
    assert abs(module.weight.data - 1).min() > 0
    assert abs(module.bias.data).min() > 0
    assert abs(module.running_var.data - 1).min() > 0
    again = next(c for c in CASES if c.name == "BatchNorm2d").subject(0)
    assert np.array_equal(module.weight.data, again.weight.data)


def test_subjects_leave_the_global_generator_alone():
    state = mr.random.get_state()
    next(c for c in CASES if c.name == "Linear").subject(5)
    assert mr.random.get_state() == state


# **** where ****


def test_backends():
    cpu = [b for b in backends() if b.device == CPU]
    assert cpu == [NUMPY, NUMBA]
    assert backends("numba") == [NUMBA]
    assert backends(device="cpu") == cpu
    with NUMPY.active():
        assert _backend.get().value == "numpy"
    with NUMBA.active():
        assert _backend.get().value == "auto"


def test_array_expressions_run_once():
    assert [(c.name, b.name) for c, b in plan(["neg"]).jobs] == [("neg", "numpy")]
    assert [b.name for _, b in plan(["OptionA"]).jobs] == ["numpy"]
    assert {b.name for _, b in plan(["relu"]).jobs} == {"numpy", "numba"}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"names": ["conv2"]}, ArgumentError, ["unknown operation, layer or block 'conv2'", "did"]),
        ({"names": ["basicblock"]}, ArgumentError, ["did you mean BasicBlock"]),
        ({"backend": "cupy"}, ArgumentError, ["unknown backend 'cupy'", "numba, numpy"]),
        ({"device": "gpu"}, ArgumentError, ["unknown device 'gpu'", "cuda"]),
        ({"device": "cuda:7"}, DeviceError, ["one of the devices cpu", "got 'cuda:7'", "info"]),
        ({"device": "cuda", "backend": "numba"}, ArgumentError, ["'numba' on device 'cpu'"]),
        ({"draws": -1}, ArgumentError, ["--n an integer >= 0", "got -1"]),
        ({"seed": -1}, ArgumentError, ["--seed an integer >= 0", "got -1"]),
        ({"names": ["neg"], "backend": "numba"}, ArgumentError, ["kernels", "neg", "--backend"]),
        ({"names": ["ReLU"], "draws": 1}, ArgumentError, ["random shapes", "ReLU", "conv2d"]),
    ],
)
def test_bad_plans(options, kind, words):
    with raises(kind, *words):
        plan(**options)


def test_random_shapes_need_hypothesis(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "minires.selfcheck.catalogue.shapes", raising=False)
    monkeypatch.delattr(catalogue, "shapes", raising=False)
    with raises(ArgumentError, "Hypothesis", "pip install 'minires[test]'"):
        plan(["relu"], draws=1)


@pytest.mark.slow
def test_without_random_shapes_nothing_of_the_tests_is_imported():
    code = (
        "import sys; from minires.selfcheck import plan; plan(['relu']).run();"
        "print([m for m in ('hypothesis', 'pytest', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# **** what is true ****


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(named("operation") | named("layer") | {"OptionA"}))
def test_gradients(name):
    result = plan([name]).run()
    assert result.ok, "\n\n".join(result.failures())


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_of_blocks(name):
    """One case of each here; ``minires gradcheck`` runs them all."""
    outcome = examine(select([name])[0], NUMBA)
    assert outcome.ok, outcome.failure()


# **** what is found ****


class Steps:
    def __init__(self):
        self.total, self.names = 0, []

    def begin(self, cost):
        self.total = cost

    def step(self, name, cost):
        self.names.append(name)
        self.total -= cost


def test_rows_add_up():
    progress = Steps()
    result = plan(["neg", "mul", "relu"]).run(progress)
    assert progress.total == 0
    assert progress.names == ["relu"] * 10 + ["mul"] * 2 + ["neg"]
    rows = {(r.name, r.argument, r.backend): r for r in result.rows()}
    assert list(rows) == [
        ("relu", "x", "numpy"),
        ("relu", "x", "numba"),
        ("mul", "x", "numpy"),
        ("mul", "y", "numpy"),
        ("neg", "x", "numpy"),
    ]
    neg, mul = rows["neg", "x", "numpy"], rows["mul", "x", "numpy"]
    assert (neg.cases, neg.entries, neg.kind) == (1, 12 * 12, "operation")
    assert (mul.cases, mul.entries) == (2, 24 * 6 + 12 * 12)  # broadcast; one tensor twice
    assert neg.references == ["complex step"]
    assert neg.cells()["reference"] == "complex"
    assert neg.second is not None
    assert neg.adjoint is not None
    assert rows["relu", "x", "numpy"].adjoint is None
    assert all(r.ok and r.relative < 1e-12 and r.rounding < 1 for r in rows.values())
    entries = sum(r.entries for r in rows.values())
    assert f"All {len(result.outcomes)} cases hold on numpy and numba" in result.summary()
    assert f"{entries:,} entries checked, 0 skipped" in result.summary()
    assert result.failures() == []


@pytest.mark.slow
def test_parameters_of_a_network_share_lines():
    case = next(c for c in select(["CifarNet"]))
    rows = replace(plan(["CifarNet"], backend="numpy"), jobs=((case, NUMPY),)).run().rows()
    names = [row.argument for row in rows]
    assert "layer*.conv1.weight" in names
    assert not [name for name in names if name.startswith("layer1")]
    line = next(row for row in rows if row.argument == "layer*.conv1.weight")
    assert line.cases == 1
    assert line.probes == line.entries == 3 * next(r for r in rows if r.argument == "x").entries
    assert line.cells()["entries"].endswith(" vᵀJu")


def test_a_wrong_kernel_is_shown_on_its_backend_only(monkeypatch):
    good = kernel("relu", "numba").relu_bwd_x

    def bad(gy, y, gx):
        good(gy, y, gx)
        gx *= 1.001

    monkeypatch.setattr(kernel("relu", "numba"), "relu_bwd_x", bad)
    result = plan(["relu", "neg"]).run()
    assert not result.ok
    verdicts = {(r.name, r.backend): r.cells()["verdict"] for r in result.rows()}
    assert verdicts == {
        ("relu", "numpy"): "ok",
        ("relu", "numba"): "FAIL",
        ("neg", "numpy"): "ok",
    }
    text = result.failures()[0]
    assert text.startswith("relu, 4 dims on numba: the gradient is wrong")
    assert "1.001" in text
    assert "cases fail on numpy and numba" in result.summary()
    assert len(result.failures()) == 5
    first, others = result.first_failures()
    assert first == text
    assert others == (
        "relu on numba fails as well at: one entry; every second; reversed; broadcast"
    )


def test_a_kernel_that_raises_does_not_hide_the_others(monkeypatch):
    def broken(gy, y, gx):
        raise IndexError("out of the window")

    monkeypatch.setattr(kernel("relu"), "relu_bwd_x", broken)
    monkeypatch.setattr("minires.selfcheck.runner.warm_up", lambda *_: None)
    result = plan(["relu", "neg"], backend="numpy").run()
    assert "IndexError: out of the window" in result.failures()[0]
    assert "test_catalogue.py:" in result.failures()[0]
    assert {r.name: r.ok for r in result.rows()} == {"relu": False, "neg": True}


def test_a_fault_that_no_argument_owns_fails_a_line(monkeypatch):
    good = kernel("relu").relu_bwd_x

    def bad(gy, y, gx):
        good(gy, y, gx)
        gy[...] = 0  # writes into its upstream gradient

    monkeypatch.setattr(kernel("relu"), "relu_bwd_x", bad)
    case = select(["relu"])[0]
    outcome = examine(case, NUMPY)
    assert outcome.faults
    result = replace(plan(["relu"], backend="numpy"), jobs=((case, NUMPY),)).run()
    assert [row.cells()["verdict"] for row in result.rows()] == ["FAIL"]


def test_a_missing_kernel_is_said_and_is_no_failure(monkeypatch):
    real = _kernel_module

    def missing(op, name):
        if (op, name) == ("relu", "numba"):
            raise KernelMissing("relu: expected a kernel for 'numba', got none")
        return real(op, name)

    monkeypatch.setattr(sys.modules["minires.device"], "_kernel_module", missing)
    result = plan(["relu"]).run()
    assert result.ok
    assert [row.cells()["verdict"] for row in result.rows()] == ["ok", "no kernel"]
    assert "5 cases without a kernel" in result.summary()


def test_a_wrong_second_derivative_is_told_from_a_wrong_first(monkeypatch):
    from minires.ops.relu import op

    class Halved(op.ReLUInput):
        @staticmethod
        def backward(ctx, ggx):
            (y,) = ctx.saved
            return op.ReLUInput.apply(ggx, y) * 0.5, None

    monkeypatch.setattr(op, "ReLUInput", Halved)
    x, v = plan(["relu"], backend="numpy").run().rows()
    assert (x.argument, x.ok, x.relative) == ("x", True, 0)
    assert (v.argument, v.ok, v.second_ok, v.cells()["entries"]) == ("v", False, False, "")


def test_a_second_order_that_follows_from_the_first_is_one_line(monkeypatch):
    good = kernel("avg_pool2d").avg_pool2d_bwd_x

    def bad(gy, gx, geometry):
        good(gy, gx, geometry)
        gx *= -1

    monkeypatch.setattr(kernel("avg_pool2d"), "avg_pool2d_bwd_x", bad)
    outcome = examine(select(["avg_pool2d"])[0], NUMPY)
    lines = outcome.failure().splitlines()
    assert lines[0] == "avg_pool2d, 2x2 on numpy: the gradient is wrong"
    assert "sign" in outcome.failure()
    assert lines[-1] == "second order of avg_pool2d, 2x2: wrong too (v)"
    assert "adjoint in x: backward is not the adjoint of forward" in lines[-2]

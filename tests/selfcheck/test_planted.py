"""Every planted error is caught on every backend, and told by the right words."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.device import kernels
from minires.gradcheck import check
from minires.models import BasicBlock
from minires.ops.elementwise import Sub
from minires.selfcheck.planted import PLANTED, check_planted

each = pytest.mark.parametrize("planted", PLANTED, ids=lambda p: p.name)


@pytest.fixture(scope="module", params=["numpy", "auto"])
def reports(request):
    return {planted.name: report for planted, report in check_planted(request.param)}


@pytest.mark.slow
@each
def test_the_error_is_caught_and_named(planted, reports):
    report = reports[planted.name]
    assert not report.ok, f"{planted.name} was not caught"
    text = str(report)
    for word in planted.words:
        assert word in text, text


@pytest.mark.slow
@each
def test_the_same_function_passes_without_it(planted, backend):
    f, inputs, names = planted.case()
    check(f, inputs, names=names).assert_ok()


@each
def test_forward_stays_right(planted, backend):
    f, inputs, _ = planted.case()
    with mr.no_grad():
        right = f(*inputs).numpy()
        with planted.on(backend):
            np.testing.assert_array_equal(f(*inputs).numpy(), right)


def test_the_list_is_complete():
    names = [planted.name for planted in PLANTED]
    assert len(names) == len(set(names)) == 21
    assert all(planted.backends == ("numpy", "auto") for planted in PLANTED)


def test_cases_are_the_same_every_time():
    for planted in PLANTED:
        before = mr.random.get_state()
        (f, xs, _), (g, zs, _) = planted.case(), planted.case()
        assert mr.random.get_state() == before
        for x, z in zip(xs, zs):
            assert x.dtype == np.float64
            np.testing.assert_array_equal(x.data, z.data)
        with mr.no_grad():
            np.testing.assert_array_equal(f(*xs).data, g(*zs).data)


@each
def test_nothing_stays_behind(planted):
    def state():
        modules = [kernels(op, np.empty(0)) for op in ("conv2d", "batch_norm")]
        return [dict(vars(owner)) for owner in (*modules, Sub, BasicBlock)]

    before = state()
    with pytest.raises(KeyboardInterrupt), planted.on("auto"):
        raise KeyboardInterrupt
    assert state() == before

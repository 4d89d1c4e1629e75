"""Memoised forms of parameters belong to these very arrays, as they are."""

from __future__ import annotations

import numpy as np
import pytest
from harness import close

import minires as mr
from minires import nn
from minires.nn import functional as F

VIEWS = {
    "filters": [lambda w: w[:4], lambda w: w[4:], lambda w: w[2:3], lambda w: w[::2], lambda w: w],
    "channels": [lambda w: w[:, :3], lambda w: w[:, 3:], lambda w: w[:, ::2]],
    "turned": [lambda w: w, lambda w: w.transpose(2, 3)],
    "adjoint": [lambda w: w[:6], lambda w: w[:6].permute(1, 0, 2, 3)],
}
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_right(function, inputs, expected, captured):
    """``function`` gives what is ``expected`` for each input, which is made by the references of
    tensors of their own."""
    function = mr.capture(function) if captured else function
    for x in inputs:
        found = function(mr.tensor(x))
        with mr.backend("numpy"):
            for y, z in zip(found, expected(mr.tensor(x)), strict=True):
                close(y.detach().numpy(), z.detach().numpy(), "float32")
    assert not captured or "recordings=1" in repr(function)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_views_of_one_weight(views, captured):
    """They have one version, and are not the same."""
    values = normal(8, 6, 3, 3)
    w = mr.tensor(values)

    def convolved(x, weights):
        return [F.conv2d(x[:, : w.shape[1]], w) for w in weights]

    with mr.no_grad():
        assert_right(
            lambda x: convolved(x, [view(w) for view in views]),
            [normal(2, 6, 7, 5) for _ in range(4)],
            lambda x: convolved(x, [view(mr.tensor(values)) for view in views]),
            captured,
        )


@pytest.mark.parametrize("captured", [False, True])
def test_views_of_the_same_statistics(captured):
    values = [normal(6), 1 + normal(6) ** 2, normal(6), normal(6)]
    vectors = [mr.tensor(v) for v in values]

    def halves(x, vectors):
        parts = [[v[a : a + 3] for v in vectors()] for a in (0, 3, 1)]
        return [F.batch_norm(x, *part, training=False) for part in parts]

    with mr.no_grad():
        assert_right(
            lambda x: halves(x, lambda: vectors),
            [normal(2, 3, 4, 5) for _ in range(4)],
            lambda x: [
                F.batch_norm(x, *[mr.tensor(v[a : a + 3]) for v in values], training=False)
                for a in (0, 3, 1)
            ],
            captured,
        )


@pytest.mark.parametrize("equal", [False, True], ids=["other biases", "equal at first"])
@pytest.mark.parametrize("captured", [False, True])
def test_one_weight_with_several_biases(captured, equal):
    """Biases that are equal when a recording is proven may differ later."""
    values = normal(4, 3, 3, 3), np.zeros(4, np.float32), (0 if equal else 1) * normal(4)
    w, a, b = (mr.tensor(v) for v in values)
    shift = [0.0]

    def both(x, w, a, b):
        return [F.conv2d(x, w, a), F.conv2d(x, w, b), F.conv2d(x, w)]

    def expected(x):
        others = [mr.tensor(v) for v in values]
        others[2] += shift[0]
        return both(x, *others)

    def inputs():
        for call in range(6):
            if call == 4:
                b.add_(1.5)
                shift[0] = 1.5
            yield normal(2, 3, 7, 5)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.a, self.b = map(nn.Parameter, (w, a, b))

        def forward(self, x):
            return both(x, self.w, self.a, self.b)

    module = Both()
    w, a, b = module.w, module.a, module.b
    with mr.no_grad():
        assert_right(module, inputs(), expected, captured)


@pytest.mark.parametrize("grad", [False, True])
def test_batch_norms_that_share_their_statistics(grad):
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    first(mr.tensor(normal(4, 3, 5, 5)))
    second.running_mean, second.running_var = first.running_mean, first.running_var
    second.weight.data[...] = 3
    net = nn.Sequential(first, second).eval()
    captured = mr.capture(net)
    with mr.set_grad_enabled(grad):
        for _ in range(4):
            x = mr.tensor(normal(2, 3, 4, 5))
            np.testing.assert_array_equal(captured(x).detach().numpy(), net(x).detach().numpy())
            with mr.backend("numpy"):
                close(captured(x).detach().numpy(), net(x).detach().numpy(), "float32")

"""What changes from replay to replay of a CUDA graph: rates, random draws, labels out of range."""

from __future__ import annotations

import numpy as np
import pytest
from harness import host, raises, tensor

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError
from minires.nn import functional as F


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.standard_normal((6, 5)).astype(np.float32)
        yield tensor(x, dtype="float32"), tensor(rng.integers(0, 4, 6))


def network(drop=0.5):
    mr.manual_seed(1)
    layers = nn.Linear(5, 8), nn.ReLU(), nn.Dropout(drop), nn.Linear(8, 4)
    return nn.Sequential(*layers).to("cuda")


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "AdamW": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
}


def trained(make, captured, count=7):
    """Losses, parameters and the generator's state after steps whose rate changes each time."""
    net = network()
    optimizer = make(net.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(x, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return loss

    call = mr.capture(step, net, optimizer) if captured else step
    mr.manual_seed(2)
    losses = []
    for batch in batches(count):
        losses.append(call(*batch).item())
        schedule.step()
    if captured:
        assert repr(call).endswith("recordings=1)")
    return losses, [host(p) for p in net.parameters()], mr.random.get_state()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_rates_and_draws_are_those_of_the_function(make, on_gpu):
    expected, found = trained(make, False), trained(make, True)
    assert found[0] == expected[0]
    for a, b in zip(found[1], expected[1]):
        np.testing.assert_array_equal(a, b)
    assert found[2] == expected[2]
    assert found[2]["gpu"]["calls"] == {"cuda:0": 7}


def test_a_seed_between_replays_is_obeyed(on_gpu):
    drop = mr.capture(lambda x: F.dropout(x, 0.5))
    x = mr.ones(40, device="cuda")
    for k in range(3):
        drop(x * (k + 1))
    found = []
    for _ in range(2):
        mr.manual_seed(5)
        found.append([drop(x).tolist() for _ in range(2)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
    mr.manual_seed(5)
    assert F.dropout(x, 0.5).tolist() == found[0][0]


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "weighted": lambda x, n: F.cross_entropy(x, n, weight=mr.ones(4, device="cuda")),
    "nll_loss": lambda x, n: F.nll_loss(F.log_softmax(x, 1), n),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_wrong_label_is_an_error_at_first_and_nan_in_a_replay(loss, on_gpu):
    net = network(0.0)

    def step(x, labels):
        net.zero_grad()
        value = loss(net(x), labels)
        value.backward()
        return value

    call = mr.capture(step, net)
    (x, good), *others = batches(4)
    wrong = tensor([0, 1, 4, 2, 3, 0])
    with raises(ArgumentError, "expected labels in 0..3, got 4 at index 2", "Labels count from 0."):
        call(x, wrong)
    for batch in ((x, good), *others):
        assert np.isfinite(call(*batch).item())
    assert np.isnan(call(x, wrong).item())
    assert all(np.isnan(host(p.grad)).any() for p in net.parameters())
    assert np.isfinite(call(x, good).item())


def test_no_label_that_counts_is_nan_in_a_replay(on_gpu):
    call = mr.capture(lambda x, n: F.cross_entropy(x, n, ignore_index=3))
    ignored = tensor([3, 3])
    with raises(ArgumentError, "every label is ignore_index=3"):
        call(mr.ones(2, 4, device="cuda"), ignored)
    for k in range(4):
        x = tensor(np.arange(8.0).reshape(2, 4) * (k + 1))
        call(x, tensor([k % 2, 1]))
    assert np.isnan(call(x, ignored).item())


def test_index_arrays_in_a_graph(on_gpu):
    """Repeated entries are added in their order, in every replay."""
    x = nn.Parameter(tensor(np.random.default_rng(0).standard_normal((5, 3))))
    module = nn.Module()
    module.x = x

    def step(index, weights):
        module.zero_grad()
        y = (module.x[index] * weights).sum()
        y.backward()
        return y

    call = mr.capture(step, module)
    rng = np.random.default_rng(1)
    for _ in range(5):
        index, weights = rng.integers(0, 5, 9), rng.standard_normal((9, 3))
        call(tensor(index), tensor(weights))
        expected = np.zeros((5, 3))
        np.add.at(expected, index, weights)
        np.testing.assert_allclose(host(x.grad), expected, rtol=1e-12, atol=1e-12)
    assert repr(call).endswith("recordings=1)")

"""Averages of weights: against the definition, and against PyTorch where it is."""

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError, ShapeError
from minires.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn


def network():
    mr.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(12, 3))


def steps(net, averaged, n=5):
    """Train for n steps, averaging after each; the weights after each."""
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    seen = []
    for _ in range(n):
        optimizer.zero_grad()
        loss = mr.cross_entropy(net(mr.randn(4, 1, 5, 4)), mr.tensor([0, 2, 1, 0]))
        loss.backward()
        optimizer.step()
        averaged.update_parameters(net)
        seen.append({name: t.numpy().copy() for name, t in net.state_dict().items()})
    return seen


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.9, None])
def test_the_average_is_that_of_its_definition(decay, use_buffers):
    net = network()
    rule = get_swa_avg_fn() if decay is None else get_ema_avg_fn(decay)
    averaged = AveragedModel(net, rule, use_buffers=use_buffers)
    seen = steps(net, averaged)
    state = averaged.module.state_dict()
    for name in seen[0]:
        values = np.array([weights[name] for weights in seen], np.float64)
        buffer = "running" in name or "tracked" in name
        if (buffer and not use_buffers) or "tracked" in name:
            want = values[-1]
        elif decay is None:
            want = values.mean(axis=0)
        else:
            want = values[0]
            for value in values[1:]:
                want = decay * want + (1 - decay) * value
        np.testing.assert_allclose(state[name].numpy(), want, rtol=1e-5, atol=1e-7, err_msg=name)
    assert averaged.n_averaged.item() == 5
    assert not any(p.requires_grad for p in averaged.parameters())


def test_the_network_is_left_alone_and_the_copy_computes():
    net = network()
    net(mr.randn(4, 1, 5, 4))  # running statistics
    averaged = AveragedModel(net)
    before = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    averaged.update_parameters(net)
    assert all(np.array_equal(t.numpy(), before[name]) for name, t in net.state_dict().items())
    x = mr.randn(2, 1, 5, 4)
    with mr.no_grad():
        assert np.array_equal(averaged.eval()(x).numpy(), net.eval()(x).numpy())
    other = AveragedModel(network())
    other.load_state_dict(averaged.state_dict())
    assert other.n_averaged.item() == 1


def test_what_is_refused():
    averaged = AveragedModel(network())
    with raises(ArgumentError, "AveragedModel: expected a module, got 3"):
        AveragedModel(3)
    with raises(ArgumentError, "update_parameters: expected a module"):
        averaged.update_parameters({})
    with raises(ShapeError, "update_parameters: expected the parameters of the network"):
        averaged.update_parameters(nn.Linear(2, 2))
    with raises(ArgumentError, "decay"):
        get_ema_avg_fn(1.5)
    with raises(ArgumentError, "avg_fn to be called as"):
        AveragedModel(network(), avg_fn=0.9)


def test_it_is_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Linear(3, 2)
    ours = nn.Linear(3, 2)
    swa = torch.optim.swa_utils
    rules = [(None, None), (swa.get_ema_avg_fn(0.8), get_ema_avg_fn(0.8))]
    for their_rule, our_rule in rules:
        average = swa.AveragedModel(theirs, avg_fn=their_rule)
        own = AveragedModel(ours, our_rule)
        for seed in range(4):
            weights = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
            with torch.no_grad():
                theirs.weight.copy_(torch.from_numpy(weights))
            ours.weight.data[...] = weights
            average.update_parameters(theirs)
            own.update_parameters(ours)
        np.testing.assert_allclose(
            own.module.weight.numpy(), average.module.weight.detach().numpy(), rtol=1e-6
        )

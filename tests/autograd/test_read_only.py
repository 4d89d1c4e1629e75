"""What looks at read-only memory is refused before anything is written, by one wording."""

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError

SHAPE = (2, 3, 5, 4)


def mapped(tmp_path, values):
    """The values in a file, mapped for reading: a write there would end the process."""
    path = tmp_path / f"{len([*tmp_path.iterdir()])}.bin"
    values.tofile(path)
    return np.memmap(path, values.dtype, "r", shape=values.shape)


def of_bytes(tmp_path, values):
    """The values in a ``bytes`` object, which nobody may change."""
    return np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape)


def expanded(tmp_path, values):
    """One number for all entries, which NumPy marks as read-only."""
    return np.broadcast_to(values.reshape(-1)[0], values.shape)


def statistics():
    return {
        "running_mean": np.full(3, 0.25, np.float32),
        "running_var": np.full(3, 2, np.float32),
        "num_batches_tracked": np.array(7),
    }


@pytest.mark.parametrize("kind", [mapped, of_bytes, expanded])
@pytest.mark.parametrize("name", statistics())
@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_batch_norm_refuses_statistics_it_cannot_write(tmp_path, backend, name, kind):
    given = statistics()
    given[name] = kind(tmp_path, given[name])
    before = {key: array.copy() for key, array in given.items()}
    tensors = {key: mr.from_numpy(array) for key, array in given.items()}
    words = rf"batch_norm: {name} of shape \(.*\) looks at read-only.*Pass {name}\.clone\(\)\."
    with mr.backend(backend), pytest.raises(ArgumentError, match=words):
        mr.ops.batch_norm(mr.randn(*SHAPE), **tensors, training=True)
    for key, array in given.items():
        assert np.array_equal(array, before[key])
        assert tensors[key]._version.count == 0


def test_evaluation_only_reads_the_statistics(tmp_path):
    given = {key: mapped(tmp_path, array) for key, array in statistics().items()}
    x = mr.randn(*SHAPE)
    y = mr.ops.batch_norm(x, *[*map(mr.from_numpy, given.values())][:2])
    expected = mr.ops.batch_norm(x, *[*map(mr.tensor, statistics().values())][:2])
    assert np.array_equal(y.numpy(), expected.numpy())


@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam, optim.AdamW])
def test_an_optimizer_refuses_before_its_first_parameter_is_changed(tmp_path, rule):
    params = [mr.nn.Parameter(np.ones(3, np.float32)) for _ in range(2)]
    optimizer = rule([("first", params[0]), ("second", params[1])], lr=0.1)
    params[1].data = mapped(tmp_path, np.ones(3, np.float32))
    for p in params:
        p.grad = mr.ones(3)
    words = r"step: second of shape \(3,\) looks at read-only memory .*p\.data = p\.data\.copy\(\)"
    with pytest.raises(ArgumentError, match=words):
        optimizer.step()
    assert params[0].tolist() == params[1].tolist() == [1, 1, 1]
    assert not any(optimizer.state[p] for p in params)
    params[1].data = params[1].data.copy()  # what the message says
    optimizer.step()
    assert params[1].tolist() == params[0].tolist() != [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9), "momentum_buffer"),
        (lambda ps: optim.Adam(ps, lr=0.1), "exp_avg"),
        (lambda ps: optim.Adam(ps, lr=0.1), "exp_avg_sq"),
        (lambda ps: optim.Adam(ps, lr=0.1, amsgrad=True), "max_exp_avg_sq"),
    ],
)
def test_an_optimizer_refuses_state_it_cannot_write(tmp_path, make, kept):
    p = mr.nn.Parameter(np.ones(3, np.float32))
    optimizer = make([p])
    p.grad = mr.ones(3)
    optimizer.step()
    before = p.detach().clone()
    optimizer.state[p][kept] = mapped(tmp_path, optimizer.state[p][kept])
    with pytest.raises(ArgumentError, match=rf"{kept} of parameter 0 of shape \(3,\) looks at"):
        optimizer.step()
    assert p.tolist() == before.tolist()


def two_parameters(tmp_path):
    """One whose gradient can be written, and one whose gradient cannot."""
    params = [mr.nn.Parameter(np.ones(3, np.float32)) for _ in range(2)]
    params[0].grad = mr.full((3,), 3.0)
    params[1].grad = mr.from_numpy(mapped(tmp_path, np.full(3, 4, np.float32)))
    return params


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda ps: nn.utils.clip_grad_norm_(ps, 1.0), r"clip_grad_norm_: a gradient.*p\.grad\.cl"),
        (lambda ps: nn.utils.clip_grad_value_(ps, 1.0), r"clip_grad_value_: a gradient"),
        (lambda ps: optim.SGD(ps, 0.1).zero_grad(set_to_none=False), r"SGD.zero_grad: a gradient"),
    ],
)
def test_gradients_stay_where_one_of_them_cannot_be_written(tmp_path, act, words):
    params = two_parameters(tmp_path)
    gradients = [p.grad for p in params]
    with pytest.raises(ArgumentError, match=words):
        act(params)
    assert [p.grad.tolist() for p in params] == [[3, 3, 3], [4, 4, 4]]
    assert all(p.grad is gradient for p, gradient in zip(params, gradients))


def test_a_gradient_that_cannot_be_written_is_replaced_by_the_sum(tmp_path):
    params = two_parameters(tmp_path)
    (params[0].sum() + params[1].sum()).backward()
    assert [p.grad.tolist() for p in params] == [[4, 4, 4], [5, 5, 5]]


def test_load_state_dict_loads_all_or_nothing(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm2d(3))
    start = {name: t.clone() for name, t in net.state_dict().items()}
    net[1].running_var.data = mapped(tmp_path, np.ones(3, np.float32))
    other = {name: t * 0 + 5 for name, t in start.items()}
    words = r"load_state_dict: 1\.running_var of shape \(3,\) looks at read-only"
    with pytest.raises(ArgumentError, match=words):
        net.load_state_dict(other)
    for name, t in net.state_dict().items():
        assert np.array_equal(t.numpy(), start[name].numpy())
    net[1].running_var.data = net[1].running_var.data.copy()
    net.load_state_dict(other)
    assert net[1].running_var.tolist() == [5, 5, 5]


def test_a_state_dict_may_be_read_only(tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    state = {name: mapped(tmp_path, t.numpy()) for name, t in other.state_dict().items()}
    net.load_state_dict(state)
    assert np.array_equal(net.weight.data, other.weight.data)
    net.weight.data[...] = 0  # it is a copy


@pytest.mark.parametrize("fill", ["zeros_", "ones_", "normal_", "xavier_uniform_", "trunc_normal_"])
def test_initialisers_refuse(tmp_path, fill):
    x = mr.from_numpy(mapped(tmp_path, np.full((3, 2), 2, np.float32)))
    for target in (x, x.data):
        with pytest.raises(ArgumentError, match=r"init: this tensor of shape \(3, 2\) looks at"):
            getattr(nn.init, fill)(target)
    assert (x.data == 2).all()


def frozen_net(tmp_path):
    """A network whose first layer lies in a file, as a large one may, and is not trained."""
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    for p in net[0].parameters():
        p.data = mapped(tmp_path, p.numpy())
    return net


@pytest.mark.parametrize("captured", [False, True])
def test_weights_in_a_file_serve_a_network_whose_other_layers_train(tmp_path, captured):
    mr.manual_seed(0)
    net = frozen_net(tmp_path)
    optimizer = optim.SGD(net[2].parameters(), lr=0.1, momentum=0.9)
    first = [p.data.copy() for p in net[0].parameters()]

    def step(x):
        optimizer.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    run = mr.capture(step, net, optimizer) if captured else step
    losses = [run(mr.ones(5, 4)).item() for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(np.array_equal(p.data, a) for p, a in zip(net[0].parameters(), first))


def test_a_captured_step_refuses_statistics_that_became_read_only(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    step = mr.capture(lambda x: net(x), net)
    x = mr.randn(*SHAPE)
    for _ in range(4):
        step(x)
    before = net[0].running_mean.data.copy()
    net[0].running_mean.data = mapped(tmp_path, before)
    with pytest.raises(ArgumentError, match="batch_norm: running_mean"):
        step(x)
    assert np.array_equal(net[0].running_mean.data, before)


def test_a_check_of_gradients_takes_a_module_in_a_file(tmp_path):
    net = nn.BatchNorm2d(3).double().eval()
    for t in net.state_dict().values():
        t.requires_grad_(False)
    for name, t in net.named_buffers():
        t.data = mapped(tmp_path, t.numpy() + (1 if "var" in name else 0))
    x = mr.randn(2, 3, 2, 2, dtype="float64", requires_grad=True)
    report = mr.gradcheck.check_module(net, x)
    assert report.ok, str(report)

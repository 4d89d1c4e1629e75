"""SyncBatchNorm in a process on its own, where it is batch norm; and networks that get it.

What it does in a group of several is in ``tests/distributed/test_sync_batch_norm.py``.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import identity, models, nn
from minires.errors import ArgumentError, DTypeError, ShapeError

convert = nn.SyncBatchNorm.convert_sync_batchnorm


def rand(*shape, seed=0):
    return mr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def step(net, x, gy, optimizer=None):
    """One step's output and gradients, as bytes."""
    net.zero_grad()
    t = mr.tensor(x, requires_grad=True)
    y = net(t)
    y.backward(gy)
    if optimizer is not None:
        optimizer.step()
    state = [v.numpy().tobytes() for v in net.state_dict().values()]
    return [y.detach().numpy().tobytes(), t.grad.numpy().tobytes(), *state]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: models.cifar_resnet(8), lambda: nn.Sequential(nn.BatchNorm2d(3))]
)
def test_alone_it_is_batch_norm_to_the_bit(make, training):
    mr.manual_seed(0)
    plain = make()
    sync = convert(copy.deepcopy(plain))
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 6)).astype(np.float32)
    for net in (plain, sync):
        step(net, x, rand(*net(mr.tensor(x)).shape, seed=2))  # statistics that are not the first
        net.train(training)
    gy = rand(*plain(mr.tensor(x)).shape, seed=3)
    sync(mr.tensor(x))
    assert step(plain, x, gy) == step(sync, x, gy)


def test_alone_its_steps_are_captured():
    """A captured step gives what the plain one does, and batch norm's."""
    results = []
    for captured, sync in ((False, False), (False, True), (True, True)):
        mr.manual_seed(0)
        net = models.cifar_resnet(8)
        net = convert(net) if sync else net
        optimizer = mr.optim.SGD(net.parameters(), 0.05, momentum=0.9)

        def learn(x, net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        learn = mr.capture(learn, net, optimizer) if captured else learn
        losses = [learn(rand(4, 3, 8, 6, seed=i)).item() for i in range(5)]
        results.append((losses, [v.numpy().tobytes() for v in net.state_dict().values()]))
        assert not captured or "recordings=1" in repr(learn)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 6), (2, 3, 4, 5), (2, 3, 2, 1, 4)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_numbers_of_dimensions_and_derivatives(shape, training):
    layer = nn.SyncBatchNorm(3).double().train(training)
    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        tensor.data[...] = np.random.default_rng(5).uniform(0.5, 1.5, 3)
        tensor.bump_version()
    x = np.random.default_rng(0).standard_normal(shape)
    with mr.no_grad():
        y = layer(mr.tensor(x)).numpy()
    axes = (0, *range(2, len(shape)))
    wide = (1, 3, *[1] * (len(shape) - 2))
    if training:
        mean, var = x.mean(axes).reshape(wide), x.var(axes).reshape(wide)
    else:
        mean, var = (t.numpy().reshape(wide) for t in (layer.running_mean, layer.running_var))
    w, b = (t.detach().numpy().reshape(wide) for t in (layer.weight, layer.bias))
    np.testing.assert_allclose(y, w * (x - mean) / np.sqrt(var + 1e-5) + b, atol=1e-12)
    assert mr.gradcheck.check_module(layer, mr.tensor(x, requires_grad=True))


def test_second_derivatives_alone_are_batch_norms():
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    found = []
    for layer in (nn.BatchNorm2d(2).double(), nn.SyncBatchNorm(2).double()):
        t = mr.tensor(x, requires_grad=True)
        (gx,) = mr.grad((layer(t) ** 3).sum(), t, create_graph=True)
        found.append(mr.grad((gx**2).sum(), t)[0].numpy())
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0]).max() > 0


def test_a_network_keeps_all_but_the_class():
    net = models.resnet18()
    before = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    names, total = list(net.state_dict()), repr(net)
    net.layer1.eval()
    assert convert(net) is net
    after = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert list(net.state_dict()) == names
    assert all(after[name] is tensor for name, tensor in before.items())
    assert len(before) == len(after)
    assert total.replace("BatchNorm2d(", "SyncBatchNorm(") == repr(net)
    kinds = {type(m).__name__ for m in net.modules() if "BatchNorm" in type(m).__name__}
    assert kinds == {"SyncBatchNorm"}
    assert [m.training for m in (net.bn1, net.layer1[0].bn1)] == [True, False]


def test_options_and_statistics_are_kept():
    layer = nn.BatchNorm1d(4, eps=1e-3, momentum=None, affine=False)
    layer(rand(6, 4))
    twin = convert(layer)
    assert type(twin) is nn.SyncBatchNorm
    assert (twin.num_features, twin.eps, twin.momentum, twin.affine) == (4, 1e-3, None, False)
    assert twin.running_var is layer.running_var
    assert twin.num_batches_tracked.item() == 1
    assert twin.process_group is None
    assert convert(twin) is twin


def test_hooks_go_along_and_can_still_be_taken_away():
    layer, seen = nn.BatchNorm2d(2), []
    handle = layer.register_forward_hook(lambda m, x, y: seen.append(type(m).__name__))
    net = convert(nn.Sequential(layer))
    net(rand(2, 2, 3, 3))
    handle.remove()
    net(rand(2, 2, 3, 3))
    assert seen == ["SyncBatchNorm"]


def test_one_layer_in_two_places_stays_one():
    layer = nn.BatchNorm2d(2)
    net = convert(nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer)))
    assert net[0] is net[2][0]
    assert type(net[0]) is nn.SyncBatchNorm


def test_an_optimiser_from_before_goes_on():
    net = nn.Sequential(nn.BatchNorm2d(2))
    optimizer = mr.optim.SGD(net.parameters(), 0.5)
    convert(net)
    net(rand(3, 2, 2, 2)).sum().backward()
    before = net[0].bias.detach().numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(net[0].bias.detach().numpy(), before - 0.5 * 12)


def test_copies_and_files():
    net = convert(models.cifar_resnet(8))
    plain = models.cifar_resnet(8)
    plain.load_state_dict(net.state_dict())  # the names are batch norm's
    net.load_state_dict(plain.state_dict())
    x = rand(2, 3, 8, 8)
    expected = net(x).detach().numpy()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin.bn1) is nn.SyncBatchNorm
        np.testing.assert_array_equal(twin(x).detach().numpy(), expected)


def test_a_network_can_be_made_with_it():
    net = models.cifar_resnet(8, norm_layer=nn.SyncBatchNorm)
    assert type(net.layer1[0].bn1) is nn.SyncBatchNorm


def test_summary_and_export_see_batch_norm(tmp_path):
    plain = models.cifar_resnet(8)
    plain(rand(2, 3, 8, 8))  # for statistics
    sync = convert(copy.deepcopy(plain))
    text = str(nn.summary(plain, (1, 3, 8, 8)))
    shown = str(nn.summary(sync, (1, 3, 8, 8)))
    assert shown.replace("SyncBatchNorm", "BatchNorm2d").split() == text.split()
    pytest.importorskip("onnx")
    files = []
    for net in (plain, sync):
        mr.export_onnx(net, rand(1, 3, 8, 8), tmp_path / "net.onnx")
        files.append((tmp_path / "net.onnx").read_bytes())
    assert files[0] == files[1]
    assert b"BatchNormalization" in files[0]


@pytest.mark.parametrize("kind", [models.BasicBlock, models.PreActBlock])
def test_the_identity_path_is_proven_of_blocks_with_it(kind):
    block, x = identity.example(kind)
    before = block.bn1.running_mean.numpy().copy()
    identity.calibrate(convert(block), x.detach() + 3)
    assert (block.bn1.running_mean.numpy() != before).all()
    assert identity.prove_block(block, x).ok


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return x


ERRORS = {
    "group": (
        lambda: nn.SyncBatchNorm(3, process_group=object()),
        ArgumentError,
        "SyncBatchNorm: expected process_group=None, got object. Leave it out: there is one "
        "group, of all ranks.",
    ),
    "group of convert": (
        lambda: convert(nn.ReLU(), "world"),
        ArgumentError,
        "convert_sync_batchnorm: expected process_group=None, got str. Leave it out",
    ),
    "no module": (
        lambda: convert([nn.BatchNorm2d(2)]),
        DTypeError,
        "convert_sync_batchnorm: expected a Module, got list",
    ),
    "lazy": (
        lambda: convert(nn.Sequential(nn.LazyBatchNorm2d())),
        ArgumentError,
        "convert_sync_batchnorm: expected batch norms that know their channels, got a "
        "LazyBatchNorm2d that does not. Call the network once",
    ),
    "lazy, without tensors": (
        lambda: convert(nn.LazyBatchNorm1d(affine=False, track_running_stats=False)),
        ArgumentError,
        "a LazyBatchNorm1d that does not",
    ),
    "own": (
        lambda: convert(nn.Sequential(Own(3))),
        ArgumentError,
        "convert_sync_batchnorm: expected batch norms as they are, got Own, with a forward of its "
        "own. Derive it from nn.SyncBatchNorm instead.",
    ),
    "channels": (
        lambda: nn.SyncBatchNorm(3)(mr.zeros(2, 4)),
        ShapeError,
        "SyncBatchNorm(3): expected x of shape (n, 3) or (n, 3, l) or (n, 3, h, w) or "
        "(n, 3, d, h, w), got shape (2, 4)",
    ),
    "dimensions": (
        lambda: nn.SyncBatchNorm(3)(mr.zeros(3)),
        ShapeError,
        "SyncBatchNorm(3): expected x of shape (n, 3)",
    ),
    "features": (
        lambda: nn.SyncBatchNorm(0),
        ArgumentError,
        "SyncBatchNorm: expected num_features",
    ),
    "one value": (
        lambda: nn.SyncBatchNorm(3)(mr.zeros(1, 3)),
        ShapeError,
        "batch_norm: expected more than one value per channel in training",
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors(case):
    call, kind, text = case
    with raises(kind, text):
        call()


def test_lazy_batch_norms_that_have_seen_an_input_are_converted():
    net = nn.Sequential(nn.LazyBatchNorm2d())
    net(rand(2, 3, 4, 4))
    assert type(convert(net)[0]) is nn.SyncBatchNorm


def test_a_refused_conversion_changes_nothing():
    net = nn.Sequential(nn.BatchNorm2d(3), Own(3))
    with raises(ArgumentError, "Own"):
        convert(net)
    assert type(net[0]) is nn.BatchNorm2d

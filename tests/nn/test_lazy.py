"""Lazy layers: uninitialized until the first input, plain layers from then on."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError, CheckpointError, ShapeError, UninitializedError
from minires.nn import functional as F

IMAGES = (2, 3, 7, 5)
LAYERS = {
    "LazyLinear": (lambda: nn.LazyLinear(4), (2, 3, 5), nn.Linear, ("in_features", 5)),
    "no bias": (lambda: nn.LazyLinear(4, bias=False), (2, 5), nn.Linear, ("in_features", 5)),
    "LazyConv2d": (
        lambda: nn.LazyConv2d(6, (3, 2), 2, 1, 1, 3),
        IMAGES,
        nn.Conv2d,
        ("in_channels", 3),
    ),
    "LazyConv1d": (
        lambda: nn.LazyConv1d(4, 3, padding="same", bias=False),
        (2, 3, 7),
        nn.Conv1d,
        ("in_channels", 3),
    ),
    "LazyBatchNorm2d": (nn.LazyBatchNorm2d, IMAGES, nn.BatchNorm2d, ("num_features", 3)),
    "statistics only": (
        lambda: nn.LazyBatchNorm2d(affine=False),
        IMAGES,
        nn.BatchNorm2d,
        ("num_features", 3),
    ),
    "neither": (
        lambda: nn.LazyBatchNorm2d(affine=False, track_running_stats=False),
        IMAGES,
        nn.BatchNorm2d,
        ("num_features", 3),
    ),
    "LazyBatchNorm1d": (nn.LazyBatchNorm1d, (4, 3), nn.BatchNorm1d, ("num_features", 3)),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def residual():
    """The book's residual block, with lazy layers."""

    class Residual(nn.Module):
        def __init__(self, num_channels, use_1x1conv=False, strides=1):
            super().__init__()
            self.conv1 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1, stride=strides)
            self.conv2 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
            self.conv3 = None
            if use_1x1conv:
                self.conv3 = nn.LazyConv2d(num_channels, kernel_size=1, stride=strides)
            self.bn1 = nn.LazyBatchNorm2d()
            self.bn2 = nn.LazyBatchNorm2d()

        def forward(self, X):
            Y = F.relu(self.bn1(self.conv1(X)))
            Y = self.bn2(self.conv2(Y))
            if self.conv3:
                X = self.conv3(X)
            Y += X
            return F.relu(Y)

    return nn.Sequential(
        nn.LazyConv2d(4, kernel_size=3, padding=1),
        nn.LazyBatchNorm2d(),
        nn.ReLU(),
        Residual(4),
        Residual(8, use_1x1conv=True, strides=2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def lazies(net):
    tensors = (*net.parameters(), *net.buffers())
    kinds = nn.UninitializedParameter | nn.UninitializedBuffer
    return sum(isinstance(tensor, kinds) for tensor in tensors)


@each_layer
def test_the_first_input_makes_it_the_plain_layer(name):
    make, shape, plain, (attribute, size) = LAYERS[name]
    layer = make()
    parameters = [*layer.parameters()]
    assert type(layer) is not plain
    assert getattr(layer, attribute) == 0
    assert all(isinstance(p, nn.UninitializedParameter) for p in parameters)
    assert layer.has_uninitialized_params() == bool(lazies(layer))
    mr.manual_seed(3)
    y = layer(mr.randn(shape))
    assert type(layer) is plain
    assert getattr(layer, attribute) == size
    assert [*layer.parameters()] == parameters, "the same objects"
    assert all(type(p) is nn.Parameter and p.requires_grad for p in parameters)
    if parameters:
        y.sum().backward()
    assert all(p.grad.shape == p.shape for p in parameters)
    assert repr(layer) == repr(copy.deepcopy(layer))
    assert repr(layer).startswith(f"{plain.__name__}(")


@pytest.mark.parametrize(
    ("lazy", "plain", "shape"),
    [
        (lambda: nn.LazyLinear(4), lambda: nn.Linear(5, 4), (2, 5)),
        (lambda: nn.LazyConv2d(4, 3, groups=1), lambda: nn.Conv2d(3, 4, 3), IMAGES),
        (lambda: nn.LazyConv1d(4, 3), lambda: nn.Conv1d(3, 4, 3), (2, 3, 7)),
        (lambda: nn.LazyBatchNorm2d(0.1, 0.3), lambda: nn.BatchNorm2d(3, 0.1, 0.3), IMAGES),
    ],
)
def test_values_are_those_of_the_plain_layer_of_the_same_seed(lazy, plain, shape):
    x, layer = mr.randn(shape), lazy()
    mr.manual_seed(7)
    y = layer(x)
    mr.manual_seed(7)
    other = plain()
    np.testing.assert_array_equal(y.detach().numpy(), other(x).detach().numpy())
    assert layer.state_dict().keys() == other.state_dict().keys()
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(layer.state_dict()[key].numpy(), value.numpy())


def test_a_batch_norm_that_is_evaluated_first_warns_that_it_normalises_nothing():
    layer = nn.LazyBatchNorm2d().eval()
    with pytest.warns(UserWarning, match="BatchNorm2d: running statistics have never been updated"):
        layer(mr.randn(IMAGES))


def test_repr_before():
    assert repr(nn.LazyLinear(4)) == "LazyLinear(in_features=0, out_features=4, bias=True)"
    assert repr(nn.LazyConv2d(4, 3)) == "LazyConv2d(0, 4, kernel_size=(3, 3), stride=(1, 1))"
    assert repr(nn.LazyBatchNorm1d()).startswith("LazyBatchNorm1d(0, eps=1e-05, momentum=0.1")
    layer = nn.LazyLinear(2)
    assert repr(layer.weight) == "<UninitializedParameter>"
    assert repr(layer.state_dict()["bias"]) == "<UninitializedParameter>"
    assert repr(nn.LazyBatchNorm2d().running_mean) == "<UninitializedBuffer>"


LOOKS = {
    "shape": lambda p: p.shape,
    "size": lambda p: p.size(),
    "ndim": lambda p: p.ndim,
    "numel": lambda p: p.numel(),
    "len": len,
    "item": lambda p: p.item(),
    "data": lambda p: p.data,
    "numpy": lambda p: p.requires_grad_(False).numpy(),
    "tolist": lambda p: p.tolist(),
    "+": lambda p: p + 1,
    "sum": lambda p: p.sum(),
    "index": lambda p: p[0],
    "clone": lambda p: p.clone(),
    "matmul": lambda p: mr.ones(2, 2) @ p,
    "relu": F.relu,
    "copy_": lambda p: p.copy_(mr.ones(1)),
    "init": lambda p: nn.init.kaiming_normal_(p),
    "zeros_": lambda p: nn.init.zeros_(p),
    "backward": lambda p: p.backward(),
    "tensor": lambda p: mr.tensor(p),
    "ones_like": lambda p: mr.ones_like(p),
    "grad": lambda p: setattr(p, "grad", mr.ones(1)),
    "dlpack": lambda p: p.requires_grad_(False).__dlpack__(),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", [nn.UninitializedParameter, nn.UninitializedBuffer])
def test_nobody_sees_values_before(kind, look):
    words = f"{kind.__name__}: expected values, got none yet.*Call the network once, on a batch or"
    for error in (UninitializedError, ValueError, RuntimeError):  # PyTorch raises either
        with pytest.raises(error, match=words):
            LOOKS[look](kind())


def test_what_can_be_known_of_it_before():
    p = nn.UninitializedParameter(requires_grad=False, dtype="float64")
    assert (p.dtype, p.device, p.requires_grad, p.is_leaf) == (
        np.float64,
        mr.device("cpu"),
        False,
        True,
    )
    assert p.detach() is p
    assert p.is_floating_point()
    p.materialize((2, 3))
    assert (type(p), p.shape, p.dtype, p.requires_grad) == (nn.Parameter, (2, 3), np.float64, False)
    b = nn.UninitializedBuffer()
    b.materialize((2,))
    assert type(b) is mr.Tensor
    assert b.tolist() == [0, 0]
    with pytest.raises(ArgumentError, match="requires_grad True or False"):
        nn.UninitializedParameter(3)


@each_layer
def test_copies_and_pickles_wait_too(name):
    make, shape, plain, _ = LAYERS[name]
    layer, x = make(), mr.randn(shape)
    waiting = lazies(layer)
    others = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    results = []
    for each in (layer, *others):
        assert type(each) is not plain
        assert lazies(each) == waiting
        mr.manual_seed(1)
        results.append(each(x).detach().numpy())
        assert type(each) is plain
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_conversion_freezing_and_modes_before():
    net = residual().double().requires_grad_(False).eval()
    net[0].weight.requires_grad = True
    net.zero_grad()
    assert all(p.dtype == np.float64 for p in net.parameters())
    net.train()(mr.randn(2, 3, 8, 8, dtype="float64"))
    assert not lazies(net)
    assert all(p.dtype == np.float64 for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [True] + [False] * 23


@each_layer
def test_a_failed_first_call_leaves_it_as_it_was(name):
    make, shape, _, (attribute, _) = LAYERS[name]
    layer = make()
    before, many = repr(layer), lazies(layer)
    hook = layer.register_forward_hook(lambda *_: 1 / 0)
    bad = [
        (mr.zeros(()), ShapeError),
        ("text", TypeError),
        (mr.randn(shape), ZeroDivisionError),
    ]
    for x, error in bad:
        with pytest.raises(error):
            layer(x)
        assert (repr(layer), lazies(layer), getattr(layer, attribute)) == (before, many, 0)
        assert all(p.grad is None for p in layer.parameters())
    with pytest.raises(TypeError, match="forward"):
        layer()
    hook.remove()
    mr.manual_seed(0)
    x = mr.randn(shape)
    fresh = make()
    mr.manual_seed(1)
    y = layer(x)
    mr.manual_seed(1)
    np.testing.assert_array_equal(y.detach().numpy(), fresh(x).detach().numpy())


def test_what_an_input_must_be():
    cases = [
        (
            nn.LazyLinear(3),
            mr.tensor(1.0),
            r"LazyLinear: expected x of shape \(\.\.\., in_features",
        ),
        (nn.LazyConv2d(3, 2), mr.zeros(2, 3), r"LazyConv2d: expected x of shape \(n, c_in, h, w\)"),
        (nn.LazyConv1d(3, 2), mr.zeros(2), r"LazyConv1d: expected x of shape \(n, c_in, l\)"),
        (nn.LazyConv2d(4, 2, groups=2), mr.zeros(1, 3, 4, 4), r"divisible by groups=2, got 3"),
        (nn.LazyConv2d(4, 5), mr.zeros(1, 3, 4, 4), "a kernel no larger than the padded input"),
        (
            nn.LazyBatchNorm2d(),
            mr.zeros(2, 3),
            r"LazyBatchNorm2d\(c\): expected x of shape \(n, c, h",
        ),
        (
            nn.LazyBatchNorm1d(),
            mr.zeros(2, 3, 1, 1),
            r"of shape \(n, c\) or \(n, c, l\), got shape",
        ),
    ]
    for layer, x, words in cases:
        with pytest.raises((ShapeError, ArgumentError), match=words):
            layer(x)
        assert layer.has_uninitialized_params()
    with pytest.raises(ArgumentError, match="LazyConv2d: expected kernel_size"):
        nn.LazyConv2d(3, 0)
    with pytest.raises(ArgumentError, match="out_features an integer >= 1"):
        nn.LazyLinear(0)
    with pytest.raises(ArgumentError, match="in_features an integer >= 1, got 0"):
        nn.Linear(0, 3)
    with pytest.raises(ArgumentError, match="in_channels an integer >= 1, got 0"):
        nn.Conv2d(0, 3, 3)
    with pytest.raises(ArgumentError, match="num_features an integer >= 1, got 0"):
        nn.BatchNorm2d(0)


def test_hooks_and_keyword_arguments_see_the_first_call():
    seen, layer = [], nn.LazyLinear(2)
    layer.register_forward_pre_hook(lambda m, args: seen.append(type(m)))
    layer(mr.ones(1, 3))
    assert seen == [nn.Linear]
    assert nn.LazyLinear(2)(x=mr.ones(1, 3)).shape == (1, 2)


def test_loading_before_the_first_call():
    """Shapes come from what is loaded; the first input then only makes the layers plain."""
    x, trained, net = mr.randn(4, 3, 8, 8), residual(), residual()
    trained(x)
    net.load_state_dict(trained.state_dict())
    assert not lazies(net)
    assert type(net[0]) is nn.LazyConv2d
    assert not net[0].has_uninitialized_params()
    results = [net.eval()(x).detach().numpy() for net in (net, trained)]
    np.testing.assert_array_equal(*results)
    assert type(net[0]) is nn.Conv2d
    assert (net[0].in_channels, net[1].num_features, net[-1].in_features) == (3, 4, 8)


def test_a_loaded_layer_refuses_what_does_not_fit_it_and_keeps_what_was_loaded():
    layer = nn.LazyLinear(2)
    layer.load_state_dict(nn.Linear(3, 2).state_dict())
    kept = layer.weight.detach().numpy().copy()
    with pytest.raises(ShapeError, match="linear"):
        layer(mr.zeros(1, 4))
    np.testing.assert_array_equal(layer.weight.detach().numpy(), kept)
    assert layer(mr.zeros(1, 3)).shape == (1, 2)


def test_what_is_missing_of_a_state_is_drawn_and_the_rest_stays():
    state = nn.Linear(3, 2).state_dict()
    layer = nn.LazyLinear(2)
    layer.load_state_dict({"weight": state["weight"]}, strict=False)
    layer(mr.zeros(1, 3))
    np.testing.assert_array_equal(layer.weight.detach().numpy(), state["weight"].numpy())
    assert (layer.bias.detach().numpy() != 0).all()
    layer = nn.LazyLinear(2)
    layer.load_state_dict({"bias": state["bias"]}, strict=False)
    layer(mr.zeros(1, 3))
    np.testing.assert_array_equal(layer.bias.detach().numpy(), state["bias"].numpy())
    assert (layer.weight.detach().numpy() != 0).any()


def test_states_that_do_not_fit_are_refused_and_nothing_is_loaded():
    net = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    bad = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    with pytest.raises(
        CheckpointError, match=r"0\.weight \(model not initialized yet, given \(4, 3\) float32\)"
    ):
        net.load_state_dict(bad)
    assert lazies(net) == 6
    net.load_state_dict(net.state_dict())  # neither has a shape: nothing to do
    assert lazies(net) == 6
    plain = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    kept = plain[0].weight.detach().numpy().copy()
    with pytest.raises(CheckpointError, match=r"given not initialized yet[\s\S]*call the network"):
        plain.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(plain[0].weight.detach().numpy(), kept)


def test_saving_before_the_first_call_is_refused(tmp_path):
    with pytest.raises(UninitializedError, match="Call the network once"):
        mr.save(residual(), tmp_path / "net.safetensors")
    assert not [*tmp_path.iterdir()]


def step(net, optimizer, x):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), mr.arange(len(x)))
    loss.backward()
    optimizer.step()
    return loss


def test_an_optimiser_may_be_made_before_the_first_call():
    """As in PyTorch, whose parameters stay the same objects too. A step before says what to do."""
    x, results = mr.randn(4, 3, 8, 8), []
    for early in (True, False):
        mr.manual_seed(0)
        net = residual()
        if not early:
            net(x)
            net.load_state_dict(results[0][1])
        optimizer = optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9)
        if early:
            words = "SGD.step: expected parameters with gradients, got 24 of lazy layers"
            with pytest.raises(UninitializedError, match=words):
                optimizer.step()
            assert optimizer.state_dict()["state"] == {}
            net(x)
            start = {k: v.clone() for k, v in net.state_dict().items()}
        losses = [step(net, optimizer, x).item() for _ in range(3)]
        results.append((losses, start))
    assert results[0][0] == results[1][0]
    assert results[0][0][2] < results[0][0][0]
    words = "SGD: expected each parameter once, got parameter 1 of unknown shape a second time"
    p = nn.UninitializedParameter()
    with pytest.raises(ArgumentError, match=words):
        optim.SGD([p, p], lr=0.1)


def test_a_captured_step_with_lazy_layers():
    x, results = mr.randn(4, 3, 8, 8), []
    for captured in (False, True):
        mr.manual_seed(0)
        net = residual()
        optimizer = optim.SGD(net.parameters(), lr=0.1)

        def train(x, net=net, optimizer=optimizer):
            return step(net, optimizer, x)

        call = mr.capture(train, net, optimizer) if captured else train
        results.append([call(x).item() for _ in range(5)])
    assert results[0] == results[1]


def test_summary_and_draw_leave_the_network_waiting(tmp_path):
    net = residual()
    mr.manual_seed(5)
    seen = mr.summary(net, (2, 3, 8, 8))
    mr.draw(net, (2, 3, 8, 8), tmp_path / "net.dot")
    assert lazies(net) == 34
    drawn = mr.rand(1).item()
    mr.manual_seed(5)
    assert mr.rand(1).item() == drawn, "the random state is as it was"
    net(mr.zeros(2, 3, 8, 8))
    assert str(mr.summary(net, (2, 3, 8, 8))) == str(seen)
    assert seen.total_params == sum(p.numel() for p in net.parameters())


def test_export_does_not_make_weights_up():
    pytest.importorskip("onnx")
    with pytest.raises(UninitializedError, match="Call the network once"):
        mr.export_onnx(residual(), mr.zeros(1, 3, 8, 8), "net.onnx")


def test_on_a_gpu_before_the_first_call(on_gpu, tmp_path):
    """Moved while it waits, it becomes a layer of the GPU; its values are those of the CPU."""
    x, results = mr.randn(2, 3, 5, 5), []
    for device in ("cpu", "cuda"):
        mr.manual_seed(0)
        net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten())
        net.append(nn.LazyLinear(2)).to(device)
        waiting = [p.device.type for p in (*net.parameters(), *net.buffers())]
        assert waiting == [device] * len(waiting)
        summary = mr.summary(net, (2, 3, 5, 5))
        net(x.to(device)).sum().backward()
        assert {p.device.type for p in (*net.parameters(), *net.buffers())} == {device}
        optim.SGD(net.parameters(), lr=0.1).step()
        mr.save({"net": net.state_dict(), "tied": [net[0].weight] * 2}, tmp_path / "net.pth")
        results.append((str(summary), mr.load(tmp_path / "net.pth")))
    assert results[0][0] == results[1][0]
    for name, value in results[0][1]["net"].items():
        found = results[1][1]["net"][name].numpy()
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-4, atol=1e-5)
    assert results[1][1]["tied"][0] is results[1][1]["tied"][1]

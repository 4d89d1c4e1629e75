"""``minires.show``: numbers against computations by hand, and networks left as they were."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import minires as mr
from minires import nn
from minires.errors import (
    ArgumentError,
    DataError,
    DTypeError,
    GraphError,
    ShapeError,
    UninitializedError,
)
from minires.gradcheck import numeric_jacobian
from minires.models import BasicBlock, cifar_plain, cifar_resnet
from minires.train import Trained
from minires.train.trained import Facts


class Net(nn.Module):
    """A convolution with maps of 5 x 7, a block, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.block = BasicBlock(4, 4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)
        self.unused = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        x = self.block(self.relu(self.conv1(x)))
        return self.fc(self.drop(x.mean((2, 3))))


@pytest.fixture(scope="module")
def _made():
    mr.manual_seed(1)
    net = Net()
    net(mr.randn(4, 3, 5, 7))  # statistics of its own
    return net


@pytest.fixture
def net(_made):
    """A network in training mode; afterwards it must be as before, with the random state."""
    state = {name: value.clone() for name, value in _made.state_dict().items()}
    grads = [p.grad for p in _made.parameters()]
    modes = [m.training for m in _made.modules()]
    random = mr.random.get_state()
    yield _made
    assert repr(mr.random.get_state()) == repr(random)
    for name, value in _made.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name].numpy(), err_msg=name)
    assert all(p.grad is grad for p, grad in zip(_made.parameters(), grads))
    assert [m.training for m in _made.modules()] == modes
    assert not any(m._forward_hooks for m in _made.modules())


def example(*shape, seed=0):
    return mr.tensor(np.random.default_rng(seed).standard_normal(shape), dtype="float32")


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


# -- filters -------------------------------------------------------------------------------------


def test_filters_are_the_weights(net):
    for shown in (mr.show.filters(net), mr.show.filters(net.conv1), mr.show.filters(net, "conv1")):
        np.testing.assert_array_equal(shown.weights, net.conv1.weight.detach().numpy())
        assert not np.shares_memory(shown.weights, net.conv1.weight.detach().numpy())
    assert mr.show.filters(net).layer == "conv1"
    assert mr.show.filters(net, net.block.conv2).layer == "block.conv2"


@pytest.mark.parametrize(
    ("layer", "note"),
    [
        (nn.Conv2d(3, 70, (3, 2)), "70 filters of 3 channels, 3 × 2; the first 64 are drawn"),
        (nn.Conv2d(20, 3, 5), "3 filters of 20 channels, 5 × 5; the first 3 and 16 are drawn"),
        (nn.Conv2d(5, 9, 1), "9 filters of 5 channels, 1 × 1"),
        (nn.Conv2d(8, 8, 3, groups=8), "8 filters of 1 channel, 3 × 3"),
        (nn.Conv1d(2, 6, 4), "6 filters of 2 channels, 1 × 4"),
        (nn.LazyConv2d(4, 3), None),
    ],
)
def test_filters_of_any_shape(layer, note):
    if note is None:
        with pytest.raises(UninitializedError, match="filters: expected weights, got none yet"):
            mr.show.filters(layer)
        return
    shown = mr.show.filters(layer)
    assert shown.weights.size == layer.weight.numel()
    assert note in texts(shown)


def texts(shown):
    return [text.get_text() for text in shown.figure.texts]


def test_filters_with_nan():
    layer = nn.Conv2d(3, 2, 3)
    layer.weight.data[0, 0, 0, 0] = np.nan
    assert "NaN and infinite weights are left white" in texts(mr.show.filters(layer))


# -- maps ----------------------------------------------------------------------------------------


def by_hand(net, x):
    """The maps of the block, and the scores, in evaluation mode."""
    with mr.no_grad():
        net.eval()
        maps = net.block(net.relu(net.conv1(x)))
        scores = net.fc(maps.mean((2, 3)))
        net.train()
    return maps.numpy(), scores.numpy()


def test_feature_maps_are_those_of_the_layer(net):
    x = example(1, 3, 5, 7)
    shown = mr.show.feature_maps(net, x, "block")
    close(shown.maps, by_hand(net, x)[0][0])
    assert shown.layer == "block"
    first = mr.show.feature_maps(net, x[0].numpy())
    assert first.layer == "conv1"
    assert first.maps.shape == (4, 5, 7)
    close(mr.show.feature_maps(net, x, net.block.relu).maps, shown.maps)  # of its last call
    assert shown.picture.shape == (5, 7, 3)
    assert shown.picture.min() == 0
    assert shown.picture.max() == 1


def test_maps_that_are_dead_are_counted():
    net = nn.Sequential(nn.Conv2d(1, 70, 3), nn.ReLU())
    net[0].weight.data[:3] = 0
    net[0].bias.data[:3] = -1
    shown = mr.show.feature_maps(net, example(1, 1, 6, 5), "1")
    (note,) = texts(shown)[1:]
    dead = int((shown.maps == 0).all((1, 2)).sum())
    assert dead >= 3
    assert note == f"70 channels of 4 × 3; the first 64 are drawn; {dead} of them are 0 everywhere"


def test_activations_are_statistics_of_each_call(net):
    x = example(4, 3, 5, 7)
    for mode in (True, False):
        net.train(mode)
        shown = mr.show.activations(net, x)
        assert shown.names[:4] == ("conv1", "relu", "block.conv1", "block.bn1")
        assert shown.names[4:8] == ("block.relu", "block.conv2", "block.bn2", "block.relu (2)")
        assert shown.kinds[:2] == ("Conv2d", "ReLU")
        with mr.no_grad():
            y = net.relu(net.conv1(x)).numpy().astype(float)
        close([shown.mean[1], shown.std[1]], [y.mean(), y.std()])
        assert shown.zeros[1] == (y == 0).mean() > 0
        assert (shown.zeros[shown.names.index("drop")] > 0) == mode
        assert f"4 pictures, {'training' if mode else 'evaluation'} mode" in texts(shown)[1]
    assert str(shown).splitlines()[2].split()[:2] == ["conv1", "Conv2d"]
    net.train()


def test_activations_say_where_infinity_begins():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    net[1].bias.data[:] = np.inf
    assert "NaN or infinity from 1 on" in texts(mr.show.activations(net, example(1, 1, 3, 2)))


# -- reasons -------------------------------------------------------------------------------------


def test_grad_cam_by_hand(net):
    """The scores are linear in the mean of the maps: every slope is a weight over their places."""
    x = example(1, 3, 5, 7)
    maps, scores = by_hand(net, x)
    for target in range(3):
        shown = mr.show.grad_cam(net, x, target, "block")
        weights = net.fc.weight.detach().numpy()[target] / (5 * 7)
        close(shown.weights, weights)
        close(shown.cam, np.maximum((weights[:, None, None] * maps[0]).sum(0), 0))
        np.testing.assert_array_equal(shown.heatmap, shown.cam)  # the maps have the picture's size
        assert shown.score == pytest.approx(scores[0, target], rel=1e-4)
        exp = np.exp(scores[0] - scores.max())
        assert shown.probability == pytest.approx(exp[target] / exp.sum(), rel=1e-4)
    best = mr.show.grad_cam(net, x)
    assert best.target == scores.argmax()
    assert best.layer == "block"  # the last that returns maps


def test_grad_cam_against_finite_differences():
    """Where the way from the maps to the score has kinks and strides."""
    mr.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(18, 2))
    ).double()
    x = mr.randn(1, 1, 7, 5, dtype="float64")
    shown = mr.show.grad_cam(net, x, 1, "0")
    maps = net[0](x).detach().requires_grad_()
    jacobian = numeric_jacobian(lambda a: net[1](a)[0, 1], [maps], maps)
    slopes = np.reshape(jacobian, (3, 3, 2))
    np.testing.assert_allclose(shown.weights, slopes.mean((1, 2)), rtol=1e-7)
    cam = np.maximum(np.tensordot(shown.weights, maps.detach().numpy()[0], 1), 0)
    np.testing.assert_allclose(shown.cam, cam, rtol=1e-12)
    assert shown.heatmap.shape == (7, 5)
    assert shown.heatmap.max() <= cam.max()


def test_saliency_against_the_checker():
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)).double()
    x = mr.tensor(np.random.default_rng(2).standard_normal((1, 3, 4, 5)))
    shown = mr.show.saliency(smooth, x, 2)
    point = x.clone().requires_grad_()
    jacobian = numeric_jacobian(lambda a: smooth(a)[0, 2], [point], point)
    gradient = np.reshape(jacobian, (3, 4, 5))
    np.testing.assert_allclose(shown.gradient, gradient, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shown.saliency, np.abs(gradient).max(0), rtol=1e-6, atol=1e-9)


def test_frozen_networks_and_no_grad_around(net):
    x = example(1, 3, 5, 7)
    expected = mr.show.grad_cam(net, x, 0).cam, mr.show.saliency(net, x, 0).saliency
    assert expected[1].any()
    net.requires_grad_(False)
    try:
        with mr.no_grad():
            shown = mr.show.grad_cam(net, x, 0).cam, mr.show.saliency(net, x, 0).saliency
    finally:
        net.requires_grad_(True)
    for one, other in zip(shown, expected):
        close(one, other)


def test_nothing_raises_the_score():
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
    net[2].weight.data[:] = -1
    shown = mr.show.grad_cam(net, mr.ones(1, 1, 2, 3), 0)
    assert not shown.cam.any()
    assert "nothing here raises the score" in texts(shown)


# -- gradients -----------------------------------------------------------------------------------


def trained_once(net, seed=0):
    mr.manual_seed(seed)
    x, y = mr.randn(8, 3, 8, 8), mr.randint(0, 10, (8,))
    mr.cross_entropy(net(x), y).backward()
    return net


def test_gradient_flow_tells_plain_from_residual():
    mr.manual_seed(0)
    nets = {"plain-32": cifar_plain(32), "residual-32": cifar_resnet(32)}
    flow = mr.show.gradient_flow({name: trained_once(net) for name, net in nets.items()})
    for name, net in nets.items():
        weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
        assert flow.layers[name] == tuple(weights)
        norms = [np.linalg.norm(p.grad.numpy()) for p in weights.values()]
        sizes = [np.linalg.norm(p.detach().numpy()) for p in weights.values()]
        close(flow.norms[name], norms)
        close(flow.relative[name], np.array(norms) / sizes)
    spread = {name: norms.max() / norms[:-1].min() for name, norms in flow.norms.items()}
    assert spread["plain-32"] > 5 * spread["residual-32"]
    plain, residual = flow.figure.axes[0].lines
    assert plain.get_color() == "#d55e00"
    assert residual.get_color() == "#0072b2"
    assert str(flow).splitlines()[2].split()[:2] == ["plain-32", "conv1.weight"]


def test_gradients_that_are_zero_or_missing():
    net = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), nn.Linear(2, 10))
    net.add_module("other", nn.Identity())
    net[2].weight.data[:] = 0
    trained_once(net)
    flow = mr.show.gradient_flow(net)
    assert flow.norms["Sequential"][0] == 0
    assert "Sequential: 1 gradient of 0 (triangles)" in texts(flow)
    net[0].weight.grad = None
    assert "Sequential: 1 weight; 1 without a gradient" in texts(mr.show.gradient_flow(net))


# -- pictures ------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (9, 11, 3), np.uint8)
    path = tmp_path / "cat.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_a_picture_in_any_form(net, photo):
    path, pixels = photo
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    x = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    expected = mr.show.saliency(net, x, 0, normalize=(mean, std))
    close(expected.picture, pixels / 255)
    normalize = mr.vision.transforms.Normalize(mean, std)
    for given in (path, str(path), Image.open(path), pixels):
        for how in ((mean, std), [np.array(mean), list(std)], normalize):
            shown = mr.show.saliency(net, given, 0, normalize=how)
            close(shown.gradient, expected.gradient)
            close(shown.picture, pixels / 255)
    cut = mr.show.saliency(net, path, 0, normalize=(0.5, 0.2), size=(5, 4))
    assert cut.picture.shape == (5, 4, 3)


def test_grey_networks_see_grey_pictures(photo):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(126, 2))
    assert mr.show.saliency(net, photo[0]).gradient.shape == (1, 9, 11)
    assert mr.show.saliency(net, photo[1][:, :, 0]).picture.shape == (9, 11)


def test_a_run_prepares_its_pictures(net, photo):
    path, _ = photo
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    facts = Facts("net", {}, ("ant", "bee", "cat"), (3, 5, 7), mean, std, "insects", "")
    run = Trained(net, facts)
    shown = mr.show.grad_cam(run, path, "cat")
    same = mr.show.grad_cam(net, path, 2, normalize=(mean, std), size=(5, 7))
    np.testing.assert_array_equal(shown.cam, same.cam)
    assert "Grad-CAM at block: cat" in texts(shown)
    assert mr.show.filters(run).layer == "conv1"
    with pytest.raises(ArgumentError, match="unknown class 'cst': did you mean cat"):
        mr.show.grad_cam(run, path, "cst")
    with pytest.raises(ArgumentError, match="expected a run, which says how, alone, got norm"):
        mr.show.saliency(run, path, size=8)


# -- what comes back, and what stays ---------------------------------------------------------------


def test_pictures_are_files_and_show_themselves(net, tmp_path):
    shown = mr.show.filters(net)
    data, size = shown._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert 300 < size["width"] < 800
    shown.save(tmp_path / "f.png")
    shown.save(tmp_path / "f.SVG")
    assert (tmp_path / "f.png").read_bytes() == data
    assert (tmp_path / "f.SVG").read_bytes().startswith(b"<?xml")
    with pytest.raises(
        ArgumentError, match=r"save: expected a path that ends in \.png or \.svg or \.pdf, got"
    ):
        shown.save(tmp_path / "f.gif")
    assert repr(shown) == (
        "Filters of layer 'conv1': weights (4, 3, 3, 3). .figure is the picture, .save(path) "
        "writes it."
    )


def test_an_error_inside_leaves_no_trace(net):
    counts = net.block.bn1.num_batches_tracked.item()

    def fail(module, args):
        raise KeyError("mine")

    handle = net.fc.register_forward_pre_hook(fail)
    try:
        for call in (mr.show.grad_cam, mr.show.saliency, mr.show.activations, mr.show.feature_maps):
            with pytest.raises(KeyError, match="mine"):
                call(net, example(1, 3, 5, 7))
            assert net.training
            assert not any(m._forward_hooks for m in net.modules())
    finally:
        handle.remove()
    assert net.block.bn1.num_batches_tracked.item() == counts


def test_gradients_and_inputs_stay(net):
    x = example(1, 3, 5, 7)
    x.requires_grad_()
    before = x.detach().numpy().copy()
    mr.show.grad_cam(net, x)
    mr.show.saliency(net, x)
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())
    np.testing.assert_array_equal(x.detach().numpy(), before)


def test_lazy_networks_go_on_waiting():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(3))
    for call in (mr.show.grad_cam, mr.show.saliency, mr.show.activations):
        call(net, example(1, 3, 5, 7))
        assert isinstance(net[0].weight, nn.UninitializedParameter)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [mr.show.feature_maps, mr.show.grad_cam])
def test_layers_that_are_none(call, net):
    x = example(1, 3, 5, 7)
    cases = [
        ("blok", ArgumentError, "unknown layer of the Net 'blok': did you mean block"),
        (
            "fc",
            ShapeError,
            "maps (n, c, h, w) from 'fc', got (1, 3). These have maps: conv1, relu",
        ),
        ("unused", ArgumentError, "a layer that the forward pass calls, got 'unused', which it d"),
        (nn.ReLU(), ArgumentError, "expected a layer of the Net, got a ReLU that is not in it"),
        (3, ArgumentError, "expected the name of a layer, or the layer, got 3"),
    ]
    for layer, kind, words in cases:
        with pytest.raises(kind) as caught:
            call(net, x, layer=layer)
        assert words in str(caught.value)


def test_networks_without_convolutions():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    x = example(1, 1, 2, 3)
    with pytest.raises(ArgumentError, match="filters: expected a convolution, or a network with"):
        mr.show.filters(net)
    for call in (mr.show.feature_maps, mr.show.grad_cam):
        with pytest.raises(ArgumentError) as caught:
            call(net, x)
        assert "a network with feature maps (n, c, h, w), got Sequential" in str(caught.value)
        assert "saliency and activations need none." in str(caught.value)
    assert mr.show.saliency(net, x).saliency.shape == (2, 3)
    with pytest.raises(ArgumentError, match="convolution, got '1', which is a Linear"):
        mr.show.filters(net, "1")
    with pytest.raises(ArgumentError, match=r"In it is 'block\.conv1'"):
        mr.show.filters(Net(), "block")


def test_inputs_that_are_none(net, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cases = [
        ({"x": example(2, 3, 5, 7)}, ShapeError, "expected one picture, got 2 of them. Pass one"),
        ({"x": example(3, 5)}, ShapeError, "expected x of shape (c, h, w) or (n, c, h, w), got (3"),
        ({"x": example(0, 3, 5, 7)}, ShapeError, "expected x of shape"),
        ({"x": mr.ones(3, 5, 7, dtype="int64")}, DTypeError, "expected floats, or bytes (h, w, 3)"),
        ({"x": [1, 2]}, ArgumentError, "expected a picture or a tensor, got [1, 2]. Pass a path"),
        ({"x": tmp_path / "broken.png"}, DataError, "broken.png: expected a picture, got"),
        ({"x": "nowhere.png"}, DataError, "nowhere.png: expected a picture, got no such file"),
        ({"x": example(1, 2, 5, 7)}, ShapeError, "conv2d: expected"),
        ({"target": 3}, ArgumentError, "expected target an integer >= 0 and <= 2, got 3"),
        ({"target": "cat"}, ArgumentError, "target the number of a class, got 'cat'. A run (min"),
        ({"normalize": 3}, ArgumentError, "expected normalize=(mean, std), got 3"),
        ({"normalize": (0, 0)}, ArgumentError, "expected std a finite number > 0, got 0"),
        ({"normalize": ((0, 0), 1)}, ShapeError, "mean and std of 3 channels, got 2 numbers"),
        ({"size": "big"}, ArgumentError, "expected size an integer >= 1 or a pair of them"),
    ]
    for call in (mr.show.saliency, mr.show.grad_cam):
        for changed, kind, words in cases:
            with pytest.raises(kind) as caught:
                call(**{"net": net, "x": example(1, 3, 5, 7), **changed})
            assert words in str(caught.value), changed
    with pytest.raises(ArgumentError, match="saliency: expected a Module as network, got str"):
        mr.show.saliency("resnet18", example(1, 3, 5, 7))


def test_scores_that_are_none():
    x = example(1, 3, 5, 7)
    with pytest.raises(ShapeError, match=r"a network that returns scores \(1, classes\), got \(1"):
        mr.show.saliency(nn.Conv2d(3, 2, 3), x)

    class Cut(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).detach()

    with pytest.raises(GraphError, match="saliency: expected a score that depends on the picture"):
        mr.show.saliency(Cut(), x)


def test_networks_without_gradients(net):
    with pytest.raises(ArgumentError) as caught:
        mr.show.gradient_flow(net)
    assert str(caught.value) == (
        "gradient_flow: expected a network after a backward pass, got no gradient in any of the 5 "
        "weights of the Net. Call loss.backward() first, and zero_grad() after this."
    )
    with pytest.raises(ArgumentError, match="a network with weights, got a ReLU"):
        mr.show.gradient_flow(nn.ReLU())
    with pytest.raises(ArgumentError, match=r"networks by their names, got \{\}"):
        mr.show.gradient_flow({})


def test_results_name_all_they_hold():
    for kind in ("Filters", "FeatureMaps", "Activations", "GradCAM", "Saliency", "Flow"):
        cls = getattr(mr.show, kind)
        for field in dataclasses.fields(cls):
            assert f"{field.name}" in (cls.__doc__ or ""), (kind, field.name)

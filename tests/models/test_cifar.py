import copy
import pickle

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError
from minires.models import cifar_plain, cifar_resnet, create, list_models


def count(net):
    return sum(p.numel() for p in net.parameters())


def value(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize(
    ("depth", "params"),
    [(20, 269_722), (32, 464_154)],  # the whole zoo: test_counts.py
)
def test_published_parameter_counts(depth, params):
    assert count(cifar_resnet(depth)) == params
    assert count(cifar_plain(depth)) == params
    assert count(cifar_resnet(depth, shortcut="B")) == params + 2752
    assert count(cifar_resnet(depth, pre_activation=True)) == params  # bn moves, none is added


def test_the_deepest_network(monkeypatch):
    monkeypatch.setattr(nn.init, "normal_", lambda t, *_: t)  # not drawn: it takes seconds
    monkeypatch.setattr(nn.init, "uniform_", lambda t, *_: t)
    net = cifar_resnet(1202)
    assert count(net) == 19_421_274
    assert len(net.state_dict()) == 1201 + 1201 * 5 + 2
    net.eval()


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_layers_with_weights(depth):
    layers = [m for m in cifar_resnet(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("pre_activation", [False, True])
def test_plain_twin_has_the_same_names_shapes_and_initial_values(pre_activation):
    mr.manual_seed(1)
    a = cifar_resnet(14, pre_activation=pre_activation).state_dict()
    mr.manual_seed(1)
    b = cifar_plain(14, pre_activation=pre_activation).state_dict()
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name].numpy(), b[name].numpy())


def test_names():
    names = [name for name, _ in cifar_resnet(8).named_parameters()]
    assert names == [
        f"{layer}.{part}" if part else layer
        for layer in ("conv1", "bn1", *(f"layer{i}.0" for i in (1, 2, 3)), "fc")
        for part in {
            "conv1": ["weight"],
            "bn1": ["weight", "bias"],
            "fc": ["weight", "bias"],
        }.get(
            layer,
            ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"],
        )
    ]
    assert list(cifar_resnet(8, shortcut="B").layer2[0].state_dict())[-6:] == [
        "downsample.0.weight",
        "downsample.1.weight",
        "downsample.1.bias",
        "downsample.1.running_mean",
        "downsample.1.running_var",
        "downsample.1.num_batches_tracked",
    ]


def test_multiply_adds_of_resnet20():
    residual = nn.summary(cifar_resnet(20), (1, 3, 32, 32))
    plain = nn.summary(cifar_plain(20), (1, 3, 32, 32))
    assert residual.total_mult_adds == plain.total_mult_adds == 40_551_040
    assert residual.total_params == 269_722
    assert "multiply-adds 40.55 M" in str(residual)


def test_he_initialisation():
    mr.manual_seed(0)
    net = cifar_resnet(8)
    weight = net.layer3[0].conv2.weight  # fan-in 64 * 9
    assert weight.data.std() == pytest.approx(np.sqrt(2 / 576), rel=0.03)
    assert (net.bn1.weight.data == 1).all()
    assert (net.bn1.bias.data == 0).all()


@pytest.mark.parametrize("build", [cifar_resnet, cifar_plain])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_forward_shapes(build, pre_activation):
    net = build(8, num_classes=7, in_channels=1, pre_activation=pre_activation)
    assert net(mr.randn(2, 1, 8, 8)).shape == (2, 7)
    assert net(mr.randn(2, 1, 9, 13)).shape == (2, 7)


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (21, "got 21. Nearest: 20 and 26."),
        (19, "got 19. Nearest: 14 and 20."),
        (3, "got 3. Nearest: 8."),
        (2, "got 2. Nearest: 8."),
        (-4, "got -4. Nearest: 8."),
        (9, "got 9. Nearest: 8 and 14."),
    ],
)
def test_illegal_depths_name_the_nearest(depth, words):
    with pytest.raises(ArgumentError, match="depth: expected 6n") as caught:
        cifar_resnet(depth)
    assert words in str(caught.value)
    with pytest.raises(ArgumentError):
        cifar_plain(depth)


@pytest.mark.parametrize("depth", ["20", 20.0, True, None])
def test_depth_must_be_an_integer(depth):
    with pytest.raises(ArgumentError, match="depth: expected an integer of the form 6n"):
        cifar_resnet(depth)


def test_wrong_images():
    with pytest.raises(ShapeError, match=r"CifarNet: expected images of shape \(n, 3, h, w\), got"):
        cifar_resnet(8)(mr.randn(2, 1, 8, 8))
    with pytest.raises(ShapeError, match=r"got shape \(2, 1, 8, 8\)\. Pass in_channels="):
        cifar_resnet(8)(mr.randn(2, 1, 8, 8))
    with pytest.raises(ShapeError, match=r"looks like \(n, h, w, c\): use x.permute"):
        cifar_resnet(8)(mr.randn(2, 8, 8, 3))
    with pytest.raises(ShapeError, match=r"got shape \(3, 8, 8\).*x.unsqueeze\(0\)"):
        cifar_resnet(8)(mr.randn(3, 8, 8))


def test_unknown_shortcut():
    with pytest.raises(ArgumentError, match="unknown shortcut 'D'"):
        cifar_resnet(8, shortcut="D")


@pytest.mark.parametrize("build", [cifar_resnet, cifar_plain])
def test_overfits_one_batch(build):
    mr.manual_seed(0)
    net = build(8, in_channels=1)
    images = mr.randn(16, 1, 8, 8)
    labels = mr.tensor(np.arange(16) % 10)
    first = None
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(images), labels)
        first = loss.item() if first is None else first
        net.zero_grad()
        loss.backward()
        for param in net.parameters():
            param.data[...] -= 0.2 * param.grad.data
            param.bump_version()
    assert first > 1.5
    assert loss.item() < 0.15


def test_state_dict_deepcopy_and_pickle_give_the_same_network():
    net = cifar_resnet(8, shortcut="B")
    x = mr.randn(4, 3, 8, 8)
    net(x)  # moves the running statistics
    net.eval()
    expected = value(net(x))
    other = cifar_resnet(8, shortcut="B").eval()
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net)):
        np.testing.assert_array_equal(value(twin(x)), expected)
    state = pickle.loads(pickle.dumps(net.state_dict()))
    np.testing.assert_array_equal(state["fc.weight"].numpy(), net.fc.weight.data)


def test_create_and_list_models():
    assert list_models("cifar_plain5*") == ["cifar_plain56"]
    assert {"resnet18", "resnet152", "cifar_resnet1202", "cifar_plain20"} <= set(list_models())
    net = create("cifar_resnet20", num_classes=5, in_channels=1, shortcut="B")
    assert net.fc.out_features == 5
    assert count(create("cifar_plain32")) == 464_154
    with pytest.raises(ArgumentError, match="unknown model 'cifar_resnet2': did you mean cifar_"):
        create("cifar_resnet2")
    with pytest.raises(ArgumentError, match="unknown option of cifar_plain20 'shortcut'"):
        create("cifar_plain20", shortcut="A")
    with pytest.raises(ArgumentError, match=r"'class_count'\. Known: .*num_classes"):
        create("resnet18", class_count=10)

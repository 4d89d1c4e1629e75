"""The layers beside those of the residual networks: parameters, text, modes, errors, PyTorch."""

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError
from minires.nn import functional as F


def rand(*shape, seed=0):
    return mr.tensor(np.random.default_rng(seed).standard_normal(shape))


TEXTS = [
    (lambda nn: nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, 2, False, 3), None),
    (lambda nn: nn.ConvTranspose2d(4, 2, (2, 3)), None),
    (lambda nn: nn.LeakyReLU(0.2, inplace=True), None),
    (lambda nn: nn.GELU("tanh"), None),
    (lambda nn: nn.SiLU(), None),
    (lambda nn: nn.SiLU(inplace=True), None),
    (lambda nn: nn.ZeroPad2d((1, 2, 3, 4)), None),
    (lambda nn: nn.GroupNorm(2, 4), "GroupNorm(2, 4, eps=1e-05, affine=True)"),
    (lambda nn: nn.GroupNorm(1, 4, bias=False), "GroupNorm(1, 4, eps=1e-05, affine=True, bias=F"),
    (lambda nn: nn.LayerNorm((3, 2)), "LayerNorm((3, 2), eps=1e-05, elementwise_affine=True)"),
    (
        lambda nn: nn.LayerNorm(3, bias=False),
        "LayerNorm((3,), eps=1e-05, elementwise_affine=True, ",
    ),
    (lambda nn: nn.Dropout(0.1), "Dropout(p=0.1)"),
    (lambda nn: nn.Dropout2d(0.1, inplace=True), "Dropout2d(p=0.1, inplace=True)"),
    (lambda nn: nn.MSELoss(), "MSELoss(reduction='mean')"),
    (lambda nn: nn.NLLLoss(), "NLLLoss(reduction='mean')"),
]


@pytest.mark.parametrize(("make", "text"), TEXTS)
def test_text(make, text):
    if text is None:
        text = repr(make(pytest.importorskip("torch.nn")))
    assert repr(make(nn)).startswith(text)


def test_parameters_and_initial_values():
    up = nn.ConvTranspose2d(4, 6, (3, 2), groups=2)
    assert (up.weight.shape, up.bias.shape) == ((4, 3, 3, 2), (6,))
    bound = 1 / np.sqrt(3 * 3 * 2)
    for values in (up.weight.detach().numpy(), up.bias.detach().numpy()):
        assert 0 < np.abs(values).max() <= bound
    group = nn.GroupNorm(2, 4)
    assert group.weight.tolist() == [1] * 4
    assert group.bias.tolist() == [0] * 4
    assert nn.GroupNorm(2, 4, affine=False).weight is None
    layer = nn.LayerNorm([3, 2], bias=False)
    assert (layer.weight.shape, layer.bias) == ((3, 2), None)
    assert list(nn.LayerNorm(3, elementwise_affine=False).state_dict()) == []
    loss = nn.BCEWithLogitsLoss(pos_weight=mr.ones(3))
    assert list(loss.state_dict()) == ["pos_weight"]
    assert loss.double().pos_weight.dtype == np.float64


def test_norms_do_the_same_in_training_and_evaluation():
    x = rand(2, 4, 3, 3)
    for layer in (nn.GroupNorm(2, 4), nn.LayerNorm((4, 3, 3))):
        layer.double()
        assert np.array_equal(layer(x).detach().numpy(), layer.eval()(x).detach().numpy())


def test_dropout2d_follows_the_mode():
    x = mr.ones(8, 8, 2, 2)
    layer = nn.Dropout2d(0.5)
    assert sorted(set(layer(x).flatten().tolist())) == [0, 2]
    assert layer.eval()(x) is x
    assert not isinstance(layer, nn.Dropout), "who looks for Dropout does not mean this one"


def test_zero_pad_widens_and_cuts():
    x = mr.ones(1, 1, 2, 2)
    assert nn.ZeroPad2d(1)(x).sum((0, 1)).tolist() == [
        [0, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    assert nn.ZeroPad2d((1, 0, -1, 2))(x).shape == (1, 1, 3, 3)


def test_parameter_list():
    shared = nn.Parameter(mr.ones(2))
    net = nn.Module()
    net.scales = nn.ParameterList([shared, mr.zeros(3)])
    net.scales.append(mr.ones(1))
    assert [name for name, _ in net.named_parameters()] == ["scales.0", "scales.1", "scales.2"]
    assert net.scales[0] is shared
    assert net.scales[-1] is net.scales[2]
    assert (len(net.scales), [p.shape for p in net.scales]) == (3, [(2,), (3,), (1,)])
    assert repr(net.scales) == "ParameterList((2,), (3,), (1,))"
    with pytest.raises(IndexError, match="ParameterList: expected an index into 3 of them, got 3"):
        net.scales[3]
    with pytest.raises(ArgumentError, match="ParameterList: expected tensors, got float"):
        net.scales.append(1.0)


def test_functional_takes_pytorchs_arguments():
    x = rand(2, 4, 3, 5)
    same = [
        (F.relu(x, True), x.clip(min=0)),
        (F.leaky_relu(x, 0.1, True), nn.LeakyReLU(0.1)(x)),
        (F.silu(x, inplace=True), x * x.sigmoid()),
        (F.pad(x, (1, 0, 2, 0), "constant", 3.0), mr.pad(x, (1, 0, 2, 0), 3.0)),
        (F.pad(x, (1, 1)), mr.pad(x, (1, 1))),
        (F.group_norm(x, 2, None, None, 0.1), mr.group_norm(x, 2, eps=0.1)),
        (F.layer_norm(x, (5,), None, None, 0.1), mr.layer_norm(x, 5, eps=0.1)),
        (F.dropout(x, 0.5, False, True), x),
        (F.dropout2d(x, 0.5, False, True), x),
        (F.gelu(x, approximate="tanh"), mr.gelu(x, "tanh")),
    ]
    for ours, expected in same:
        np.testing.assert_array_equal(ours.numpy(), expected.numpy())
    w = rand(4, 1, 2, 2)
    up = F.conv_transpose2d(x, w, None, 2, 1, 1, 2, 2)
    assert up.shape == (2, 2, 6, 10)
    with pytest.raises(ArgumentError, match=r"unknown mode 'mirror'\. Known: circular, constant"):
        F.pad(x, (1, 1), "mirror")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.ConvTranspose2d(0, 1, 1), "ConvTranspose2d: expected in_channels an integer"),
        (lambda: nn.ConvTranspose2d(2, 2, 0), "kernel_size an integer >= 1"),
        (lambda: nn.ConvTranspose2d(2, 2, 1, output_padding=-1), "output_padding an integer >= 0"),
        (lambda: nn.ConvTranspose2d(2, 3, 1, groups=2), "got 2 and 3 with groups=2"),
        (lambda: nn.GroupNorm(3, 4), "num_channels divisible by num_groups, got 4 with num_gr"),
        (lambda: nn.GroupNorm(0, 4), "GroupNorm: expected num_groups an integer >= 1, got 0"),
        (lambda: nn.GroupNorm(2, 4, eps=0), "GroupNorm: expected eps a finite number > 0, got 0"),
        (lambda: nn.LayerNorm(0), "LayerNorm: expected normalized_shape integers >= 1, got 0"),
        (lambda: nn.LayerNorm(2, eps=-1), "LayerNorm: expected eps a finite number > 0, got -1"),
        (lambda: nn.LayerNorm(2, eps="x"), "LayerNorm: expected eps a number > 0, got 'x'"),
        (lambda: nn.GELU("sigmoid"), "unknown approximate 'sigmoid'"),
        (
            lambda: nn.Dropout2d(-0.5),
            "Dropout2d: expected p a finite number >= 0 and <= 1, got -0.5",
        ),
        (lambda: nn.ZeroPad2d((1, 2)), "(left, right, top, bottom): 4 integers, got (1, 2)"),
        (lambda: nn.MSELoss(reduction="avg"), "unknown reduction 'avg'"),
        (lambda: nn.BCEWithLogitsLoss(reduction="summ"), "did you mean sum"),
        (lambda: nn.NLLLoss(reduction=None), "unknown reduction 'None'"),
    ],
)
def test_constructor_errors_name_the_value(build, words):
    with pytest.raises(ArgumentError) as caught:
        build()
    assert words in str(caught.value)


def test_a_loss_does_not_broadcast():
    with pytest.raises(
        ShapeError, match=r"mse_loss: expected a target of shape \(8, 1\), got \(8,\)"
    ):
        nn.MSELoss()(mr.ones(8, 1), mr.ones(8))


PARITY = {
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2), (2, 4, 3, 5)),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 4, 1e-3), (2, 4, 3, 5)),
    "LayerNorm": (lambda nn: nn.LayerNorm((3, 5)), (2, 4, 3, 5)),
    "LayerNorm, no bias": (lambda nn: nn.LayerNorm(5, bias=False), (2, 4, 3, 5)),
    "LeakyReLU": (lambda nn: nn.LeakyReLU(0.3), (2, 3)),
    "GELU": (lambda nn: nn.GELU(), (2, 3)),
    "SiLU": (lambda nn: nn.SiLU(), (2, 3)),
    "ZeroPad2d": (lambda nn: nn.ZeroPad2d((1, 2, 0, -1)), (2, 4, 3, 5)),
}


@pytest.mark.parametrize("name", PARITY)
def test_parity_with_pytorch(name):
    """Their layer with our state: outputs, and gradients of the input and all parameters."""
    torch = pytest.importorskip("torch")
    make, shape = PARITY[name]
    ours, theirs = make(nn).double(), make(torch.nn).double()
    rng = np.random.default_rng(0)
    for parameter in ours.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    values = rng.standard_normal(shape)
    x, t = mr.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y, u = ours(x), theirs(t)
    g = rng.standard_normal(y.shape)
    y.backward(mr.tensor(g))
    u.backward(torch.tensor(g))
    np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-9, atol=1e-11)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11)


def test_running_statistics_are_reset():
    layer = nn.BatchNorm2d(3)
    layer(mr.randn(4, 3, 5, 7) + 2)
    layer.reset_running_stats()
    assert layer.running_mean.tolist() == [0] * 3
    assert layer.running_var.tolist() == [1] * 3
    assert layer.num_batches_tracked.item() == 0
    nn.BatchNorm2d(3, track_running_stats=False).reset_running_stats()  # nothing to forget

import warnings

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError
from minires.nn import functional as F


def rand(*shape, seed=0):
    return mr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_linear_by_hand():
    layer = nn.Linear(2, 1)
    layer.weight.data[...], layer.bias.data[...] = [[2, 3]], 1
    np.testing.assert_array_equal(layer(mr.tensor([[1.0, 10.0]])).detach().numpy(), [[33]])
    assert layer.weight.shape == (1, 2)
    assert nn.Linear(2, 1, bias=False).bias is None
    assert repr(layer) == "Linear(in_features=2, out_features=1, bias=True)"


def test_conv2d_parameters_and_text():
    layer = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=2, groups=2)
    assert layer.weight.shape == (6, 2, 3, 5)
    assert layer.bias.shape == (6,)
    assert repr(layer) == (
        "Conv2d(4, 6, kernel_size=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 2), groups=2)"
    )
    assert layer(rand(2, 4, 9, 9)).shape == (2, 6, 4, 5)


def test_conv2d_by_hand():
    layer = nn.Conv2d(1, 1, 2)
    layer.weight.data[...], layer.bias.data[...] = [[[[1, 2], [3, 4]]]], 5
    x = mr.tensor([[[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]]])
    np.testing.assert_array_equal(layer(x).detach().numpy(), [[[[10, 12]]]])


@pytest.mark.parametrize("kernel", [1, 3, (2, 5), (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_conv2d_same_keeps_the_size_and_valid_pads_nothing(kernel, dilation):
    x = rand(1, 2, 9, 11)
    same = nn.Conv2d(2, 3, kernel, padding="same", dilation=dilation)
    assert same(x).shape == (1, 3, 9, 11)
    valid = nn.Conv2d(2, 3, kernel, padding="valid", dilation=dilation)
    zero = nn.Conv2d(2, 3, kernel, dilation=dilation)
    zero.load_state_dict(valid.state_dict())
    np.testing.assert_array_equal(valid(x).detach().numpy(), zero(x).detach().numpy())
    assert "padding='same'" in repr(same)


def test_conv2d_same_puts_the_odd_row_last():
    layer = nn.Conv2d(1, 1, 2, padding="same", bias=False)
    layer.weight.data[...] = [[[[1, 2], [3, 4]]]]
    x = mr.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    np.testing.assert_array_equal(
        layer(x).detach().numpy(), [[[[1 + 20 + 300 + 4000, 10 + 3000], [100 + 2000, 1000]]]]
    )


def test_batch_norm_training_matches_its_formulas():
    layer = nn.BatchNorm2d(3, eps=1e-3, momentum=0.25)
    layer.weight.data[...], layer.bias.data[...] = [1, 2, 3], [0, 1, -1]
    x = rand(4, 3, 5, 2)
    y = layer(x).detach().numpy()
    a = x.numpy().astype(np.float64)
    mean, var = a.mean((0, 2, 3)), a.var((0, 2, 3))
    x_hat = (a - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-3)
    expected = x_hat * np.array([1, 2, 3.0])[:, None, None] + np.array([0, 1, -1.0])[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.75 + 0.25 * var * 40 / 39, rtol=1e-4)
    assert layer.num_batches_tracked.item() == 1
    before = layer.running_mean.numpy().copy()
    out = layer.eval()(x).detach().numpy()
    scale = np.sqrt(layer.running_var.numpy() + 1e-3)[:, None, None]
    plain = (x.numpy() - before[:, None, None]) / scale
    expected = plain * np.array([1, 2, 3])[:, None, None] + np.array([0, 1, -1])[:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.running_mean.numpy(), before)
    assert layer.num_batches_tracked.item() == 1


def test_batch_norm_without_momentum_is_the_plain_average():
    layer = nn.BatchNorm2d(2, momentum=None)
    batches = [rand(3, 2, 4, 4, seed=i) for i in range(4)]
    for x in batches:
        layer(x)
    means = [x.numpy().mean((0, 2, 3)) for x in batches]
    variances = [x.numpy().var((0, 2, 3)) * 48 / 47 for x in batches]
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean(variances, 0), rtol=1e-4)
    assert layer.num_batches_tracked.item() == 4


def test_batch_norm_without_statistics_uses_the_batch_in_eval_too():
    layer = nn.BatchNorm2d(2, track_running_stats=False, affine=False)
    assert list(layer.state_dict()) == []
    x = rand(4, 2, 3, 3)
    np.testing.assert_array_equal(layer(x).numpy(), layer.eval()(x).numpy())
    np.testing.assert_allclose(layer(x).numpy().mean((0, 2, 3)), 0, atol=1e-6)


def test_batch_norm_state_names_and_text():
    layer = nn.BatchNorm2d(2)
    assert list(layer.state_dict()) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
    assert layer.num_batches_tracked.shape == ()
    assert layer.num_batches_tracked.dtype == np.int64
    assert repr(layer) == (
        "BatchNorm2d(2, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )


def test_batch_norm_refuses_one_value_per_channel_and_does_not_count_it():
    layer = nn.BatchNorm2d(64)
    with pytest.raises(ShapeError, match="one value per channel"):
        layer(mr.ones(1, 64, 1, 1))
    assert layer.num_batches_tracked.item() == 0


def test_batch_norm_shape_errors():
    with pytest.raises(ShapeError, match=r"BatchNorm2d\(3\): expected x of shape \(n, 3, h, w\)"):
        nn.BatchNorm2d(3)(mr.ones(2, 4, 2, 2))
    with pytest.raises(ShapeError, match=r"got shape \(2, 3\)"):
        nn.BatchNorm2d(3)(mr.ones(2, 3))


def test_batch_norm_warns_of_the_other_momentum_convention():
    with pytest.warns(UserWarning, match=r"momentum=0\.9 means running = 0\.1 \* old \+ 0\.9"):
        nn.BatchNorm2d(3, momentum=0.9)


def test_batch_norm_warns_of_eval_before_training_but_not_once_trained_or_loaded():
    x = rand(2, 3, 2, 2)
    with pytest.warns(UserWarning, match=r"never been updated \(num_batches_tracked=0\)"):
        nn.BatchNorm2d(3).eval()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = nn.BatchNorm2d(3)
        trained(x)
        trained.eval()(x)
        loaded = nn.BatchNorm2d(3)  # statistics from a framework that does not count batches
        loaded.load_state_dict({**loaded.state_dict(), "running_mean": np.ones(3)})
        loaded.eval()(x)


def test_activations():
    x = mr.tensor([[-1.0, 0.0, 2.0]])
    np.testing.assert_array_equal(nn.ReLU()(x).numpy(), [[0, 0, 2]])
    np.testing.assert_allclose(nn.Tanh()(x).numpy(), np.tanh(x.numpy()), rtol=1e-6)
    np.testing.assert_allclose(nn.Sigmoid()(x).numpy(), 1 / (1 + np.exp(-x.numpy())), rtol=1e-6)
    e = np.exp(x.numpy())
    np.testing.assert_allclose(nn.Softmax(1)(x).numpy(), e / e.sum(), rtol=1e-6)
    np.testing.assert_allclose(nn.LogSoftmax(1)(x).numpy(), np.log(e / e.sum()), rtol=1e-5)
    assert repr(nn.LogSoftmax(1)) == "LogSoftmax(dim=1)"


def test_relu_inplace_is_accepted_and_leaves_its_input():
    x = mr.tensor([-1.0, 2.0])
    layer = nn.ReLU(inplace=True)
    assert layer(x).tolist() == [0, 2]
    assert x.tolist() == [-1, 2]
    assert repr(layer) == "ReLU(inplace=True)"


def test_pooling_layers():
    x = mr.arange(16.0).reshape(1, 1, 4, 4)
    assert nn.MaxPool2d(2)(x).flatten().tolist() == [5, 7, 13, 15]
    assert nn.MaxPool2d(2, stride=1)(x).shape == (1, 1, 3, 3)
    assert nn.AvgPool2d(2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert nn.AdaptiveAvgPool2d(1)(x).flatten().tolist() == [7.5]
    assert repr(nn.MaxPool2d(3, 2, 1)) == (
        "MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)"
    )


def test_flatten_identity_dropout():
    x = rand(2, 3, 4, 5)
    assert nn.Flatten()(x).shape == (2, 60)
    assert nn.Flatten(2, 3)(x).shape == (2, 3, 20)
    assert nn.Identity(3, unused=True)(x) is x
    mr.manual_seed(0)
    ones = mr.ones(10000)
    dropped = nn.Dropout(0.25)(ones).numpy()
    assert sorted(set(dropped.round(4).tolist())) == [0, pytest.approx(4 / 3, rel=1e-3)]
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert nn.Dropout(0.25).eval()(ones).tolist() == ones.tolist()


def test_cross_entropy_loss_by_hand():
    logits = mr.tensor([[0.0, np.log(3.0)], [0.0, 0.0]], dtype=np.float32)
    loss = nn.CrossEntropyLoss()(logits, mr.tensor(np.array([1, 0])))
    assert loss.item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Linear(0, 1), "Linear: expected in_features an integer >= 1, got 0"),
        (lambda: nn.Linear(1, 2.0), "Linear: expected out_features an integer >= 1, got 2.0"),
        (lambda: nn.Conv2d(3, -1, 3), "Conv2d: expected out_channels an integer >= 1, got -1"),
        (lambda: nn.Conv2d(3, 3, 0), "kernel_size an integer >= 1 or a pair of them, got 0"),
        (
            lambda: nn.Conv2d(3, 3, (3, 3, 3)),
            "kernel_size an integer >= 1 or a pair of them, got (3, 3, 3)",
        ),
        (lambda: nn.Conv2d(3, 3, 3, stride=0), "stride an integer >= 1 or a pair of them, got 0"),
        (lambda: nn.Conv2d(3, 3, 3, padding=-1), "padding an integer >= 0 or a pair"),
        (lambda: nn.Conv2d(3, 3, 3, padding="full"), "unknown padding 'full'. Known: same, valid"),
        (lambda: nn.Conv2d(3, 3, 3, padding="same", stride=2), 'stride 1 with padding="same"'),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "divisible by groups, got 3 and 4 with groups=2"),
        (lambda: nn.BatchNorm2d(0), "num_features an integer >= 1, got 0"),
        (
            lambda: nn.BatchNorm2d(3, eps=0.0),
            "BatchNorm2d: expected eps a finite number > 0, got 0.0",
        ),
        (
            lambda: nn.BatchNorm2d(3, momentum=1.5),
            "momentum a finite number >= 0 and <= 1, got 1.5",
        ),
        (lambda: nn.MaxPool2d(2, padding="same"), "MaxPool2d: expected padding an integer >= 0"),
        (lambda: nn.AvgPool2d(True), "AvgPool2d: expected kernel_size an integer >= 1"),
        (lambda: nn.AdaptiveAvgPool2d(0), "output_size an integer >= 1"),
        (lambda: nn.Dropout(1.5), "Dropout: expected p a finite number >= 0 and <= 1, got 1.5"),
        (lambda: nn.CrossEntropyLoss(reduction="avg"), "unknown reduction 'avg'"),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=2),
            "label_smoothing a finite number >= 0 and <= 1",
        ),
        (lambda: F.conv2d(mr.ones(1, 1, 3, 3), mr.ones(1, 1, 1, 1), padding="x"), "got 'x'"),
    ],
)
def test_constructor_errors_name_the_value(build, words):
    with pytest.raises(ArgumentError) as caught:
        build()
    assert words in str(caught.value)


def test_functional_takes_pytorchs_positional_arguments():
    x, w, b = rand(1, 4, 7, 7), rand(4, 2, 3, 3), rand(4)
    layer = nn.Conv2d(4, 4, 3, 2, 1, 2, 2)
    layer.load_state_dict({"weight": w, "bias": b})
    np.testing.assert_array_equal(F.conv2d(x, w, b, 2, 1, 2, 2).numpy(), layer(x).detach().numpy())
    assert F.max_pool2d(x, 3, 2, 1).shape == (1, 4, 4, 4)
    assert F.avg_pool2d(x, 3, 2).shape == (1, 4, 3, 3)
    assert F.adaptive_avg_pool2d(x, 1).shape == (1, 4, 1, 1)
    mean, var = mr.zeros(4), mr.ones(4)
    np.testing.assert_allclose(
        F.batch_norm(x, mean, var, None, None, False, 0.1, 3.0).numpy(), x.numpy() / 2, rtol=1e-6
    )
    assert (F.dropout(x, 1.0, False).numpy() == x.numpy()).all()


def test_every_layer_passes_gradients_to_input_and_parameters():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    x = rand(3, 2, 4, 4)
    x.requires_grad = True
    nn.CrossEntropyLoss()(net(x), mr.tensor(np.array([0, 1, 2]))).backward()
    assert np.abs(x.grad.numpy()).max() > 0
    for name, param in net.named_parameters():
        assert param.grad is not None, name
        assert param.grad.shape == param.shape

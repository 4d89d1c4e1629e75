import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.models import OptionA, ResNet, create, resnet18, resnet50

LAYERS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
LAYERS[152] = [3, 8, 36, 3]
BN = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def torchvision_keys(depth):
    """torchvision's state-dict keys, by rule: where a stage changes shape, a downsample."""

    def conv_bn(prefix, conv, bn):
        return [f"{prefix}{conv}.weight", *(f"{prefix}{bn}.{part}" for part in BN)]

    convs = 2 if depth < 50 else 3
    keys = conv_bn("", "conv1", "bn1")
    for stage, blocks in enumerate(LAYERS[depth], start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            for i in range(1, convs + 1):
                keys += conv_bn(prefix, f"conv{i}", f"bn{i}")
            if block == 0 and (stage > 1 or convs == 3):
                keys += conv_bn(prefix, "downsample.0", "downsample.1")
    return [*keys, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("depth", "params", "keys"),
    [
        (18, 11_689_512, 122),
        (34, 21_797_672, 218),
        (50, 25_557_032, 320),
        (101, 44_549_160, 626),
        (152, 60_192_808, 932),
    ],
)
def test_published_counts_and_torchvision_keys(depth, params, keys):
    net = create(f"resnet{depth}")
    assert sum(p.numel() for p in net.parameters()) == params
    assert list(net.state_dict()) == torchvision_keys(depth)
    assert len(torchvision_keys(depth)) == keys
    assert net.fc.weight.shape == (1000, 512 if depth < 50 else 2048)


def mult_adds_at_224(net):
    # Every map at 224x224 has exactly 49 times the entries of its twin at 32x32.
    rows = nn.summary(net, (1, 3, 32, 32)).rows
    fc = rows[-1].mult_adds
    return 49 * (sum(row.mult_adds for row in rows) - fc) + fc


@pytest.mark.parametrize(
    ("name", "options", "billions"),
    [
        ("resnet18", {}, 1.814),
        ("resnet34", {}, 3.664),
        ("resnet50", {}, 4.089),
        ("resnet50", {"stride_in": "1x1"}, 3.858),
    ],
)
def test_published_multiply_adds(name, options, billions):
    assert round(mult_adds_at_224(create(name, **options)) / 1e9, 3) == billions


def test_small_images_are_asked_about():
    net = resnet18(num_classes=10)
    with pytest.warns(UserWarning, match=r"images of 32x32 leave maps of 1x1.*cifar_resnet\(depth"):
        net(mr.randn(2, 3, 32, 32))
    assert net(mr.randn(1, 3, 64, 48)).shape == (1, 10)


def test_options():
    net = resnet50(num_classes=3, in_channels=1, zero_init_residual=True, stride_in="1x1")
    assert net.conv1.weight.shape == (64, 1, 7, 7)
    assert net.fc.weight.shape[0] == 3
    assert net.layer2[0].conv1.stride == (2, 2)
    assert zero_weights(net) == [
        f"layer{stage}.{block}.bn3.weight"
        for stage, blocks in enumerate(LAYERS[50], start=1)
        for block in range(blocks)
    ]
    assert zero_weights(resnet18(zero_init_residual=True)) == [
        f"layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert isinstance(resnet18(shortcut="A").layer2[0].downsample, OptionA)


def zero_weights(net):
    return [n for n, p in net.named_parameters() if n.endswith("weight") and not p.data.any()]


def test_initial_weights_are_he_fan_out():
    mr.manual_seed(0)
    weight = resnet18().layer2[0].conv1.weight  # fan-out 128 * 9
    assert weight.data.std() == pytest.approx(np.sqrt(2 / 1152), rel=0.02)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_parity_with_a_torch_transcription(bottleneck):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    mr.manual_seed(0)
    layers = (1, 2, 1, 1)
    net = ResNet(layers, bottleneck=bottleneck, num_classes=4).double()
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 48))
    state = {k: torch.tensor(p.detach().numpy().copy()) for k, p in net.named_parameters()}
    for tensor in state.values():
        tensor.requires_grad_()

    def conv(t, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(t, weight, None, stride, weight.shape[-1] // 2)

    def bn(t, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.batch_norm(t, None, None, weight, bias, True)

    def forward(t):
        t = F.max_pool2d(F.relu(bn(conv(t, "conv1", 2), "bn1")), 3, 2, 1)
        convs = 3 if bottleneck else 2
        for stage, blocks in enumerate(layers, start=1):
            for block in range(blocks):
                at = f"layer{stage}.{block}."
                stride = 2 if stage > 1 and block == 0 else 1
                f = t
                for i in range(1, convs + 1):
                    strided = stride if i == convs - 1 else 1  # the 3x3, or the first of two
                    f = bn(conv(f, f"{at}conv{i}", strided), f"{at}bn{i}")
                    f = F.relu(f) if i < convs else f
                if f"{at}downsample.0.weight" in state:
                    t = bn(conv(t, f"{at}downsample.0", stride), f"{at}downsample.1")
                t = F.relu(f + t)
        return F.linear(t.mean((2, 3)), state["fc.weight"], state["fc.bias"])

    expected = forward(torch.tensor(x))
    expected.square().sum().backward()
    with mr.backend("numpy"):
        y = net(mr.tensor(x))
        (y * y).sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-8)
    for name, param in net.named_parameters():
        want = state[name].grad.numpy()
        np.testing.assert_allclose(
            param.grad.numpy(), want, rtol=1e-5, atol=1e-7 * np.abs(want).max(), err_msg=name
        )

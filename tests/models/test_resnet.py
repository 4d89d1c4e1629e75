import re

import numpy as np
import pytest

import minires as mr
from minires import models, nn
from minires.errors import ArgumentError, ShapeError
from minires.models import (
    BasicBlock,
    Bottleneck,
    OptionA,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    ResNet,
    create,
    resnet18,
    resnet50,
)

LAYERS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
LAYERS[152] = [3, 8, 36, 3]


@pytest.fixture
def undrawn(monkeypatch):
    """Weights stay zeros, so that large networks cost no time and no memory."""
    monkeypatch.setattr(nn.init, "normal_", lambda t, *_: t)
    monkeypatch.setattr(nn.init, "uniform_", lambda t, *_: t)


def torchvision_state(depth, groups=1, width=64):
    """Key -> shape of torchvision's state dicts, in their order, by the rule they follow: a stage
    whose first block changes the shape begins with a downsample in that block."""
    state = {}

    def conv_bn(conv, bn, c_in, c_out, kernel, groups=1):
        state[f"{conv}.weight"] = (c_out, c_in // groups, kernel, kernel)
        state.update({f"{bn}.{part}": (c_out,) for part in ("weight", "bias")})
        state.update({f"{bn}.running_{part}": (c_out,) for part in ("mean", "var")})
        state[f"{bn}.num_batches_tracked"] = ()

    conv_bn("conv1", "bn1", 3, 64, 7)
    c = 64
    for stage, blocks in enumerate(LAYERS[depth]):
        planes = 64 * 2**stage
        inner, out = planes, planes
        if depth >= 50:
            inner, out = int(planes * (width / 64)) * groups, 4 * planes
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}."
            if depth < 50:
                plan = [(c, planes, 3, 1), (planes, planes, 3, 1)]
            else:
                plan = [(c, inner, 1, 1), (inner, inner, 3, groups), (inner, out, 1, 1)]
            for i, (c_in, c_out, kernel, g) in enumerate(plan, start=1):
                conv_bn(f"{at}conv{i}", f"{at}bn{i}", c_in, c_out, kernel, g)
            if block == 0 and (stage > 0 or c != out):
                conv_bn(f"{at}downsample.0", f"{at}downsample.1", c, out, 1)
            c = out
    return state | {"fc.weight": (1000, c), "fc.bias": (1000,)}


@pytest.mark.parametrize(
    ("name", "rule", "keys"),
    [
        ("resnet18", (18,), 122),
        ("resnet34", (34,), 218),
        ("resnet50", (50,), 320),
        ("resnet101", (101,), 626),
        ("resnet152", (152,), 932),
        ("resnext50_32x4d", (50, 32, 4), 320),
        ("resnext101_32x8d", (101, 32, 8), 626),
        ("wide_resnet50_2", (50, 1, 128), 320),
        ("wide_resnet101_2", (101, 1, 128), 626),
    ],
)
def test_state_dicts_are_torchvisions(undrawn, name, rule, keys):
    expected = torchvision_state(*rule)
    assert len(expected) == keys
    for net in (create(name), getattr(models, name)()):
        found = {key: tensor.shape for key, tensor in net.state_dict().items()}
        assert list(found.items()) == list(expected.items())
        assert net.depth == int(re.search(r"\d+", name)[0])


def test_small_images_are_asked_about(undrawn):
    net = resnet18(num_classes=10)
    with pytest.warns(UserWarning, match=r"images of 32x32 leave maps of 1x1.*cifar_resnet\(depth"):
        net(mr.randn(2, 3, 32, 32))
    assert net(mr.randn(1, 3, 64, 48)).shape == (1, 10)
    with pytest.raises(
        ShapeError, match=r"ResNet: expected images of shape \(n, 3, h, w\).*permute"
    ):
        net(mr.randn(1, 64, 48, 3))


def test_options(undrawn):
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


def test_pre_activation_moves_the_stem_s_norm_to_the_end():
    net = ResNet(PreActBlock, (1, 1, 1, 0), num_classes=3)
    assert (net.bn1.num_features, net.depth) == (256, 8)
    x = mr.randn(2, 3, 64, 64)
    maps = nn.functional.max_pool2d(net.conv1(x), 3, 2, 1)
    for stage in (net.layer1, net.layer2, net.layer3):
        maps = stage(maps)
    expected = nn.functional.relu(net.bn1(maps)).mean((2, 3)) @ net.fc.weight.T + net.fc.bias
    got = net(x).detach().numpy()
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert ResNet(PreActBottleneck, (1, 1, 0, 0)).bn1.num_features == 512


def test_plain_network_has_no_second_path():
    mr.manual_seed(0)
    plain = ResNet(PlainBlock, (1, 1, 0, 0), num_classes=3).state_dict()
    mr.manual_seed(0)
    residual = ResNet(BasicBlock, (1, 1, 0, 0), num_classes=3, shortcut="A").state_dict()
    assert list(plain) == list(residual)
    for name in plain:
        np.testing.assert_array_equal(plain[name].numpy(), residual[name].numpy())


@pytest.mark.parametrize(
    ("dilate", "size", "dilations"),
    [
        (None, 2, {1}),
        ((False, False, True), 4, {1, 2}),
        ((False, True, True), 8, {1, 2, 4}),
        ((True, True, True), 16, {1, 2, 4, 8}),
    ],
)
def test_dilation_instead_of_stride(undrawn, dilate, size, dilations):
    net = ResNet(Bottleneck, (1, 2, 2, 2), 3, replace_stride_with_dilation=dilate)
    assert net.features(mr.randn(1, 3, 64, 64)).shape == (1, 2048, size, size)
    convs = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {conv.dilation[0] for conv in convs.values()} == dilations
    if dilate == (False, True, True):  # as in torchvision: the first block has the one before
        found = [convs[f"layer{i}.{j}.conv2"].dilation[0] for i in (2, 3, 4) for j in (0, 1)]
        assert found == [1, 1, 1, 2, 2, 4]


@pytest.mark.slow
def test_parity_of_a_dilated_grouped_block():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    block = Bottleneck(8, 4, groups=2, width_per_group=32, dilation=2).double()
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 7))
    t = torch.tensor(x)
    for i, (padding, dilation, groups) in enumerate([(0, 1, 1), (2, 2, 2), (0, 1, 1)], start=1):
        weight = torch.tensor(getattr(block, f"conv{i}").weight.detach().numpy())
        t = F.conv2d(t, weight, None, 1, padding, dilation, groups)
        t = F.batch_norm(t, None, None, training=True)
        t = F.relu(t) if i < 3 else t
    with mr.backend("numpy"):
        got = block.residual(mr.tensor(x)).detach().numpy()
    np.testing.assert_allclose(got, t.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ResNet(BasicBlock, (1, 1)),
            r"layers of four stages: 4 integers >= 0, got \(1, 1\)",
        ),
        (lambda: ResNet(BasicBlock, (0, 0, 0, 0)), r"layers of 1 to 10,000 blocks in all, got 0 "),
        (lambda: ResNet(BasicBlock, (1, -1, 0, 0)), r"4 integers >= 0, got \(1, -1, 0, 0\)"),
        (lambda: ResNet(BasicBlock, 3), r"ResNet: expected layers of four stages: .*, got 3"),
        (lambda: ResNet(BasicBlock, (1, "2", 1, 1)), r"integers >= 0, got \(1, '2', 1, 1\)"),
        (lambda: ResNet(3, (1, 1, 1, 1)), "class of blocks from minires.models, such as B.* got 3"),
        (lambda: ResNet(nn.Conv2d, (1, 1, 1, 1)), "ResNet: expected a class of .*, got Conv2d"),
        (lambda: ResNet(BasicBlock(3, 3), (1,) * 4), "got a BasicBlock that is made already"),
        (lambda: resnet18(norm_layer=3), "ResNet: expected norm_layer a class .* got 3. Such as"),
        (
            lambda: resnet18(norm_layer=nn.BatchNorm2d(3)),
            r"a BatchNorm2d that is .*GroupNorm\(8",
        ),
        (
            lambda: resnet18(dropout="x"),
            "BasicBlock: expected dropout a number >= 0 and <= 1, got 'x'",
        ),
        (
            lambda: resnet18(survival=2),
            "ResNet: expected survival a finite number >= 0 and <= 1, got 2",
        ),
        (
            lambda: resnet18(survival="x"),
            "ResNet: expected survival a number >= 0 and <= 1, got 'x'",
        ),
        (lambda: resnet18(reduction="x"), "reduction an integer >= 1 and <= 64, got 'x'"),
        (lambda: resnet18(replace_stride_with_dilation=3), "stages 2, 3 and 4, .* got 3"),
        (lambda: resnet18(groups=2), "groups 1 and width_per_group 64.*got 2 and 64.*Bottleneck"),
        (lambda: resnet18(replace_stride_with_dilation=[True]), r"three booleans, got \[True\]"),
        (lambda: create("plain18", shortcut="A"), "PlainBlock: expected no options of shortcuts"),
        (lambda: create("plain18", survival=0.5), "plain network, got shortcut=None, survival=0.5"),
    ],
)
def test_bad_arguments(undrawn, make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def zero_weights(net):
    """The batch norms whose weight is 0."""
    norms = {f"{n}.weight": m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return [name for name, norm in norms.items() if not norm.weight.data.any()]


def test_initial_weights_are_he_fan_out():
    mr.manual_seed(0)
    weight = resnet18().layer2[0].conv1.weight  # fan-out 128 * 9
    assert weight.data.std() == pytest.approx(np.sqrt(2 / 1152), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck", [False, True])
def test_parity_with_a_torch_transcription(bottleneck):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    mr.manual_seed(0)
    layers = (1, 2, 1, 1)
    net = ResNet(Bottleneck if bottleneck else BasicBlock, layers, num_classes=4).double()
    x = np.random.default_rng(0).standard_normal((2, 3, 34, 40))
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


@pytest.mark.parametrize("option", [{"pretrained": True}, {"weights": None}, {"progress": False}])
def test_trained_weights_are_elsewhere(option):
    with pytest.raises(ArgumentError, match=r"no trained weights come.*minires\.load\("):
        resnet18(**option)

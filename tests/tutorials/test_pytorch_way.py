"""The PyTorch way: the same files under both libraries, and the training script."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import minires as mr
from minires import models, nn

# One or two blocks per stage have every kind of connection that 152 layers have.
STYLES = {
    "basic": ("BasicBlock", [2, 1, 1, 1], {}),
    "grouped and dilated": (
        "Bottleneck",
        [1, 1, 2, 1],
        {
            "groups": 32,
            "width_per_group": 4,
            "replace_stride_with_dilation": [False, True, True],
        },
    ),
}


def pair(in_library, name, build):
    """One network under both libraries in double precision, with the same weights."""
    torch = pytest.importorskip("torch")
    ours = build(in_library(name, "minires")).double()
    theirs = build(in_library(name, "torch")).double()
    own = {key: value.numpy() for key, value in ours.state_dict().items()}
    assert list(own) == list(theirs.state_dict())
    theirs.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in own.items()})
    return ours, theirs


def check_alike(ours, theirs, x, labels):
    """Logits in both modes, every gradient and the running statistics."""
    import torch

    y_ours, y_theirs = ours(mr.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y_ours.data, y_theirs.detach().numpy(), rtol=1e-9, atol=1e-10)
    mr.cross_entropy(y_ours, mr.tensor(labels)).backward()
    torch.nn.functional.cross_entropy(y_theirs, torch.tensor(labels)).backward()
    gradients = dict(theirs.named_parameters())
    for name, param in ours.named_parameters():
        expected = gradients[name].grad.numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            param.grad.data, expected, rtol=0, atol=1e-9 * scale + 1e-14, err_msg=name
        )
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        np.testing.assert_allclose(buffer.data, buffers[name].numpy(), rtol=1e-9, err_msg=name)
    ours.eval()
    theirs.eval()
    y_ours, y_theirs = ours(mr.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y_ours.data, y_theirs.detach().numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_parity_of_the_plain_file(in_library, block):
    ours, theirs = pair(
        in_library, "resnet_pytorch", lambda m: m.ResNet(getattr(m, block), [2, 1, 1, 1])
    )
    rng = np.random.default_rng(0)
    check_alike(ours, theirs, rng.normal(size=(3, 1, 40, 33)), rng.integers(0, 10, 3))


@pytest.mark.slow
def test_parity_of_its_training(in_library):
    """Three steps on the same batch, with momentum, decay and a rate that falls after two."""
    torch = pytest.importorskip("torch")
    plain, other = (in_library("resnet_pytorch", library) for library in ("minires", "torch"))
    ours, theirs = pair(in_library, "resnet_pytorch", lambda m: m.ResNet(m.BasicBlock, [1] * 4))
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 1, 33, 33)), rng.integers(0, 10, 4)
    results = []
    for module, model, tensor, loss in (
        (plain, ours, mr.tensor, nn.CrossEntropyLoss()),
        (other, theirs, torch.tensor, torch.nn.CrossEntropyLoss()),
    ):
        optimizer, scheduler = module.make_optimizer(model, lr=0.01)
        same = [(tensor(x), tensor(y))]
        losses = []
        for _ in range(3):
            losses += module.train_epoch(model, same, loss, optimizer)
            scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
        results.append([*losses, module.evaluate(model, same)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_parity_of_the_torchvision_style(in_library, style):
    block, layers, options = STYLES[style]

    def build(module):
        return module.ResNet(getattr(module, block), layers, num_classes=5, **options)

    ours, theirs = pair(in_library, "resnet_torchvision", build)
    rng = np.random.default_rng(0)
    check_alike(ours, theirs, rng.normal(size=(2, 3, 33, 33)), rng.integers(0, 5, 2))


@pytest.mark.slow
def test_parity_of_another_norm_layer(in_library):
    pytest.importorskip("torch")
    libraries = {"minires": nn}
    import torch

    libraries["torch"] = torch.nn

    def build(module):
        library = libraries["torch" if module.torch is torch else "minires"]
        norm = functools.partial(library.GroupNorm, 8)
        return module.ResNet(module.BasicBlock, [1] * 4, num_classes=5, norm_layer=norm)

    ours, theirs = pair(in_library, "resnet_torchvision", build)
    rng = np.random.default_rng(0)
    check_alike(ours, theirs, rng.normal(size=(2, 3, 33, 33)), rng.integers(0, 5, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_and_shapes_are_those_of_the_zoo(tutorial, name):
    """The hand-written family is the zoo's: a state dict of one loads into the other."""
    family = tutorial("resnet_torchvision")
    ours, zoo = getattr(family, name)(num_classes=10), models.create(name, num_classes=10)
    shapes = {key: value.shape for key, value in zoo.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # torchvision's counts, less the two of the three input channels of the first convolution
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_of_the_plain_file(tutorial, monkeypatch, name, parameters):
    # Filling 60 million weights with random numbers takes seconds, and nobody looks at them.
    for layer in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(layer, "reset_parameters", lambda self: None)
    net = getattr(tutorial("resnet_pytorch"), name)(num_classes=1000)
    assert sum(p.numel() for p in net.parameters()) == parameters - 2 * 64 * 49


def test_initial_weights_of_the_torchvision_style(tutorial):
    family = tutorial("resnet_torchvision")
    net = family.ResNet(family.Bottleneck, [1] * 4, num_classes=4, zero_init_residual=True)
    weight = net.layer4[0].conv2.weight.data
    assert weight.std() == pytest.approx(np.sqrt(2 / (512 * 9)), rel=0.01)
    assert not net.layer4[0].bn3.weight.data.any()
    assert net.layer4[0].bn2.weight.data.all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 2}, "one group of width 64, not 2 of 64"),
        ({"replace_stride_with_dilation": [True]}, r"3 entries, got \[True\]"),
    ],
)
def test_options_that_cannot_be(tutorial, options, words):
    family = tutorial("resnet_torchvision")
    with pytest.raises(ValueError, match=words):
        family.ResNet(family.BasicBlock, [1] * 4, **options)


def test_dilation_keeps_the_size(tutorial):
    family = tutorial("resnet_torchvision")
    options = {"replace_stride_with_dilation": [False, True, True], "width_per_group": 16}
    net = family.ResNet(family.Bottleneck, [1, 1, 2, 2], num_classes=4, **options)
    seen = []
    for stage in (net.layer2, net.layer3, net.layer4):
        stage.register_forward_hook(lambda module, args, out: seen.append(out.shape[2:]))
    net(mr.randn(2, 3, 64, 64))
    assert seen == [(8, 8)] * 3
    assert [block.conv2.dilation for block in net.layer4] == [(2, 2), (4, 4)]


@pytest.mark.slow
def test_training_script(tutorial, capsys):
    result = tutorial("pytorch_way").main(["--quick"])
    assert 0 < result["loss"] < 5
    assert "epoch 1: loss" in capsys.readouterr().out

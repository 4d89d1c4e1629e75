import pytest

from minires import nn
from minires.errors import ArgumentError
from minires.models import create, list_models
from minires.models.registry import options_of, registry


@pytest.fixture
def undrawn(monkeypatch):
    """Weights stay zeros, so that large networks cost no time and no memory."""
    monkeypatch.setattr(nn.init, "normal_", lambda t, *_: t)
    monkeypatch.setattr(nn.init, "uniform_", lambda t, *_: t)


def test_patterns():
    assert list_models("cifar_plain5*") == ["cifar_plain56"]
    assert list_models("res*_v1") == ["resnet50_v1", "resnet101_v1", "resnet152_v1"]
    assert list_models("se_resnet*") == [f"se_resnet{d}" for d in (18, 34, 50, 101, 152)]
    assert list_models() == list(registry)
    wanted = {"plain34", "resnet200_v2", "resnext50_32x4d", "wide_resnet50_2", "keras_resnet50"}
    wanted |= {"cifar_resnet1202", "cifar_resnet1001_v2", "cifar_wide_resnet28_10"}
    assert wanted <= set(list_models())


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("resnt*", r"unknown model 'resnt\*': did you mean resnet\d+"),
        ("vgg*", r"unknown model 'vgg\*'\. Known: cifar_plain110, .* and \d+ more"),
        (3, r'list_models: expected a pattern as text, got 3. Such as list_models\("resnet\*"\)'),
    ],
)
def test_patterns_without_a_match(pattern, words):
    with pytest.raises(ArgumentError, match=words):
        list_models(pattern)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_option_of_every_network_is_taken(undrawn, name):
    if name in ("cifar_resnet1202", "cifar_plain1202", "cifar_resnet1001_v2"):
        pytest.skip("its smaller siblings have the same options")
    usual = {
        "num_classes": 5,
        "classes": 5,
        "in_channels": 1,
        "input_shape": (1, 64, 64),
        "zero_init_residual": True,
        "norm_layer": nn.BatchNorm2d,
        "dropout": 0.1,
        "reduction": 4,
        "survival": 0.5,
        "shortcut": "C",
        "stride_in": "1x1",
        "replace_stride_with_dilation": (False, False, True),
        "groups": 2,
        "width_per_group": 32,
        "pre_activation": True,
        "bottleneck": False,
        "softmax": False,
    }
    options = {option: usual[option] for option in options_of(name)}
    if name.startswith("plain"):
        del options["survival"], options["shortcut"]
    if "groups" in options and ("18" in name or "34" in name):
        del options["groups"], options["width_per_group"]
    net = create(name, **options)
    assert net.image_shape[0] == 1
    assert net.fc.out_features == 5
    if "survival" in options:
        last = [m for m in net.modules() if hasattr(m, "survival")][-1]
        assert last.survival == pytest.approx(0.5)
        assert last.dropout.p == 0.1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet5", {}, "unknown model 'resnet5': did you mean resnet50"),
        ("resnext50_32", {}, "unknown model 'resnext50_32': did you mean resnext50_32x4d"),
        (
            "resnet50",
            {"num_class": 3},
            "unknown option of resnet50 'num_class': did you mean num_c",
        ),
        ("resnet50_v1", {"stride_in": "3x3"}, "unknown option of resnet50_v1 'stride_in'"),
        ("wide_resnet50_2", {"width_per_group": 3}, "option of wide_resnet50_2 'width_per_group'"),
        ("se_resnet18", {"reduction": 8}, "unknown option of se_resnet18 'reduction'"),
        ("cifar_plain20", {"shortcut": "A"}, "unknown option of cifar_plain20 'shortcut'"),
        ("cifar_resnet164_v2", {"depth": 20}, "unknown option of cifar_resnet164_v2 'depth'"),
        ("keras_resnet50", {"num_classes": 3}, "Known: classes, input_shape, softmax"),
    ],
)
def test_typos(name, options, words):
    with pytest.raises(ArgumentError, match=words):
        create(name, **options)

"""Parameters and multiply-adds of the whole zoo, held against published figures.

No network is run: weights are not drawn, and the layers' functions are replaced by others that
work out shapes and count. The table in ``docs/models.md`` is made of the same numbers; this writes
it anew: ``python tests/models/test_counts.py``.
"""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import minires as mr
from minires import models, nn
from minires.nn import functional as F
from minires.nn import init
from minires.tensor import Tensor

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# Short names of sources; the page says what they are.
HE, OSMR, TORCHVISION, TIMM = "He 2015", "imgclsmob", "torchvision", "timm"
HU, ZAGORUYKO, KERAS = "Hu 2018; imgclsmob", "Zagoruyko 2016", "courses"
# Name, options that are not its defaults, published parameters and multiply-adds ("" if there are
# none) with the digits they are published with, source.
ROWS = [
    ("resnet18", {}, "11,689,512", "1.81 G", TORCHVISION),
    ("resnet34", {}, "21,797,672", "3.66 G", TORCHVISION),
    ("resnet50", {}, "25,557,032", "4.09 G", TORCHVISION),
    ("resnet101", {}, "44,549,160", "7.80 G", TORCHVISION),
    ("resnet152", {}, "60,192,808", "11.51 G", TORCHVISION),
    ("resnet50_v1", {}, "25,557,032", "3.8 G", "He 2015; imgclsmob"),
    ("resnet101_v1", {}, "44,549,160", "7.6 G", "He 2015; imgclsmob"),
    ("resnet152_v1", {}, "60,192,808", "11.3 G", "He 2015; imgclsmob"),
    ("resnet18_v2", {}, "11,687,848", "", OSMR),
    ("resnet34_v2", {}, "21,796,008", "", OSMR),
    ("resnet50_v2", {}, "25,549,480", "", OSMR),
    ("resnet101_v2", {}, "44,541,608", "", OSMR),
    ("resnet152_v2", {}, "60,185,256", "", OSMR),
    ("resnet200_v2", {}, "64,666,280", "", OSMR),
    ("plain18", {}, "", "1.8 G", HE),
    ("plain34", {}, "", "3.6 G", HE),
    ("resnext50_32x4d", {}, "25,028,904", "4.23 G", TORCHVISION),
    ("resnext101_32x8d", {}, "88,791,336", "16.41 G", TORCHVISION),
    ("wide_resnet50_2", {}, "68,883,240", "11.40 G", TORCHVISION),
    ("wide_resnet101_2", {}, "126,886,696", "22.75 G", TORCHVISION),
    ("se_resnet18", {}, "11,778,592", "", OSMR),
    ("se_resnet34", {}, "22 M", "", TIMM),
    ("se_resnet50", {}, "28,088,024", "", OSMR),
    ("se_resnet50", {"stride_in": "1x1"}, "28,088,024", "3.87 G", HU),
    ("se_resnet101", {}, "49,326,872", "", OSMR),
    ("se_resnet101", {"stride_in": "1x1"}, "49,326,872", "7.60 G", HU),
    ("se_resnet152", {}, "66,821,848", "", OSMR),
    ("se_resnet152", {"stride_in": "1x1"}, "66,821,848", "11.32 G", HU),
    ("keras_resnet50", {}, "23,546,886", "", KERAS),
    ("cifar_resnet8", {}, "", "", ""),
    ("cifar_resnet14", {}, "", "", ""),
    ("cifar_resnet20", {}, "0.27 M", "", HE),
    ("cifar_resnet32", {}, "0.46 M", "", HE),
    ("cifar_resnet44", {}, "0.66 M", "", HE),
    ("cifar_resnet56", {}, "0.85 M", "", HE),
    ("cifar_resnet110", {}, "1.7 M", "", HE),
    ("cifar_resnet1202", {}, "19.4 M", "", HE),
    ("cifar_resnet20", {"shortcut": "B"}, "272,474", "", OSMR),
    ("cifar_resnet56", {"shortcut": "B"}, "855,770", "", OSMR),
    ("cifar_resnet110", {"shortcut": "B"}, "1,730,714", "", OSMR),
    *((f"cifar_plain{d}", {}, "", "", "") for d in (8, 14, 20, 32, 44, 56, 110, 1202)),
    *((f"cifar_resnet{d}_v2", {}, "", "", "") for d in (20, 32, 44, 56)),
    ("cifar_resnet110_v2", {}, "1.7 M", "", ZAGORUYKO),
    ("cifar_resnet164_v2", {}, "1,703,258", "", OSMR),
    ("cifar_resnet1001_v2", {}, "10,327,706", "", OSMR),
    ("cifar_wide_resnet16_8", {}, "11.0 M", "", ZAGORUYKO),
    ("cifar_wide_resnet28_10", {}, "36,479,194", "", OSMR),
    ("cifar_wide_resnet40_4", {}, "8.9 M", "", ZAGORUYKO),
]


@contextlib.contextmanager
def undrawn():
    """Inside, weights are zeros that were never touched: a network costs no time and no memory."""
    with mock.patch.multiple(init, normal_=lambda t, *_: t, uniform_=lambda t, *_: t):
        yield


class Shapes:
    """Stands for ``nn.functional``: blank results of the right shapes, and a count."""

    def __init__(self):
        self.multiply_adds = 0

    @staticmethod
    def blank(*shape):
        return Tensor(np.broadcast_to(np.float32(0), shape))

    def conv2d(self, x, w, b, stride, padding, dilation, groups):
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape[2:], padding, dilation, w.shape[2:], stride)
        ]
        assert x.shape[1] == w.shape[1] * groups
        y = self.blank(x.shape[0], w.shape[0], *size)
        self.multiply_adds += math.prod(y.shape) * math.prod(w.shape[1:])
        return y

    def linear(self, x, w, b):
        assert x.shape[1] == w.shape[1]
        self.multiply_adds += x.shape[0] * math.prod(w.shape)
        return self.blank(x.shape[0], w.shape[0])

    def max_pool2d(self, x, kernel, stride, padding=0, *_):
        size = [(n + 2 * padding - kernel) // stride + 1 for n in x.shape[2:]]
        return self.blank(*x.shape[:2], *size)

    def avg_pool2d(self, x, kernel, stride, *_):
        return self.max_pool2d(x, kernel, stride)

    def adaptive_avg_pool2d(self, x, size):
        assert size == 1
        return self.blank(*x.shape[:2], 1, 1)

    @contextlib.contextmanager
    def instead(self):
        """Inside, layers call these."""
        own = [name for name in vars(Shapes) if name in F.__all__]
        same = dict.fromkeys(("batch_norm", "relu", "sigmoid", "softmax"), lambda x, *_: x)
        with mock.patch.multiple(F, **{name: getattr(self, name) for name in own}, **same):
            yield


def counts(name, **options):
    """Parameters, and multiply-adds for one image, of a network of the zoo."""
    shapes = Shapes()
    with undrawn():
        net = models.create(name, **options)
    with mr.no_grad(), shapes.instead():
        y = net(shapes.blank(1, *net.image_shape))
    classes = options.get("num_classes", {224: 1000, 64: 6, 32: 10}[net.image_shape[1]])
    assert y.shape == (1, classes)
    return sum(p.numel() for p in net.parameters()), shapes.multiply_adds


@pytest.fixture(scope="module")
def zoo():
    """The counts of every row."""
    return [counts(name, **options) for name, options, *_ in ROWS]


def as_number(text):
    """A published figure, and half of its last digit."""
    digits, _, unit = text.partition(" ")
    scale = {"": 1, "M": 1e6, "G": 1e9}[unit]
    decimals = len(digits.partition(".")[2])
    return float(digits.replace(",", "")) * scale, 0.5 * scale * 10**-decimals


def deviation(ours, published):
    """ "0" where ours is the published figure to its last digit, else by how much it is off."""
    if not published:
        return ""
    value, half = as_number(published)
    if abs(ours - value) <= half:
        return "0"
    return f"{ours - value:+,.0f}" if half < 1 else f"{100 * (ours / value - 1):+.1f} %"


def test_the_table_is_of_the_whole_zoo():
    assert {name for name, *_ in ROWS} == set(models.list_models())


@pytest.mark.slow
def test_parameters_are_the_published_ones(zoo):
    for (name, _, published, *_), (parameters, _) in zip(ROWS, zoo):
        # imgclsmob's v2 networks have a batch norm in the stem, too, of 64 channels
        off = "-128" if re.fullmatch(r"resnet\d+_v2", name) else "0"
        assert deviation(parameters, published) == (published and off), name


@pytest.mark.slow
def test_multiply_adds_are_the_published_ones(zoo):
    # The paper has 3.858 as 3.8; Hu et al. count what is done on pooled maps and in scaling, too.
    off = {"resnet50_v1": "+1.5 %", "se_resnet50": "-0.2 %"}
    off |= {"se_resnet101": "-0.3 %", "se_resnet152": "-0.3 %"}
    for (name, _, _, published, _), (_, multiply_adds) in zip(ROWS, zoo):
        assert deviation(multiply_adds, published) == (published and off.get(name, "0")), name


def test_plain_twins_count_as_much_as_their_residual_networks(zoo):
    found = {name: count for (name, options, *_), count in zip(ROWS, zoo) if not options}
    for depth in (8, 14, 20, 32, 44, 56, 110, 1202):
        assert found[f"cifar_plain{depth}"] == found[f"cifar_resnet{depth}"]
    for depth in (18, 34):  # shortcut A adds no parameter
        assert found[f"plain{depth}"] == counts(f"resnet{depth}", shortcut="A")


def test_the_count_is_what_summary_counts():
    net = models.create("cifar_resnet20")
    result = nn.summary(net, (1, 3, 32, 32))
    assert counts("cifar_resnet20") == (result.total_params, result.total_mult_adds)
    assert counts("cifar_resnet20") == (269_722, 40_551_040)


@pytest.mark.parametrize(
    ("ours", "published", "text"),
    [
        (4_089_000_000, "4.09 G", "0"),
        (3_858_000_000, "3.8 G", "+1.5 %"),
        (25_549_352, "25,549,480", "-128"),
        (1, "", ""),
    ],
)
def test_deviation(ours, published, text):
    assert deviation(ours, published) == text


# **** the page ****


def table(zoo):
    lines = [
        "| name | parameters | multiply-adds | published | off by | source |",
        "|---|---:|---:|---|---|---|",
    ]
    for (name, options, *published, source), count in zip(ROWS, zoo):
        label = ", ".join([f"`{name}`", *(f'`{key}="{value}"`' for key, value in options.items())])
        off = [deviation(ours, figure) for ours, figure in zip(count, published)]
        size = f"{count[1] / 1e9:.3f} G" if count[1] >= 1e9 else f"{count[1] / 1e6:.2f} M"
        figures, offs = ("; ".join(filter(None, some)) for some in (published, off))
        lines.append(f"| {label} | {count[0]:,} | {size} | {figures} | {offs} | {source} |")
    return "\n".join(lines) + "\n"


TABLE = re.compile(r"^\| name \| parameters .*\n(?:\|.*\n)+", re.MULTILINE)


def test_the_page_shows_these_counts(zoo):
    (shown,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    expected = table(zoo)
    assert shown == expected, "run: python tests/models/test_counts.py"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    new = table([counts(name, **options) for name, options, *_ in ROWS])
    PAGE.write_text(TABLE.sub(lambda _: new, text), encoding="utf-8")

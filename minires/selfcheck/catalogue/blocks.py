"""Cases of the residual blocks, their plain twins, and whole networks."""

from __future__ import annotations

from typing import Any

from ... import models
from ...nn import Module
from ...tensor import Tensor
from .case import Case, Values, normal, together

# Whole networks have too many parameters for every entry of their Jacobian.
PROBES = 2


def _cases_of(kind: Any, same: int, other: tuple[int, int], plain: bool = False) -> list[Case]:
    """The identity, and each shortcut where it differs from it, in training and evaluation.

    Args:
        same: channels (in and out) of the block that keeps its shape.
        other: (channels in, channels inside) of the block that changes it.
        plain: whether the block has no shortcut to choose.
    """

    def case(label: str, x: Values, *arguments: int, training: bool, **options: str) -> Case:
        def make() -> Module:
            return kind(*arguments, **options).train(training)

        mode = "train" if training else "eval"
        return Case("block", kind.__name__, ", ".join((mode, label)), {"x": x}, module=make)

    x, inside = normal(2, same, 2, 3), same // kind.expansion
    changed = normal(2, other[0], 3, 2)
    cases = []
    for training in (True, False):
        cases.append(case("stride 1", x, same, inside, training=training))
        if plain:
            cases.append(case("stride 2", changed, *other, 2, training=training))
            continue
        for shortcut in "AB" if training else "B":
            label = f"stride 2, shortcut {shortcut}"
            cases.append(case(label, changed, *other, 2, training=training, shortcut=shortcut))
    if not plain:
        cases.append(case("stride 1, shortcut C", x, same, inside, training=True, shortcut="C"))
    return cases


def _option_a(x: Tensor) -> Tensor:
    return models.OptionA(2, 5, 2)(x)


CASES = [
    Case(
        *("block", "OptionA", "stride 2, 2 to 5 channels", {"x": normal(2, 2, 3, 4)}, _option_a),
        linear=together("x"),
        kernels=False,
    ),
    Case(
        *("block", "SqueezeExcitation", "4 to 2 channels", {"x": normal(2, 4, 2, 3)}),
        module=lambda: models.SqueezeExcitation(4, reduction=2),
    ),
    *_cases_of(models.PlainBlock, 2, (2, 3), plain=True),
    *_cases_of(models.BasicBlock, 2, (2, 3)),
    Case(
        *("block", "Bottleneck", "train, stride 2 in the 1x1", {"x": normal(2, 3, 3, 2)}),
        module=lambda: models.Bottleneck(3, 2, 2, stride_in="1x1"),
    ),
    Case(
        *("block", "Bottleneck", "train, 2 groups, dilation 2, squeeze and excitation"),
        {"x": normal(2, 3, 3, 4)},
        module=lambda: models.Bottleneck(
            3, 1, groups=2, width_per_group=128, dilation=2, reduction=2
        ),
    ),
    *_cases_of(models.Bottleneck, 8, (3, 2)),
    *_cases_of(models.PreActPlainBlock, 2, (2, 3), plain=True),
    *_cases_of(models.PreActBlock, 2, (2, 3)),
    Case(
        *("block", "PreActBlock", "eval, survival 0.7", {"x": normal(2, 2, 2, 3)}),
        module=lambda: models.PreActBlock(2, 2, survival=0.7).eval(),
    ),
    *_cases_of(models.PreActBottleneck, 8, (3, 2)),
    Case(
        *("block", "CifarNet", "residual, depth 8", {"x": normal(2, 1, 8, 8)}),
        module=lambda: models.cifar_resnet(8, num_classes=3, in_channels=1),
        probes=PROBES,
    ),
    Case(
        *("block", "CifarNet", "pre-activation, depth 8", {"x": normal(2, 1, 8, 8)}),
        module=lambda: models.cifar_resnet(8, num_classes=3, in_channels=1, pre_activation=True),
        probes=PROBES,
    ),
    Case(
        *("block", "ResNet", "one block", {"x": normal(2, 1, 8, 8)}),
        module=lambda: models.ResNet(models.BasicBlock, (1, 0, 0, 0), num_classes=3, in_channels=1),
        probes=PROBES,
    ),
]

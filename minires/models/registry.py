"""Models by name, for the command line and for configurations that are plain text."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, message, quoted, unknown
from minires.models import resnet
from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
)
from minires.models.cifar import cifar_plain, cifar_resnet, cifar_wide_resnet
from minires.models.keras import keras_resnet50
from minires.models.resnet import STAGES, ResNet
from minires.nn import Module

_CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)


def _imagenet(basic: Any, bottleneck: Any, depth: int, **fixed: Any) -> Callable[..., Module]:
    block = basic if depth < 50 else bottleneck
    return functools.partial(ResNet, block, STAGES[depth], **fixed)


def _v2_bottlenecks(depth: int) -> Callable[..., Module]:
    return functools.partial(
        cifar_resnet, depth, pre_activation=True, bottleneck=True, shortcut="B"
    )


registry: dict[str, Callable[..., Module]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    **{
        f"resnet{depth}_v1": _imagenet(BasicBlock, Bottleneck, depth, stride_in="1x1")
        for depth in (50, 101, 152)
    },
    **{
        f"resnet{depth}_v2": _imagenet(PreActBlock, PreActBottleneck, depth)
        for depth in (18, 34, 50, 101, 152, 200)
    },
    "plain18": _imagenet(PlainBlock, None, 18),
    "plain34": _imagenet(PlainBlock, None, 34),
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "resnext101_32x8d": resnet.resnext101_32x8d,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
    **{
        f"se_resnet{depth}": _imagenet(BasicBlock, Bottleneck, depth, reduction=16)
        for depth in (18, 34, 50, 101, 152)
    },
    "keras_resnet50": keras_resnet50,
    **{f"cifar_resnet{depth}": functools.partial(cifar_resnet, depth) for depth in _CIFAR_DEPTHS},
    **{f"cifar_plain{depth}": functools.partial(cifar_plain, depth) for depth in _CIFAR_DEPTHS},
    **{
        f"cifar_resnet{depth}_v2": functools.partial(cifar_resnet, depth, pre_activation=True)
        for depth in (20, 32, 44, 56, 110)
    },
    "cifar_resnet164_v2": _v2_bottlenecks(164),
    "cifar_resnet1001_v2": _v2_bottlenecks(1001),
    "cifar_wide_resnet16_8": functools.partial(cifar_wide_resnet, 16, 8),
    "cifar_wide_resnet28_10": functools.partial(cifar_wide_resnet, 28, 10),
    "cifar_wide_resnet40_4": functools.partial(cifar_wide_resnet, 40, 4),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that :func:`create` knows and that match a shell pattern, in the registry's order.

    Raises:
        ArgumentError: no text, or a pattern that no name matches; names the nearest that exist.

    >>> list_models("resnet1*")
    ['resnet18', 'resnet101', 'resnet152', 'resnet101_v1', 'resnet152_v1', 'resnet18_v2', \
'resnet101_v2', 'resnet152_v2']
    """
    if not isinstance(pattern, str):
        fix = 'Such as list_models("resnet*").'
        raise ArgumentError(message("list_models", "a pattern as text", quoted(pattern), fix=fix))
    names = [name for name in registry if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise unknown("model", pattern, registry)
    return names


def create(name: str, **options: Any) -> Module:
    """Build a model by its name; ``options`` go to its constructor.

    >>> create("cifar_resnet20", in_channels=1).depth
    20

    Raises:
        ArgumentError: an unknown name, or an option that this model does not have.
    """
    known = options_of(name)
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return registry[name](**options)


def options_of(name: str) -> list[str]:
    """The options that :func:`create` takes for a model; those that its name decides are not
    among them.

    >>> options_of("cifar_plain20")
    ['num_classes', 'in_channels', 'pre_activation']
    """
    build = registry[arguments.choice("model", name, registry)]
    fixed: dict[str, Any] = {}
    function: Any = build
    if isinstance(build, functools.partial):
        fixed, function = build.keywords, build.func
    names: list[str] = []
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:  # **options: Unpack[SomeTypedDict]
            hints = typing.get_type_hints(
                function.__init__ if inspect.isclass(function) else function
            )
            names += typing.get_type_hints(typing.get_args(hints[parameter.name])[0])
        else:
            names.append(parameter.name)
    return [option for option in names if option not in fixed]

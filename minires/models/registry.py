"""Models by name, for the command line and for configurations that are plain text."""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Callable
from typing import Any

from minires.errors import unknown
from minires.models.cifar import cifar_plain, cifar_resnet
from minires.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from minires.nn import Module

_CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)

registry: dict[str, Callable[..., Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    **{f"cifar_resnet{depth}": functools.partial(cifar_resnet, depth) for depth in _CIFAR_DEPTHS},
    **{f"cifar_plain{depth}": functools.partial(cifar_plain, depth) for depth in _CIFAR_DEPTHS},
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that :func:`create` knows and that match a shell pattern, in the registry's order.

    >>> list_models("resnet1*")
    ['resnet18', 'resnet101', 'resnet152']
    """
    return [name for name in registry if fnmatch.fnmatchcase(name, pattern)]


def create(name: str, **options: Any) -> Module:
    """Build a model by its name; ``options`` go to its constructor.

    >>> create("cifar_resnet20", in_channels=1).depth
    20

    Raises:
        ArgumentError: an unknown name, or an option that this model does not have.
    """
    if name not in registry:
        raise unknown("model", name, registry)
    build = registry[name]
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return build(**options)

"""The normalisation of a network, made by what a user passes as ``norm_layer``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires.errors import ArgumentError, MiniresError, message, quoted
from minires.nn import Module

Norm = Callable[[int], Module]  # makes the normalisation of so many channels


def check_norm(name: str, norm_layer: Any) -> None:
    """Refuse what cannot make norms: a number, a name, or a norm that is made already.

    Raises:
        ArgumentError: beginning with ``name``.
    """
    if not callable(norm_layer) or isinstance(norm_layer, Module):
        raise ArgumentError(
            message(
                name,
                "norm_layer a class or function that makes the norm of so many channels",
                in_one_line(norm_layer),
                fix="Such as nn.BatchNorm2d itself, or lambda c: nn.GroupNorm(8, c).",
            )
        )


def make_norm(name: str, norm_layer: Norm, channels: int) -> Module:
    """The module that ``norm_layer`` returns for so many channels.

    Raises:
        ArgumentError: ``norm_layer`` returns no module, or cannot be called with a number.
    """
    expected = f"a module from norm_layer({channels})"
    try:
        norm = norm_layer(channels)
    except MiniresError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ArgumentError(message(name, expected, got)) from error
    if not isinstance(norm, Module):
        raise ArgumentError(message(name, expected, quoted(norm)))
    return norm


def in_one_line(value: Any) -> str:
    """A wrong argument as an error quotes it: the text of a module would take several lines."""
    if isinstance(value, Module):
        return f"a {type(value).__name__} that is made already"
    return value.__name__ if isinstance(value, type) else quoted(value)

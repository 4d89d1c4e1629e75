"""Parameter groups that spare biases and batch-norm parameters from weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minires.arguments import iterator, number
from minires.device import is_array
from minires.errors import ArgumentError, message, quoted
from minires.tensor import Tensor


def no_decay_groups(
    model_or_named_params: Any | Iterable[tuple[str, Tensor]], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups for an optimiser: weights with decay, then biases and norm parameters without.

    The number of dimensions tells them apart: conv and linear weights have two or more, biases
    and the γ and β of batch norm have one. Decay of γ pulls the scale of a residual branch
    towards 0, and a bias has no scale that decay could regularise ("no bias decay": He et al.,
    "Bag of Tricks for Image Classification with CNNs", CVPR 2019, section 3.1).

    ::

        optimizer = SGD(no_decay_groups(net, 1e-4), lr=0.1, momentum=0.9)

    Args:
        model_or_named_params: a module, or ``(name, tensor)`` pairs.
        weight_decay: decay of the first group, >= 0.

    Raises:
        ArgumentError: neither a module nor pairs; a negative decay.
    """
    decay = number("no_decay_groups", "weight_decay", weight_decay, least=0)
    named = getattr(model_or_named_params, "named_parameters", None)
    pairs = named() if callable(named) else model_or_named_params
    if isinstance(pairs, Tensor) or is_array(pairs) or not isinstance(pairs, Iterable):
        expected = "a module or (name, tensor) pairs"
        raise ArgumentError(message("no_decay_groups", expected, quoted(pairs)))
    weights: list[tuple[str, Tensor]] = []
    others: list[tuple[str, Tensor]] = []
    for pair in iterator("no_decay_groups", "(name, tensor) pairs", pairs):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)):
            raise ArgumentError(
                message(
                    "no_decay_groups",
                    "a module or (name, tensor) pairs",
                    type(pair).__name__,
                    fix="Pass the model, or model.named_parameters().",
                )
            )
        (weights if pair[1].ndim >= 2 else others).append(pair)
    return [
        {"params": weights, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]

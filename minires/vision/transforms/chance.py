"""Other transforms, at random: each or not, one of several, all in a random order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minires import arguments, random
from minires.errors import ArgumentError, message, quoted
from minires.vision.transforms.base import Transform, functions, shown
from minires.vision.transforms.checks import probability

Functions = Iterable[Callable[[Any], Any]]


class RandomApply(Transform):
    """All of these transforms, with probability ``p``; else none.

    Raises:
        ArgumentError: no list of functions, or ``p`` outside of 0..1.
    """

    def __init__(self, transforms: Functions, p: float = 0.5) -> None:
        self.transforms = functions("RandomApply", transforms)
        self.p = probability("RandomApply", p)

    def forward(self, img: Any) -> Any:
        if random.generator().random() < self.p:
            for transform in self.transforms:
                img = transform(img)
        return img

    def __repr__(self) -> str:
        return f"RandomApply(\n    p={self.p}{shown(self.transforms)}\n)"


class RandomOrder(Transform):
    """All of these transforms, in a random order.

    Raises:
        ArgumentError: no list of functions.
    """

    def __init__(self, transforms: Functions) -> None:
        self.transforms = functions("RandomOrder", transforms)

    def forward(self, img: Any) -> Any:
        for k in random.generator().permutation(len(self.transforms)):
            img = self.transforms[k](img)
        return img

    def __repr__(self) -> str:
        return f"RandomOrder({shown(self.transforms)}\n)"


class RandomChoice(Transform):
    """One of these transforms.

    Args:
        transforms: functions of a picture.
        p: how often each is taken, relative to the others; equally often by default.

    Raises:
        ArgumentError: no list of functions, or not as many weights.
    """

    def __init__(self, transforms: Functions, p: Any = None) -> None:
        op = "RandomChoice"
        self.transforms = functions(op, transforms)
        if not self.transforms:
            raise ArgumentError(message(op, "at least one transform", "none"))
        self.p = None
        if p is not None:
            expected = f"p as a list of {len(self.transforms)} weights, not all 0"
            if not isinstance(p, list | tuple) or len(p) != len(self.transforms):
                raise ArgumentError(message(op, expected, quoted(p)))
            most = arguments.MOST
            self.p = [arguments.number(op, "each of p", w, least=0, most=most) for w in p]
            if not sum(self.p):
                raise ArgumentError(message(op, expected, quoted(p)))

    def forward(self, img: Any) -> Any:
        share = None if self.p is None else np.divide(self.p, sum(self.p))
        return self.transforms[random.generator().choice(len(self.transforms), p=share)](img)

    def __repr__(self) -> str:
        return f"RandomChoice({shown(self.transforms)}\n)(p={self.p})"

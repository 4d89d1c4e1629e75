"""The base of transforms, and what puts several in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, message, quoted


class Transform:
    """Base of transforms, for your own: define ``forward`` to give the new picture.

    Any other function of a picture does as well; a class has a name to print.
    """

    def __call__(self, img: Any) -> Any:
        return self.forward(img)

    def forward(self, img: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def functions(op: str, transforms: Any) -> list[Callable[[Any], Any]]:
    """A list of functions of a picture.

    Raises:
        ArgumentError: anything else.
    """
    listed = list(arguments.iterator(op, "transforms", transforms))
    for transform in listed:
        if not callable(transform):
            raise ArgumentError(message(op, "transforms to call", quoted(transform)))
        if isinstance(transform, type):
            fix = f"Make one: {transform.__name__}(...)."
            raise ArgumentError(message(op, "transforms, not classes", quoted(transform), fix=fix))
    return listed


def shown(transforms: Iterable[Any]) -> str:
    """Transforms as :class:`Compose` and its like show them, one a line."""
    return "".join(f"\n    {transform}" for transform in transforms)


class Compose(Transform):
    """Transforms one after another.

    Args:
        transforms: functions of a picture, each called with what the one before gave.

    Raises:
        ArgumentError: no list of functions.

    >>> from PIL import Image
    >>> from minires.vision import transforms
    >>> preprocess = transforms.Compose([transforms.Resize(4), transforms.ToTensor()])
    >>> preprocess(Image.new("RGB", (12, 8))).shape
    (3, 4, 6)
    """

    def __init__(self, transforms: Iterable[Callable[[Any], Any]]) -> None:
        self.transforms = functions("Compose", transforms)

    def forward(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img

    def __repr__(self) -> str:
        return f"Compose({shown(self.transforms)}\n)"


class Lambda(Transform):
    """A function as a transform.

    Raises:
        ArgumentError: nothing to call.
    """

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        if not callable(lambd):
            raise ArgumentError(message("Lambda", "a function of a picture", quoted(lambd)))
        self.lambd = lambd

    def forward(self, img: Any) -> Any:
        return self.lambd(img)

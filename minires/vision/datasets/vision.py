"""The base of data sets of pictures: a root folder, and transforms of picture and target."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minires import arguments
from minires.data import Dataset
from minires.errors import ArgumentError, message, quoted
from minires.files import as_path

Function = Callable[[Any], Any]


class VisionDataset(Dataset):
    """Base of data sets of pictures, for your own: define ``__len__`` and ``__getitem__``, and call
    :meth:`transformed` there.

    Args:
        root: the folder of its files; None for a data set without any.
        transforms: called with picture and target, gives both.
        transform: called with the picture.
        target_transform: called with the target.

    Raises:
        ArgumentError: no path, nothing to call, or ``transforms`` beside one of the others.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        transforms: Callable[[Any, Any], Any] | None = None,
        transform: Function | None = None,
        target_transform: Function | None = None,
    ) -> None:
        op = type(self).__name__
        function(op, "transform", transform, "f(picture)")
        function(op, "target_transform", target_transform, "f(target)")
        function(op, "transforms", transforms, "f(picture, target)")
        if transforms is not None and (transform is not None or target_transform is not None):
            expected = "transforms, or transform and target_transform"
            raise ArgumentError(message(op, expected, "both"))
        self.root = None if root is None else expanded(op, root)
        self.transforms = transforms
        self.transform, self.target_transform = transform, target_transform

    def transformed(self, picture: Any, target: Any) -> tuple[Any, Any]:
        """The sample that a picture and its target become."""
        if self.transforms is not None:
            return self.transforms(picture, target)
        if self.transform is not None:
            picture = self.transform(picture)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return picture, target

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not define __len__()")

    def extra_repr(self) -> str:
        """A line of what is particular to this data set, for ``repr``."""
        return ""

    def __repr__(self) -> str:
        body = [f"Number of datapoints: {len(self)}"]
        if self.root is not None:
            body.append(f"Root location: {self.root}")
        body += self.extra_repr().splitlines()
        lines = [f"Dataset {type(self).__name__}", *(f"    {line}" for line in body)]
        if self.transforms is not None:
            lines.append(f"    {self.transforms!r}")
        elif self.transform is not None or self.target_transform is not None:
            lines.append("    StandardTransform")
            lines += _shown("Transform: ", self.transform)
            lines += _shown("Target transform: ", self.target_transform)
        return "\n".join(lines)


def _shown(head: str, transform: Any) -> list[str]:
    if transform is None:
        return []
    first, *others = repr(transform).splitlines()
    return [head + first, *(" " * len(head) + line for line in others)]


def function(op: str, name: str, value: Any, like: str) -> None:
    """Refuse what is no function, or a class where one of its objects is meant.

    Raises:
        ArgumentError: such a thing.
    """
    if isinstance(value, type):
        fix = f"Make one: {value.__name__}(...)."
        raise ArgumentError(message(op, f"{name} to be called as {like}", quoted(value), fix=fix))
    arguments.callback(op, name, value, like)


def expanded(op: str, root: str | os.PathLike[str]) -> Path:
    """A folder given by a user, ``~`` resolved.

    Raises:
        ArgumentError: no path.
    """
    try:
        return as_path(op, root).expanduser()
    except RuntimeError as error:  # ~somebody who is not known here
        raise ArgumentError(message(op, "a folder", str(root), str(error))) from error

"""A folder of pictures as arrays of one size, in memory: what ``minires train --data`` reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from PIL import Image

from minires import arguments
from minires.data import ImageDataset
from minires.errors import ArgumentError, DataError, message, quoted
from minires.files import as_path
from minires.vision import transforms
from minires.vision.datasets import ImageFolder, open_picture
from minires.vision.datasets.folder import PARTS

LARGEST = 64  # pixels; the size that is taken unless one is asked for, or the pictures are smaller
ROOM = 8 * 2**30  # bytes of arrays that are held in memory at most
Watch = Callable[[int, int], object]


@dataclass(frozen=True, eq=False, repr=False)
class Pictures(ImageDataset):
    """Pictures of a folder.

    Attributes:
        files: where each of them is.
    """

    files: tuple[str, ...] = ()

    def limit(self, n: int) -> Pictures:
        """The first ``n`` pictures, sharing memory."""
        first = super().limit(n)
        return replace(self, images=first.images, labels=first.labels, files=self.files[:n])


def cut_to(picture: Image.Image, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture as bytes of the size that a network takes: its shorter side is scaled to fit, and
    the middle cut out.

    Args:
        picture: a PIL image of mode RGB or L.
        channels: 3, or 1 for levels of grey.

    Returns:
        uint8 (height, width, channels).
    """
    scale = max(height / picture.height, width / picture.width)
    sizes = max(round(picture.height * scale), height), max(round(picture.width * scale), width)
    resized = transforms.functional.resize(picture, list(sizes))
    cut = transforms.functional.center_crop(resized, [height, width])
    pixels = np.asarray(cut.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(height, width, channels)


def read_folder(
    root: str | os.PathLike[str],
    size: int | None = None,
    *,
    channels: int = 3,
    skip_unreadable: bool = False,
    watch: Watch | None = None,
) -> dict[str, ImageDataset]:
    """The pictures of a folder, all of one size.

    Either each folder in it is a class, ``root/cat/1.jpg``; or it has parts, of which ``train``
    must be there and ``val`` and ``test`` may: ``root/train/cat/1.jpg``.

    Args:
        root: the folder.
        size: height and width to cut pictures to (:func:`cut_to`); None is the median of their
            shorter sides, at most 64.
        channels: 3, or 1 for levels of grey.
        skip_unreadable: leave out pictures that cannot be read, with a warning that names them.
        watch: called with how many pictures are read, and how many there are.

    Returns:
        ``{"train": ..., "val": ..., "test": ...}``, those that there are; of a folder of classes
        ``"train"`` has them all.

    Raises:
        ArgumentError: a size that is none.
        DataError: no such folder, fewer than two classes, a class without pictures, parts with
            different classes, a picture that cannot be read (named), or more than fit into memory.
    """
    op = "read_folder"
    root = as_path(op, root).expanduser()
    if size is not None:
        size = arguments.integer(op, "size", size, 8, 4096)
    arguments.callback(op, "watch", watch, "watch(done, total)")
    if channels not in (1, 3):
        raise ArgumentError(message(op, "1 or 3 channels", quoted(channels)))
    folders = {part: _part(root, names) for part, names in PARTS.items()}
    if folders["train"] is None:
        folders = {"train": root}
    parts = {
        part: ImageFolder(folder, skip_unreadable=skip_unreadable)
        for part, folder in folders.items()
        if folder is not None
    }
    classes = parts["train"].classes
    if len(classes) < 2:
        fix = "Give each class a folder of its own: cats/, dogs/."
        raise DataError(message(op, f"two classes or more in {root}", classes[0], fix=fix))
    for part, found in parts.items():
        if found.classes != classes:
            differ = sorted({*found.classes} ^ {*classes})
            got = f"others in {part}: {quoted(differ)}"
            raise DataError(message(op, f"the same classes in all parts of {root}", got))
    total, done = sum(map(len, parts.values())), 0
    size = size or _usual_size(parts["train"])
    if total * size * size * channels > ROOM:
        got = f"{total:,} pictures of {size}x{size}"
        fix = "Take a smaller size, or load them batch by batch: vision.datasets.ImageFolder."
        raise DataError(message(op, f"at most {ROOM // 2**30} GiB of pictures", got, fix=fix))
    read: dict[str, ImageDataset] = {}
    for part, found in parts.items():
        images = np.empty((len(found), size, size, channels), np.uint8)
        with ThreadPoolExecutor() as threads:
            pictures = threads.map(
                lambda sample: cut_to(open_picture(sample[0]), size, size, channels), found.samples
            )
            for place, pixels in enumerate(pictures):
                images[place] = pixels
                done += 1
                if watch is not None:
                    watch(done, total)
        labels = np.array(found.targets, np.int64)
        files = tuple(path for path, _ in found.samples)
        name = root.name or "pictures"
        read[part] = Pictures(name, part, images, labels, tuple(classes), 255, files)
    return read


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of a part, by whichever name it has."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def _usual_size(found: ImageFolder) -> int:
    """The median of the pictures' shorter sides, from the heads of (at most 200 of) the files."""
    sides = []
    for path, _ in found.samples[:: max(1, len(found) // 200)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            open_picture(path)  # says what is wrong with it
    return min(max(median_low(sides) if sides else LARGEST, 8), LARGEST)


def split(
    dataset: ImageDataset, share: float, seed: int, name: str
) -> tuple[ImageDataset, ImageDataset]:
    """Hold out a share of the images of each class, at random by ``seed``: (the rest, held out).

    At least one of each class is held out, while a single one stays; but one of all is.

    Raises:
        ArgumentError: a share outside of 0..0.5.
        DataError: fewer than two images.
    """
    op = "split"
    share = arguments.number(op, "share", share, least=0, most=0.5)
    held: list[Any] = []
    for label in range(len(dataset.classes)):
        places = np.flatnonzero(dataset.labels == label)
        if len(places) > 1:
            order = np.random.default_rng([seed, label]).permutation(len(places))
            held.append(places[order[: round(share * len(places)) or 1]])
    if len(dataset) < 2:
        fix = "Set validation to 0, or take more images."
        raise DataError(message(op, "two images or more", len(dataset), fix=fix))
    if not held:  # each image is the only one of its class
        order = np.random.default_rng(seed).permutation(len(dataset))
        held.append(order[: round(share * len(dataset)) or 1])
    chosen = np.zeros(len(dataset), bool)
    chosen[np.concatenate(held)] = True

    def part(mask: Any, split: str) -> ImageDataset:
        changed: dict[str, Any] = {"split": split}
        changed |= {"images": dataset.images[mask], "labels": dataset.labels[mask]}
        if isinstance(dataset, Pictures):
            changed["files"] = tuple(dataset.files[place] for place in np.flatnonzero(mask))
        return replace(dataset, **changed)

    return part(~chosen, dataset.split), part(chosen, name)


def digest(parts: Mapping[str, ImageDataset]) -> str:
    """Of all images and labels, by part: another one if any of them changes."""
    found = hashlib.sha256()
    for part in parts.values():
        found.update(np.ascontiguousarray(part.images).data)
        found.update(np.ascontiguousarray(part.labels).data)
    return found.hexdigest()[:16]

"""What the tutorial scripts share: their options, their images, a progress bar and a clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from minires.data import ImageDataset, find_source, load
from minires.errors import DataError

QUICK = 64  # images for training with --quick, and half as many for testing


def options(
    about: str, epochs: int, argv: Sequence[str] | None, limit: int | None = None
) -> argparse.Namespace:
    """The command line of a tutorial: ``quick``, ``epochs``, ``limit`` and ``seed``."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"default {epochs}")
    parser.add_argument("--limit", type=int, default=limit, help="only the first so many images")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.epochs, chosen.limit = 1, QUICK
    return chosen


def images(name: str, chosen: argparse.Namespace) -> tuple[ImageDataset, ImageDataset]:
    """Training and test images. With ``--quick`` generated ones will do, and it is said so.

    Raises:
        DataError: the data set is not there, and ``--quick`` was not given.
    """
    try:
        train, test = load(name), load(name, train=False)
    except DataError:
        if not chosen.quick:
            raise
        print(f"{name} is not there: generated images instead")
        train, test = generated(name, QUICK, 0), generated(name, QUICK, 1)
    if chosen.quick:
        test = test.limit(QUICK // 2)
    return (train.limit(chosen.limit) if chosen.limit else train), test


def generated(name: str, n: int, seed: int) -> ImageDataset:
    """``n`` images of the shape and classes of a data set: one coarse pattern per class, noise."""
    source = find_source(name)
    c, h, w = source.shape
    patterns = np.random.default_rng(2).integers(0, 128, (len(source.classes), 4, 4, c))
    rows, columns = np.arange(h) * 4 // h, np.arange(w) * 4 // w
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, len(source.classes), n)
    pixels = patterns[labels][:, rows][:, :, columns] + draws.integers(0, 128, (n, h, w, c))
    split = "test" if seed else "train"
    return ImageDataset(name, split, pixels.astype(np.uint8), labels, source.classes, 255)


def part(dataset: ImageDataset, keep: Any) -> ImageDataset:
    """Some of the images: ``keep`` is a slice, a mask or an array of positions."""
    return replace(dataset, images=dataset.images[keep], labels=dataset.labels[keep])


def progress(batches: Iterable[Any], text: str, total: int | None = None) -> Iterable[Any]:
    """The same batches, with a bar on the terminal for as long as they last.

    ``total`` is how many there are, of batches without a length.
    """
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(batches, text, total, console=console, transient=True, disable=hidden)


class Clock:
    """``str(clock)`` is the time since it was made, such as ``4 min 05 s``."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.start
        if seconds < 60:
            return f"{seconds:.1f} s"
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"

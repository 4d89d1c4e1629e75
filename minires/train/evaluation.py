"""How well a trained network does: what ``minires evaluate`` counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minires.data import ImageDataset, load
from minires.device import Device
from minires.errors import ArgumentError, CheckpointError, DataError, message, quoted
from minires.files import as_path
from minires.train.job import STARTED, TrainingJob
from minires.train.trained import Facts, load_run
from minires.vision.folder import Pictures, Watch, read_folder

BATCH = 500
BINS = 15  # of the confidence, as in Guo et al. 2017
MISTAKES = 60  # that are kept, those of the highest confidence


@dataclass(frozen=True)
class OfClass:
    """What is counted of one class.

    Attributes:
        name: of the class.
        images: how many are of it.
        found: how many are taken for it, right or wrong.
        right: how many of it are taken for it.
    """

    name: str
    images: int
    found: int
    right: int

    @property
    def recall(self) -> float | None:
        """The share of its images that are taken for it; None if it has none."""
        return self.right / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """The share of what is taken for it that is of it; None if nothing is."""
        return self.right / self.found if self.found else None


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in ``low..high``.

    Attributes:
        low, high: the range, without its lower end.
        images: how many.
        confidence: their mean confidence.
        accuracy: the share of them that is told right.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network says of images whose classes are known.

    Attributes:
        facts: of the network.
        images: with their labels.
        probabilities: float32 (n, classes).
    """

    facts: Facts
    images: ImageDataset
    probabilities: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class with the highest probability, int64 (n,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of that class, float32 (n,)."""
        return self.probabilities.max(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether that is the image's class, bool (n,)."""
        return self.predicted == self.images.labels

    @property
    def accuracy(self) -> float:
        """The share of images that are told right."""
        return float(self.right.mean())

    def interval(self) -> tuple[float, float]:
        r"""Where the accuracy on all images of this kind is, with 95 % confidence: Wilson's score
        interval, with p the accuracy, n the images and z = 1.96::

            (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
        """
        n, p, z = len(self.right), self.accuracy, 1.959964
        middle, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
        whole = 1 + z * z / n
        return max((middle - spread) / whole, 0.0), min((middle + spread) / whole, 1.0)

    @property
    def loss(self) -> float:
        """The mean cross entropy."""
        own = self.probabilities[np.arange(len(self.right)), self.images.labels]
        return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64))

    @cached_property
    def confusion(self) -> np.ndarray:
        """How many images of each class (rows) are taken for each class (columns), int64."""
        k = len(self.facts.classes)
        return np.bincount(self.images.labels * k + self.predicted, minlength=k * k).reshape(k, k)

    def classes(self) -> list[OfClass]:
        """What is counted of each class."""
        table = self.confusion
        return [
            OfClass(name, int(table[i].sum()), int(table[:, i].sum()), int(table[i, i]))
            for i, name in enumerate(self.facts.classes)
        ]

    def confusions(self, most: int = 10) -> list[tuple[str, str, int, int]]:
        """The most frequent mistakes: (class, taken for, how often, of how many)."""
        wrong, names = self.confusion.copy(), self.facts.classes
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(names)) for place in order]
        of = self.confusion.sum(1)
        return [(names[i], names[j], int(wrong[i, j]), int(of[i])) for i, j in pairs if wrong[i, j]]

    def bins(self) -> list[Bin]:
        """The images by their confidence, in 15 equal ranges; ranges without images are left out.

        Guo et al., "On calibration of modern neural networks", 2017 (arXiv:1706.04599), section 2.
        """
        confidence = self.confidence.astype(np.float64)
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        found = []
        for b in range(BINS):
            chosen = place == b
            if chosen.any():
                mean, share = confidence[chosen].mean(), self.right[chosen].mean()
                low, high = b / BINS, (b + 1) / BINS
                found.append(Bin(low, high, int(chosen.sum()), float(mean), float(share)))
        return found

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean, over images, of how far the accuracy of their
        range is from its mean confidence (Guo et al. 2017, equation 3)."""
        gaps = [b.images * abs(b.accuracy - b.confidence) for b in self.bins()]
        return sum(gaps) / len(self.right)

    def mistakes(self, most: int = MISTAKES) -> list[int]:
        """Images that are told wrong, those of the highest confidence first."""
        wrong = np.flatnonzero(~self.right)
        return [int(i) for i in wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most]]

    def called(self, index: int) -> str:
        """What an image is called: its file, or its number in the data set."""
        files = self.images.files if isinstance(self.images, Pictures) else ()
        return files[index] if files else f"{self.images.name} {self.images.split} {index}"

    def to_json(self) -> dict[str, Any]:
        """Every number, as plain values."""
        names, labels = self.facts.classes, self.images.labels
        low, high = self.interval()
        return {
            "model": self.facts.model,
            "trained_on": self.facts.trained_on,
            "evaluated_on": self.images.name,
            "part": self.images.split,
            "images": len(labels),
            "accuracy": self.accuracy,
            "accuracy_interval_95": [low, high],
            "error": 1 - self.accuracy,
            "loss": self.loss,
            "classes": [
                {
                    "name": c.name,
                    "images": c.images,
                    "predicted": c.found,
                    "right": c.right,
                    "recall": c.recall,
                    "precision": c.precision,
                }
                for c in self.classes()
            ],
            "confusion": self.confusion.tolist(),
            "calibration": {
                "expected_calibration_error": self.calibration_error,
                "bins": [vars(b) for b in self.bins()],
            },
            "mistakes": [
                {
                    "image": self.called(i),
                    "class": names[labels[i]],
                    "predicted": names[self.predicted[i]],
                    "confidence": float(self.confidence[i]),
                    "probability_of_class": float(self.probabilities[i, labels[i]]),
                }
                for i in self.mistakes()
            ],
        }


def evaluate_run(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    *,
    device: str | Device = "cpu",
    skip_unreadable: bool = False,
    reading: Watch | None = None,
    watch: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Let the network of a run tell the classes of images.

    Args:
        run: the run's folder, or the file of weights in it.
        data: a folder of pictures with the same classes; of one with parts, the test part.
        dataset: or the name of a data set, whose test images are taken. With neither, the images
            that the run itself was tested with.
        device: where the network is to compute.
        skip_unreadable: leave out pictures of ``data`` that cannot be read, with a warning that
            names them.
        reading: called with how many pictures of a folder are read, and how many there are.
        watch: called with how many images the network has seen, and how many there are.

    Raises:
        ArgumentError: an argument that is none of those, both ``data`` and ``dataset``, or images
            of another shape than the network's.
        CheckpointError: no run there, or none whose settings are known.
        DataError: images that are not there, or of other classes; names them.
    """
    if data is not None and dataset is not None:
        got = f"{quoted(dataset)} and {quoted(data)}"
        raise ArgumentError(message("evaluate", "either a data set or a folder of pictures", got))
    trained = load_run(run, device)
    if data is not None:
        images = _of_folder(trained.facts, data, skip_unreadable, reading)
    elif dataset is not None:
        images = load(dataset, train=False)
    else:
        images = _of_run(trained.facts, as_path("evaluate", run), reading)
    _check_fit(trained.facts, images)
    parts = []
    for start in range(0, len(images), BATCH):
        pixels, _ = images.pixels(range(start, min(start + BATCH, len(images))))
        parts.append(trained.probabilities(pixels.astype(np.float32) / images.scale))
        if watch is not None:
            watch(start + len(parts[-1]), len(images))
    return Evaluation(trained.facts, images, np.concatenate(parts))


def _of_folder(
    facts: Facts, data: str | os.PathLike[str], skip_unreadable: bool, watch: Watch | None
) -> ImageDataset:
    """The pictures of a folder; of one with parts those of ``test``, or else of ``val``."""
    channels, size, _ = facts.shape
    read = read_folder(data, size, channels=channels, skip_unreadable=skip_unreadable, watch=watch)
    return read[next(part for part in ("test", "val", "train") if part in read)]


def _of_run(facts: Facts, run: Path, watch: Watch | None) -> ImageDataset:
    """What the run itself was tested with."""
    started = (run if run.is_dir() else run.parent) / STARTED
    if not started.exists():
        fix = "Name the images: --data FOLDER or --dataset NAME."
        expected = f"the run's settings in {started}"
        raise CheckpointError(message("evaluate", expected, "none", fix=fix))
    return TrainingJob.from_file(started, {}).test_images(facts, watch)


def _check_fit(facts: Facts, images: ImageDataset) -> None:
    """Refuse images of other classes, or of another shape, than the network was trained on."""
    differ = sorted({*images.classes} ^ {*facts.classes})
    if differ:
        more = [name for name in differ if name in images.classes]
        fewer = [name for name in differ if name not in images.classes]
        got = f"others in {images.name}"
        got += f", new {', '.join(map(quoted, more[:10]))}" if more else ""
        got += f", missing {', '.join(map(quoted, fewer[:10]))}" if fewer else ""
        expected = f"the {len(facts.classes)} classes that {facts.model} was trained on"
        raise DataError(message("evaluate", expected, got))
    if images.classes != facts.classes:
        got = f"{quoted(images.classes)} in {images.name}"
        expected = f"the classes in the order of training, {quoted(facts.classes)}"
        raise DataError(message("evaluate", expected, got))
    if images.shape != facts.shape:
        got = f"{images.shape} in {images.name}"
        raise ArgumentError(message("evaluate", f"images of shape {facts.shape}", got))

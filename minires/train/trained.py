"""A network that was trained, with what it takes to use it on a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from minires import interop, models
from minires.arguments import integer
from minires.autograd import no_grad
from minires.device import Device, existing
from minires.errors import (
    ArgumentError,
    CheckpointError,
    MiniresError,
    NaNError,
    ShapeError,
    message,
    quoted,
)
from minires.files import as_path
from minires.nn import Module
from minires.ops import softmax
from minires.tensor import from_numpy
from minires.train import schema
from minires.vision.datasets import open_picture
from minires.vision.folder import cut_to

BEST = "best.safetensors"
_KEY = "run"  # of the file's metadata


@dataclass(frozen=True)
class Facts:
    """What a network's file says beside the weights.

    Attributes:
        model, options: its name in the zoo, and the options it was built with.
        classes: the name of each class.
        shape: (c, h, w) of an image.
        mean, std: of each channel, in units of 0..1.
        trained_on: the name of the data set, or of the folder.
        images: a digest of the images of the run, see :func:`minires.vision.folder.digest`.
    """

    model: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained_on: str
    images: str

    def metadata(self) -> dict[str, Any]:
        """For the metadata of a file of weights."""
        return {_KEY: asdict(self)}


_CHANNELS = schema.listing(schema.real(), 1, 3)
_SCHEMA = schema.record(
    {
        "model": schema.text,
        "options": schema.record(
            {"num_classes": schema.whole(1, 2**20), "in_channels": schema.whole(1, 3)}
        ),
        "classes": schema.listing(schema.text, 1),
        "shape": schema.listing(schema.whole(1, 2**15), 3, 3),
        "mean": _CHANNELS,
        "std": _CHANNELS,
        "trained_on": schema.text,
        "images": schema.text,
    }
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, ready to be used.

    Attributes:
        network: in evaluation mode.
        facts: what it was trained on, and how it wants its images.
    """

    network: Module
    facts: Facts

    def predict(
        self, pictures: Sequence[str | os.PathLike[str] | Image.Image], batch_size: int = 64
    ) -> np.ndarray:
        """The probability of each class for each picture, float32 (n, classes).

        Args:
            pictures: files, or PIL images.
            batch_size: how many go through the network at once.

        Raises:
            ArgumentError: no list of pictures.
            DataError: a file that is no picture; names it.
        """
        if isinstance(pictures, str | os.PathLike | Image.Image):
            pictures = [pictures]
        if not isinstance(pictures, list | tuple):
            raise ArgumentError(message("predict", "a list of pictures", quoted(pictures)))
        batch_size = integer("predict", "batch_size", batch_size, 1)
        c, h, w = self.facts.shape
        results = [np.zeros((0, len(self.facts.classes)), np.float32)]
        for start in range(0, len(pictures), batch_size):
            opened = [self._opened(p) for p in pictures[start : start + batch_size]]
            pixels = np.stack([cut_to(picture, h, w, c) for picture in opened])  # (n, h, w, c)
            results.append(self.probabilities(pixels.astype(np.float32) / 255))
        return np.concatenate(results)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class for images float32 (n, h, w, c) in 0..1.

        Raises:
            ShapeError: no array of such images.
            NaNError: the network gives a NaN or infinity.
        """
        c, h, w = self.facts.shape
        if not isinstance(images, np.ndarray) or images.shape[1:] != (h, w, c):
            expected = f"an array of images (n, {h}, {w}, {c})"
            raise ShapeError(message("probabilities", expected, quoted(images)))
        mean, std = (np.array(v, np.float32) for v in (self.facts.mean, self.facts.std))
        x = from_numpy(np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2)))
        with no_grad():
            logits = self.network(x.to(next(self.network.parameters()).device))
            found = softmax(logits, 1).cpu().numpy()
        if not np.isfinite(found).all():
            fix = "Train it anew, with a lower learning rate."
            got = f"NaN or infinity of {self.facts.model}"
            raise NaNError(message("predict", "finite probabilities", got, fix=fix))
        return found

    @staticmethod
    def _opened(picture: Any) -> Image.Image:
        if isinstance(picture, Image.Image):
            return picture.convert("RGB")
        return open_picture(picture)


def load_run(run: str | os.PathLike[str], device: str | Device = "cpu") -> Trained:
    """The best network of a run of ``minires train``.

    Args:
        run: the run's folder, or the file of weights in it.
        device: where the network is to compute.

    Raises:
        ArgumentError: no path, or an unknown device.
        CheckpointError: no such run, a run without weights as yet, or a file of weights that says
            nothing of classes and images.
    """
    path = as_path("load_run", run)
    if not path.exists():
        raise CheckpointError(message("load_run", f"a run at {path}", "no such folder"))
    if path.is_dir():
        if not (path / BEST).exists():
            fix, got = f"Train one: minires train NET --out {path}.", f"a folder without {BEST}"
            if (path / "run.toml").exists():
                fix, got = "Go on with it: minires train --resume.", "one without weights as yet"
            raise CheckpointError(message("load_run", f"a run in {path}", got, fix=fix))
        path = path / BEST
    weights = interop.load(path)
    said = interop.load_metadata(path).get(_KEY)
    if said is None:
        fix = f"Name the folder of a run, or its {BEST}."
        got = "weights alone, without their classes"
        raise CheckpointError(message("load_run", f"weights of a run in {path}", got, fix=fix))
    schema.check(_SCHEMA, said, f"load_run {path}", "Train the network anew.")
    facts = Facts(
        said["model"],
        said["options"],
        tuple(said["classes"]),
        tuple(said["shape"]),
        tuple(said["mean"]),
        tuple(said["std"]),
        said["trained_on"],
        said["images"],
    )
    c = facts.shape[0]
    if len(facts.mean) != c or len(facts.std) != c or min(facts.std) <= 0:
        got = f"{facts.mean} and {facts.std}"
        raise CheckpointError(message("load_run", f"mean and std of {c} channels", got, str(path)))
    try:
        network = models.create(facts.model, **facts.options)
        network.load_state_dict(weights)
    except MiniresError as error:
        raise CheckpointError(f"load_run {path}: {error}") from error
    return Trained(network.to(existing(device)).eval(), facts)

"""Valid arguments for what is public in :mod:`minires.vision`; see :mod:`fuzz.recipes`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import minires as mr
from minires.vision import transforms

Make = Callable[[], Any]


def photo() -> Any:
    return Image.fromarray(
        np.arange(8 * 12 * 3, dtype=np.uint16).astype(np.uint8).reshape(8, 12, 3)
    )


def plane() -> Any:
    return mr.full((3, 8, 12), 0.5)


def written(name: str, write: Callable[[Path], Any]) -> Make:
    """A file of this name in the current folder, which is the test's own."""

    def make() -> Any:
        path = Path.cwd() / name
        if not path.exists():
            write(path)
        return path

    return make


def _photos(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        photo().save(folder / name / "1.png")


def _digits(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(2 * 28 * 28))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 2, 3, 4)))


def _a_photo(path: Path) -> None:
    photo().save(path)


BY_NAME: dict[str, Make] = {
    "img": photo,
    "pic": photo,
    "root": written("photos", _photos),
    "transforms": lambda: [transforms.Pad(1)],
}

_WINDOW: dict[str, Make] = {
    "top": lambda: 1,
    "left": lambda: 2,
    "height": lambda: 4,
    "width": lambda: 5,
}
_RECTANGLE: dict[str, Make] = {"i": lambda: 1, "j": lambda: 2, "h": lambda: 3, "w": lambda: 4}
_SIZE: dict[str, Make] = {"size": lambda: 4}
_SHARES: dict[str, Make] = {"scale": lambda: (0.1, 0.5), "ratio": lambda: (0.5, 2.0)}
_STATISTICS: dict[str, Make] = {"mean": lambda: [0.5], "std": lambda: [0.2]}
_FACTORS = ("brightness", "contrast", "saturation")


def _functional() -> dict[str, dict[str, Make]]:
    own: dict[str, dict[str, Make]] = {
        **{f"adjust_{name}": {f"{name}_factor": lambda: 1.5} for name in _FACTORS},
        **dict.fromkeys(("resize", "five_crop", "ten_crop"), _SIZE),
        "adjust_gamma": {"gamma": lambda: 2.0},
        "adjust_hue": {"hue_factor": lambda: 0.2},
        "affine": {
            "angle": lambda: 30,
            "translate": lambda: (1, 2),
            "scale": lambda: 1.5,
            "shear": lambda: 5,
        },
        "center_crop": {"output_size": lambda: 4},
        "convert_image_dtype": {"image": plane},
        "crop": _WINDOW,
        "erase": {"img": plane, "v": lambda: 0.5, **_RECTANGLE},
        "normalize": {"tensor": plane, **_STATISTICS},
        "pad": {"padding": lambda: 2},
        "resized_crop": {**_WINDOW, **_SIZE},
        "rotate": {"angle": lambda: 30},
        "to_pil_image": {"pic": plane},
    }
    return {f"vision.transforms.functional.{name}": recipe for name, recipe in own.items()}


def _classes() -> dict[str, dict[str, Make]]:
    sized = ("CenterCrop", "FiveCrop", "RandomCrop", "RandomResizedCrop", "Resize", "TenCrop")
    of_tensors = ("ConvertImageDtype", "Normalize", "RandomErasing", "ToPILImage")
    own: dict[str, dict[str, Make]] = {
        **dict.fromkeys(sized, _SIZE),
        **{f"{name}.forward": {"img": plane} for name in of_tensors},
        "ColorJitter.get_params": {name: lambda: (0.1, 0.4) for name in (*_FACTORS, "hue")},
        "Lambda": {"lambd": lambda: lambda img: img},
        "Normalize": _STATISTICS,
        "Pad": {"padding": lambda: 2},
        "RandomCrop.get_params": {"output_size": lambda: 4},
        "RandomErasing.get_params": {"img": plane, **_SHARES},
        "RandomResizedCrop.get_params": _SHARES,
        "RandomAffine": {"degrees": lambda: 30},
        "RandomAffine.get_params": {
            "degrees": lambda: (-5, 5),
            "translate": lambda: (0.1, 0.2),
            "scale_ranges": lambda: (0.5, 2),
            "shears": lambda: (-3, 3),
            "img_size": lambda: (7, 9),
        },
        "RandomRotation": {"degrees": lambda: 30},
        "RandomRotation.get_params": {"degrees": lambda: (-5, 5)},
    }
    return {f"vision.transforms.{name}": recipe for name, recipe in own.items()}


_FILES: dict[str, Make] = {"extensions": lambda: (".png",)}
_FOLDER: dict[str, Make] = {"directory": written("photos", _photos)}
RECIPES: dict[str, dict[str, Make]] = {
    **_functional(),
    **_classes(),
    "vision.datasets.DatasetFolder": {"loader": lambda: Image.open, **_FILES},
    "vision.datasets.DatasetFolder.find_classes": _FOLDER,
    "vision.datasets.DatasetFolder.make_dataset": {
        "class_to_idx": lambda: {"cat": 0},
        **_FOLDER,
        **_FILES,
    },
    "vision.datasets.FakeData": {"image_size": lambda: (3, 4, 5)},
    "vision.datasets.MNIST": {"root": written("digits", _digits)},
    "vision.datasets.VisionDataset": {"root": lambda: None, "transforms": lambda: None},
    "vision.datasets.VisionDataset.transformed": {"picture": photo, "target": lambda: 1},
    "vision.datasets.open_picture": {"path": written("a.png", _a_photo)},
    "vision.utils.make_grid": {"tensor": lambda: mr.full((2, 3, 4, 5), 0.5)},
    "vision.utils.save_image": {"tensor": plane, "fp": lambda: "new.png"},
}

SKIPPED = {
    "vision.datasets.CIFAR10": "needs the published files; tests/vision puts others in their place",
    "vision.datasets.CIFAR100": "needs the published files; see CIFAR10",
    "vision.datasets.FashionMNIST": "is MNIST but for its names",
    "vision.transforms.InterpolationMode": "an enumeration",
    "vision.transforms.Lambda.forward": "calls what it is given",
    "vision.transforms.Transform": "what subclasses implement",
}

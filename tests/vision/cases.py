"""What is computed by minires and by torchvision alike: each case is a function of one of the two.

``Side`` has what both name alike (``T`` for transforms, ``F`` for their functions) and what they do
not: tensors and dtypes. Pictures are made of whole numbers by a formula, so that they are the same
ones everywhere.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class Side(NamedTuple):
    """One of the two libraries: its transforms, their functions, its utils."""

    T: Any
    F: Any
    U: Any
    tensor: Callable[[np.ndarray], Any]
    dtype: Callable[[str], Any]


# What both have, by module.
CLASSES = (
    *("CenterCrop", "ColorJitter", "Compose", "ConvertImageDtype", "FiveCrop", "Grayscale"),
    *("Lambda", "Normalize", "PILToTensor", "Pad", "RandomAffine", "RandomApply", "RandomChoice"),
    *("RandomCrop",),
    *("RandomErasing", "RandomGrayscale", "RandomHorizontalFlip", "RandomOrder"),
    *("RandomResizedCrop", "RandomRotation", "RandomVerticalFlip", "Resize", "TenCrop"),
    *("ToPILImage", "ToTensor"),
)
FUNCTIONS = (
    *("adjust_brightness", "adjust_contrast", "adjust_gamma", "adjust_hue", "adjust_saturation"),
    *(
        "affine",
        "center_crop",
        "convert_image_dtype",
        "crop",
        "erase",
        "five_crop",
        "get_dimensions",
    ),
    *("get_image_num_channels", "get_image_size", "hflip", "invert", "normalize", "pad"),
    *("pil_to_tensor", "resize", "resized_crop", "rgb_to_grayscale", "rotate", "ten_crop"),
    *("to_grayscale", "to_pil_image", "to_tensor", "vflip"),
)
UTILS = ("make_grid", "save_image")
DATASETS = (
    *("CIFAR10", "CIFAR100", "DatasetFolder", "FakeData", "FashionMNIST", "ImageFolder"),
    *("MNIST", "VisionDataset"),
)


def shown(signature: inspect.Signature) -> str:
    """The names, order and defaults of arguments; not their types, nor what is keyword-only."""

    def default(value: Any) -> str:
        if value is inspect.Parameter.empty:
            return ""
        return f"={getattr(value, 'name', None) or getattr(value, '__name__', None) or value!r}"

    return ", ".join(
        p.name + default(p.default)
        for p in signature.parameters.values()
        if p.kind is not p.KEYWORD_ONLY
    )


MODES = ("RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "HSV", "YCbCr", "I", "F", "I;16")


def pixels(h: int, w: int, c: int) -> np.ndarray:
    """Bytes (h, w, c): waves, edges and a little noise."""
    y, x, k = np.ogrid[:h, :w, :c]
    noise = (y * 7919 + x * 104729 + k * 1299709) * 2654435761 % 2**32 >> 27
    return ((y * 5 + x * 3 * (k + 1) + (x // 6 % 2) * 90 + noise) % 256).astype(np.uint8)


def picture(mode: str = "RGB", h: int = 23, w: int = 37) -> Image.Image:
    """A picture of any of ``MODES``."""
    bands = {"LA": 2, "RGB": 3, "HSV": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}
    if mode in bands:
        array = pixels(h, w, bands[mode])
        return Image.frombytes(mode, (w, h), array.tobytes())
    array = pixels(h, w, 1)[:, :, 0]
    if mode == "P":
        made = Image.frombytes("P", (w, h), (array % 16).tobytes())
        made.putpalette([(7 * step) % 256 for step in range(48)])
        return made
    if mode == "1":
        return Image.fromarray(array > 100)
    if mode == "I;16":
        return Image.fromarray(array.astype(np.uint16) * 120)
    if mode in ("I", "F"):
        return Image.fromarray(array.astype({"I": np.int32, "F": np.float32}[mode]) * 3 - 100)
    return Image.fromarray(array)


def floats(c: int = 3, h: int = 23, w: int = 37) -> np.ndarray:
    """A tensor's values (c, h, w) in 0..1."""
    return pixels(h, w, c).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def facts(value: Any) -> str:
    """A result as text: what it is, and a digest of its bytes."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(facts, value))}]"
    if isinstance(value, Image.Image):
        content = value.tobytes() + bytes(value.getpalette() or b"")
        return f"{value.mode} {value.size} {_digest(content)}"
    if isinstance(value, str | int | float):
        return str(value)
    array = np.ascontiguousarray(value.numpy())
    return f"{array.dtype} {array.shape} {_digest(array.tobytes())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


CASES: dict[str, Callable[[Side], Any]] = {}


def case(name: str, function: Callable[[Side], Any]) -> None:
    """One more case."""
    assert name not in CASES, name
    CASES[name] = function


for _mode in MODES:
    # a tensor has no uint16: minires gives 16-bit pictures as int32, torchvision as int16
    if _mode != "I;16":
        case(f"to_tensor {_mode}", lambda s, m=_mode: s.F.to_tensor(picture(m)))
        case(f"pil_to_tensor {_mode}", lambda s, m=_mode: s.F.pil_to_tensor(picture(m)))
    case(f"hflip {_mode}", lambda s, m=_mode: s.F.hflip(picture(m)))
    case(f"vflip {_mode}", lambda s, m=_mode: s.F.vflip(picture(m)))
    case(f"crop {_mode}", lambda s, m=_mode: s.F.crop(picture(m), -2, 5, 11, 40))
    case(f"center_crop {_mode}", lambda s, m=_mode: s.F.center_crop(picture(m), (10, 20)))
    case(f"rotate {_mode}", lambda s, m=_mode: s.F.rotate(picture(m), 30))
    case(f"resize nearest {_mode}", lambda s, m=_mode: s.F.resize(picture(m), 9, nearest(s)))
    case(
        f"dimensions {_mode}",
        lambda s, m=_mode: (
            s.F.get_dimensions(picture(m)),
            s.F.get_image_size(picture(m)),
            s.F.get_image_num_channels(picture(m)),
        ),
    )
    if _mode not in ("I", "F", "I;16"):
        case(f"to_grayscale {_mode}", lambda s, m=_mode: s.F.to_grayscale(picture(m)))
        case(f"to_grayscale 3 {_mode}", lambda s, m=_mode: s.F.to_grayscale(picture(m), 3))
    if _mode not in ("1", "P"):
        case(f"resize {_mode}", lambda s, m=_mode: s.F.resize(picture(m), 11))


def nearest(side: Side) -> Any:
    return side.T.InterpolationMode.NEAREST


for _size in (1, 7, 23, [40], (12, 31), (23, 37), (50, 9)):
    for _mode in ("RGB", "L"):
        case(
            f"resize {_size} {_mode}",
            lambda s, n=_size, m=_mode: s.F.resize(picture(m), n),
        )
    case(f"resize upright {_size}", lambda s, n=_size: s.F.resize(picture("RGB", 41, 19), n))
    case(f"center_crop to {_size}", lambda s, n=_size: s.F.center_crop(picture(), n))
    case(
        f"center_crop tensor {_size}",
        lambda s, n=_size: s.F.center_crop(s.tensor(floats()), n),
    )
for _most in (26, 37, 38, 60):
    case(f"resize max_size {_most}", lambda s, n=_most: s.F.resize(picture(), 25, max_size=n))
for _name in ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS", "NEAREST_EXACT"):
    for _size in (8, 45):
        case(
            f"resize {_size} {_name}",
            lambda s, n=_size, i=_name: s.F.resize(picture(), n, s.T.InterpolationMode[i]),
        )
case("resize 3 by number", lambda s: s.T.Resize(12, interpolation=3)(picture()))
case("resized_crop", lambda s: s.F.resized_crop(picture(), 3, 5, 13, 9, (16, 16)))
case(
    "resized_crop bicubic",
    lambda s: s.F.resized_crop(picture("L"), 0, 1, 20, 30, 12, s.T.InterpolationMode.BICUBIC),
)

for _widths in (3, [2], (1, 4), [1, 2, 3, 4], (0, 5, 2, 0), [-3, 2, -1, 4]):
    for _mode in ("RGB", "L", "P", "F", "I"):
        case(f"pad {_widths} {_mode}", lambda s, p=_widths, m=_mode: s.F.pad(picture(m), p))
    for _way in ("edge", "reflect", "symmetric"):
        for _mode in ("RGB", "L", "P"):
            case(
                f"pad {_way} {_widths} {_mode}",
                lambda s, p=_widths, w=_way, m=_mode: s.F.pad(picture(m), p, padding_mode=w),
            )
    case(f"pad tensor {_widths}", lambda s, p=_widths: s.F.pad(s.tensor(floats()), p, 0.25))
for _way in ("edge", "reflect", "symmetric"):
    case(
        f"pad tensor {_way}",
        lambda s, w=_way: s.F.pad(s.tensor(floats()), [1, 2, 3, 4], padding_mode=w),
    )
case("pad fill", lambda s: s.F.pad(picture(), 2, 77))
case("pad fill of three", lambda s: s.F.pad(picture(), 2, (7, 8, 9)))
case("pad fill L", lambda s: s.F.pad(picture("L"), (1, 2), 5))

for _angle in (0, 17.5, 90, -90, 180, 359, -33):
    for _expand in (False, True):
        case(
            f"rotate {_angle} {_expand}",
            lambda s, a=_angle, e=_expand: s.F.rotate(picture(), a, expand=e),
        )
for _name in ("NEAREST", "BILINEAR", "BICUBIC"):
    case(f"rotate {_name}", lambda s, i=_name: s.F.rotate(picture(), 25, s.T.InterpolationMode[i]))
case("rotate about", lambda s: s.F.rotate(picture(), 40, center=[3, 4.5]))
case("rotate fill", lambda s: s.F.rotate(picture(), 40, fill=120))
case("rotate fill of three", lambda s: s.F.rotate(picture(), 40, fill=[1, 2, 3]))
case("rotate fill L", lambda s: s.F.rotate(picture("L"), 40, fill=9))

for _factor in (0, 0.3, 1, 1.7, 4.5):
    for _mode in ("RGB", "L", "RGBA", "LA"):
        for _what in ("brightness", "contrast", "saturation"):
            case(
                f"adjust_{_what} {_factor} {_mode}",
                lambda s, f=_factor, m=_mode, w=_what: getattr(s.F, f"adjust_{w}")(picture(m), f),
            )
for _factor in (-0.5, -0.2, -0.001, 0, 0.003, 0.1, 0.25, 0.5):
    for _mode in ("RGB", "L", "CMYK", "P"):
        case(
            f"adjust_hue {_factor} {_mode}",
            lambda s, f=_factor, m=_mode: s.F.adjust_hue(picture(m), f),
        )
case("rgb_to_grayscale", lambda s: s.F.rgb_to_grayscale(picture(), 3))
for _gamma, _gain in ((0.5, 1), (2.2, 1), (1, 1.4), (0, 1)):
    case(
        f"adjust_gamma {_gamma} {_gain}",
        lambda s, g=_gamma, k=_gain: s.F.adjust_gamma(picture(), g, k),
    )
for _mode in ("RGB", "L"):
    case(f"invert {_mode}", lambda s, m=_mode: s.F.invert(picture(m)))

_AFFINES: dict[str, tuple[Any, ...]] = {
    "turned": (30, (0, 0), 1, 0),
    "moved": (0, (3, -4), 1.0, [0, 0]),
    "larger": (0, [0, 0], 1.7, 0.0),
    "sheared": (0, (0, 0), 1, 20),
    "sheared both ways": (0, (0, 0), 1, (10, -15)),
    "sheared by one": (0, (0, 0), 1, [12]),
    "all at once": (-17.5, (2, 1), 0.8, (5, 8)),
}
for _name, _given in _AFFINES.items():
    case(f"affine {_name}", lambda s, g=_given: s.F.affine(picture(), *g))
    case(f"affine {_name} L", lambda s, g=_given: s.F.affine(picture("L"), *g, fill=7))
case(
    "affine with options",
    lambda s: s.F.affine(
        picture(), 20, (1, 2), 1.1, 3, s.T.InterpolationMode.BICUBIC, [1, 2, 3], [4, 5.5]
    ),
)
case("five_crop", lambda s: s.F.five_crop(picture(), 10))
case("five_crop tensor", lambda s: s.F.five_crop(s.tensor(floats()), (9, 12)))
case("ten_crop", lambda s: s.F.ten_crop(picture(), (9, 12)))
case("ten_crop vertical", lambda s: s.F.ten_crop(picture("L"), 8, vertical_flip=True))

for _shape in ((3, 5, 4), (1, 5, 4), (2, 5, 4), (4, 5, 4)):
    case(f"hflip tensor {_shape}", lambda s, n=_shape: s.F.hflip(s.tensor(floats(*n))))
    case(f"vflip tensor {_shape}", lambda s, n=_shape: s.F.vflip(s.tensor(floats(*n))))
    case(f"crop tensor {_shape}", lambda s, n=_shape: s.F.crop(s.tensor(floats(*n)), -1, 2, 4, 5))
    case(f"crop inside {_shape}", lambda s, n=_shape: s.F.crop(s.tensor(floats(*n)), 1, 1, 3, 2))
    case(f"to_pil_image {_shape}", lambda s, n=_shape: s.F.to_pil_image(s.tensor(floats(*n))))
    case(
        f"to_pil_image bytes {_shape}",
        lambda s, n=_shape: s.F.to_pil_image(pixels(n[1], n[2], n[0])),
    )
    case(
        f"to_tensor array {_shape}",
        lambda s, n=_shape: s.F.to_tensor(pixels(n[1], n[2], n[0])),
    )
    case(
        f"normalize {_shape}",
        lambda s, n=_shape: s.F.normalize(
            s.tensor(floats(*n)),
            [0.485, 0.456, 0.406, 0.5][: n[0]],
            [0.229, 0.224, 0.225, 0.25][: n[0]],
        ),
    )
case("to_tensor floats", lambda s: s.F.to_tensor(pixels(5, 4, 3).astype(np.float32)))
case("to_tensor doubles", lambda s: s.F.to_tensor(pixels(5, 4, 3).astype(np.float64)))
case("to_tensor grey array", lambda s: s.F.to_tensor(pixels(5, 4, 1)[:, :, 0]))
case("to_tensor int64", lambda s: s.F.to_tensor(pixels(5, 4, 3).astype(np.int64)))
case("to_pil_image grey tensor", lambda s: s.F.to_pil_image(s.tensor(floats()[0])))
case("to_pil_image mode", lambda s: s.F.to_pil_image(s.tensor(floats()), "YCbCr"))
case("to_pil_image CMYK", lambda s: s.F.to_pil_image(pixels(5, 4, 4), mode="CMYK"))
case("to_pil_image I", lambda s: s.F.to_pil_image(pixels(5, 4, 1).astype(np.int32)))
case("to_pil_image I;16", lambda s: s.F.to_pil_image(pixels(5, 4, 1).astype(np.int16)))
case("to_pil_image floats", lambda s: s.F.to_pil_image(floats(2, 5, 3)))
case("to_pil_image doubles", lambda s: s.F.to_pil_image(s.tensor(floats().astype(np.float64))))
case("to_pil_image F", lambda s: s.F.to_pil_image(floats(1, 5, 4)[0] * 300 - 20, "F"))
case("to_pil_image F of a tensor", lambda s: s.F.to_pil_image(s.tensor(floats(1) - 2), "F"))
case("normalize one", lambda s: s.F.normalize(s.tensor(floats()), [0.5], [0.25]))
case(
    "normalize batch",
    lambda s: s.F.normalize(s.tensor(np.stack([floats()] * 2)), (0.1, 0.2, 0.3), (1, 2, 3)),
)
case("normalize MNIST", lambda s: s.T.Normalize((0.1307,), (0.3081,))(s.tensor(floats(1))))
case("normalize in place", lambda s: s.T.Normalize([0.5], [0.5], True)(s.tensor(floats(1))))
case("erase", lambda s: s.F.erase(s.tensor(floats()), 2, 3, 4, 50, s.tensor(floats(1, 1, 1))))
case(
    "erase in place",
    lambda s: s.F.erase(s.tensor(floats()), 0, 0, 3, 3, s.tensor(floats(3, 3, 3)), True),
)
_DTYPES = ("uint8", "int8", "int16", "int32", "int64")
for _from in (*_DTYPES, "float32", "float64"):
    for _to in (*_DTYPES, "float32", "float64"):
        if (_from, _to) in (("float32", "int32"), ("float32", "int64"), ("float64", "int64")):
            continue  # refused by both
        case(
            f"convert {_from} to {_to}",
            lambda s, a=_from, b=_to: s.F.convert_image_dtype(
                s.tensor((floats() if a[0] == "f" else pixels(5, 4, 3) // 2).astype(a)), s.dtype(b)
            ),
        )

_GRIDS: dict[str, dict[str, Any]] = {
    "": {},
    "two in a row": {"nrow": 2, "padding": 3, "pad_value": 0.5},
    "without gaps": {"nrow": 9, "padding": 0},
    "normalized": {"normalize": True},
    "each normalized": {"normalize": True, "scale_each": True, "nrow": 3},
    "of a range": {"normalize": True, "value_range": (0.2, 0.7)},
}
for _name, _options in _GRIDS.items():
    for _c in (1, 3):
        case(
            f"make_grid {_c} {_name}",
            lambda s, c=_c, o=_options: s.U.make_grid(s.tensor(several(c)), **o),
        )
case("make_grid of a list", lambda s: s.U.make_grid([s.tensor(one) for one in several(3)], 2))
case("make_grid of one", lambda s: s.U.make_grid(s.tensor(floats(1))))
case("make_grid of a plane", lambda s: s.U.make_grid(s.tensor(floats()[0]), normalize=True))
case("make_grid of bytes", lambda s: s.U.make_grid(s.tensor((several(3) * 255).astype("u1"))))
case("save_image", lambda s: saved(s, s.tensor(several(3)), nrow=2, padding=1))
case("save_image of one", lambda s: saved(s, s.tensor(floats(1) * 3 - 1)))


def several(c: int) -> np.ndarray:
    """Five different pictures (5, c, 4, 6)."""
    return pixels(20, 6, c).reshape(5, 4, 6, c).transpose(0, 3, 1, 2) / np.float32(255)


def saved(side: Side, tensor: Any, **options: Any) -> Image.Image:
    """What is in the file that ``save_image`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        side.U.save_image(tensor, path, **options)
        with Image.open(path) as image:
            return image.copy()


# Random transforms that leave nothing to chance.
case("flip for sure", lambda s: s.T.RandomHorizontalFlip(1.0)(picture()))
case("no flip", lambda s: s.T.RandomVerticalFlip(0.0)(picture()))
case("vertical flip for sure", lambda s: s.T.RandomVerticalFlip(p=1)(picture()))
case("whole crop", lambda s: s.T.RandomCrop((23, 37))(picture()))
case("padded crop", lambda s: s.T.RandomCrop((27, 41), 2)(picture()))
case("rotation by 30", lambda s: s.T.RandomRotation((30, 30), fill=7)(picture()))
case("rotation of grey", lambda s: s.T.RandomRotation([5, 5], expand=True)(picture("L")))
case("jitter of brightness", lambda s: s.T.ColorJitter(brightness=(1.3, 1.3))(picture()))
case("jitter of hue", lambda s: s.T.ColorJitter(hue=(0.2, 0.2))(picture()))
case("no jitter", lambda s: s.T.ColorJitter()(picture()))
case(
    "affine by one value",
    lambda s: s.T.RandomAffine((30, 30), (0, 0), (1.2, 1.2), (5, 5), fill=3)(picture()),
)
case(
    "affine sheared twice",
    lambda s: s.T.RandomAffine([0, 0], shear=(5, 5, -8, -8), center=(3, 4))(picture()),
)
case("grey for sure", lambda s: s.T.RandomGrayscale(1.0)(picture()))
case("grey L for sure", lambda s: s.T.RandomGrayscale(1.0)(picture("L")))
case("whole window", lambda s: s.T.RandomResizedCrop(8, (1, 1), (1, 1))(picture("RGB", 16, 16)))
case(
    "window in the middle",  # ten windows do not fit, none can
    lambda s: s.T.RandomResizedCrop((6, 9), (1, 1), (4, 5))(picture()),
)
case("upright window", lambda s: s.T.RandomResizedCrop(9, (1, 1), (0.1, 0.2))(picture()))
case("no erasing", lambda s: s.T.RandomErasing(0)(s.tensor(floats())))
case("nothing erased", lambda s: s.T.RandomErasing(1, (1, 1), (1, 1))(s.tensor(floats())))
case("all of them", lambda s: s.T.RandomApply([s.T.CenterCrop(9)], 1)(picture()))
case("none of them", lambda s: s.T.RandomApply([s.T.CenterCrop(9)], p=0)(picture()))
case("one of one", lambda s: s.T.RandomChoice([s.T.CenterCrop(9)])(picture()))
case(
    "a pipeline",
    lambda s: s.T.Compose(
        [
            s.T.Resize(32),
            s.T.CenterCrop(28),
            s.T.Grayscale(3),
            s.T.Pad((1, 2)),
            s.T.Lambda(lambda img: img.rotate(90)),
            s.T.ToTensor(),
            s.T.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )(picture()),
)
case("there and back", lambda s: s.T.ToPILImage()(s.T.ToTensor()(picture())))
case(
    "bytes",
    lambda s: s.T.Compose([s.T.PILToTensor(), s.T.ConvertImageDtype(s.dtype("float32"))])(
        picture()
    ),
)

# How they print: networks' logs and notebooks show it.
for _line in (
    "Resize(256)",
    "Resize((3, 4), max_size=None)",
    "Resize(4, interpolation=T.InterpolationMode.BICUBIC, max_size=9, antialias=False)",
    "CenterCrop(224)",
    "CenterCrop((3, 4))",
    "Pad(2)",
    "Pad((1, 2), fill=3, padding_mode='edge')",
    "RandomCrop(32, padding=4)",
    "RandomCrop([3, 4])",
    "RandomHorizontalFlip()",
    "RandomVerticalFlip(0.3)",
    "RandomResizedCrop(224)",
    "RandomResizedCrop((5, 6), (0.5, 1), (1, 2))",
    "ColorJitter()",
    "ColorJitter(0.4, 0.4, 0.4, 0.1)",
    "ColorJitter(brightness=(0.5, 2), hue=2e-1)",
    "RandomRotation(10)",
    "RandomRotation((1, 2), fill=3, center=(1, 2), expand=True)",
    "RandomAffine(10)",
    "RandomAffine((1, 2), (0.1, 0.2), (0.5, 2), 3, fill=4, center=(5, 6))",
    "RandomAffine(0, shear=(1, 2, 3, 4), interpolation=T.InterpolationMode.BILINEAR)",
    "Grayscale()",
    "Grayscale(3)",
    "RandomGrayscale(0.2)",
    "ToTensor()",
    "PILToTensor()",
    "ToPILImage()",
    "ToPILImage('L')",
    "Normalize((0.5,), (0.5,))",
    "Normalize([0.1, 0.2], [1, 2])",
    "RandomErasing()",
    "FiveCrop(3)",
    "TenCrop((3, 4), True)",
    "Lambda(abs)",
    "RandomApply([T.ToTensor()], p=0.2)",
    "RandomChoice([T.ToTensor(), T.Pad(1)])",
    "RandomOrder([T.ToTensor()])",
    "Compose([T.Resize(4), T.Compose([T.ToTensor()])])",
):
    case(f"repr {_line}", lambda s, line=_line: repr(eval(f"T.{line}", {"T": s.T})))

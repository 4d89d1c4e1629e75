"""Pictures of every kind that people have, and files that are none."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision.cases import picture

from minires.data import DataLoader
from minires.errors import ArgumentError, DataError
from minires.vision import transforms
from minires.vision.datasets import ImageFolder, open_picture


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("RGB", "png"),
        ("L", "png"),
        ("1", "png"),
        ("P", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("CMYK", "tif"),
        ("L", "pgm"),
        ("RGB", "bmp"),
        ("YCbCr", "tif"),
    ],
)
def test_all_become_red_green_and_blue(tmp_path: Path, mode, ending):
    opened = open_picture(saved(tmp_path / f"a.{ending}", picture(mode)))
    assert opened.mode == "RGB"
    assert np.array_equal(opened, picture(mode).convert("RGB"))


def test_a_palette_with_transparency_warns_of_nothing(tmp_path: Path):
    path = saved(tmp_path / "a.png", picture("P"), transparency=bytes(range(0, 160, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(open_picture(path), picture("P").convert("RGB"))


def test_cmyk_of_a_camera(tmp_path: Path):
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    opened = open_picture(saved(tmp_path / "a.jpg", flat, quality=95))
    assert np.abs(np.asarray(opened, int) - (255, 0, 0)).max() <= 4


def test_16_bits_keep_their_levels(tmp_path: Path):
    levels = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)
    opened = open_picture(saved(tmp_path / "a.png", Image.fromarray(levels)))
    assert opened.mode == "RGB"
    assert np.asarray(opened)[0, :, 1].tolist() == [0, 1, 1, 4, 128, 255]
    opened = open_picture(saved(tmp_path / "a.tif", Image.fromarray(levels.astype(np.int32))))
    assert np.asarray(opened)[0, :, 2].tolist() == [0, 1, 1, 4, 128, 255]


def test_values_of_no_known_range_are_refused(tmp_path: Path):
    path = saved(tmp_path / "a.tif", picture("F"))
    with pytest.raises(
        DataError, match=r"a\.tif: picture: expected values of 8 or 16 bits, got fl"
    ):
        open_picture(path)
    path = saved(tmp_path / "b.tif", picture("I"))
    with pytest.raises(DataError, match=r"expected values of 8 or 16 bits, got -100\.\.665"):
        open_picture(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sideways_pictures_are_turned_upright(tmp_path: Path, orientation):
    """For each of the eight ways of EXIF: the picture as it lies in the file, stored such that
    it is upright again when the viewer turns it."""
    upright = picture("RGB", 16, 24)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert open_picture(path).size == (24, 16)
    assert np.array_equal(open_picture(path), upright)


def test_the_file_is_closed_and_the_picture_stays(tmp_path: Path):
    path = saved(tmp_path / "a.png", picture())
    opened = open_picture(str(path))
    path.unlink()
    assert np.array_equal(opened, picture())


# -- files that are none


def truncated(path: Path, kind: str) -> Path:
    stream = io.BytesIO()
    picture("RGB", 60, 80).save(stream, kind)
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF"])
def test_truncated_pictures_are_named(tmp_path: Path, kind):
    path = truncated(tmp_path / f"half.{kind.lower()}", kind)
    with pytest.raises(DataError, match=f"{path}: expected a picture, got .*skip_unreadable=True"):
        open_picture(path)


def test_files_that_are_no_pictures(tmp_path: Path):
    for name, content in (("empty.png", b""), ("page.jpg", b"<html>not found</html>")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: expected a picture, got a file that is none"):
            open_picture(tmp_path / name)
    broken = bytearray(saved(tmp_path / "a.png", picture()).read_bytes())
    broken[60:90] = bytes(30)
    (tmp_path / "b.png").write_bytes(broken)
    with pytest.raises(DataError, match=r"b\.png: expected a picture, got "):
        open_picture(tmp_path / "b.png")


def test_what_is_no_file(tmp_path: Path):
    for path, got in ((tmp_path / "none.png", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=f"{path}: expected a picture, got {got}"):
            open_picture(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(DataError, match="got no ordinary file"):
            open_picture(tmp_path / "pipe.png")
    with pytest.raises(ArgumentError, match="expected a path"):
        open_picture(3)


def test_pictures_of_too_many_pixels(tmp_path: Path, monkeypatch):
    path = saved(tmp_path / "a.png", picture("RGB", 30, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        DataError, match=r"a\.png: expected a picture, got Image size \(1200 pixels"
    ):
        open_picture(path)


def test_a_broken_picture_among_others_is_named_by_the_loader(folder: Path):
    truncated(folder / "dog" / "9.jpg", "JPEG")
    chosen = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])
    with pytest.raises(DataError, match=r"dog/9\.jpg: expected a picture"):
        list(DataLoader(ImageFolder(folder, chosen), 2, num_workers=2))


def test_broken_pictures_are_left_out_on_request(folder: Path):
    truncated(folder / "dog" / "9.jpg", "JPEG")
    (folder / "cat" / "1.jpg").write_bytes(b"no")
    with pytest.warns(UserWarning, match="left out") as caught:
        pets = ImageFolder(folder, skip_unreadable=True)
    (warning,) = caught
    head, first, second = str(warning.message).splitlines()
    assert head == "ImageFolder: left out 2 of 7 files, which cannot be read:"
    assert first.startswith(f"  {folder / 'cat' / '1.jpg'}: expected a picture, got a file that is")
    assert second.startswith(f"  {folder / 'dog' / '9.jpg'}: expected a picture, got ")
    assert "skip_unreadable" not in str(warning.message)
    assert Path(warning.filename).name == "test_pictures.py"
    assert len(pets) == len(pets.imgs) == len(pets.targets) == 5
    assert [Path(path).name for path, _ in pets.skipped] == ["1.jpg", "9.jpg"]
    assert [image.mode for image, _ in pets] == ["RGB"] * 5


def test_nothing_is_said_of_sound_folders(folder: Path):
    assert ImageFolder(folder, skip_unreadable=True).skipped == []


def test_a_class_whose_pictures_are_all_broken(folder: Path):
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"expected files of the class 'dog' that can be read, got 2"
    ):
        ImageFolder(folder, skip_unreadable=True)


def test_many_broken_pictures_are_counted(folder: Path):
    for k in range(9):
        (folder / "cat" / f"x{k}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out 9 of 14 (.|\n)*and 4 more: see \.skipped"):
        ImageFolder(folder, skip_unreadable=True)


def test_a_picture_that_was_opened_but_cannot_be_read(tmp_path: Path):
    """Pillow reads a file when it is first needed: transforms say which it is."""
    path = truncated(tmp_path / "half.jpg", "JPEG")
    for transform in (
        transforms.ToTensor(),
        transforms.Resize(4),
        transforms.RandomHorizontalFlip(1),
    ):
        with (
            Image.open(path) as image,
            pytest.raises(DataError, match=f"expected to read {path}, got image file is truncated"),
        ):
            transform(image)

"""What make_grid and save_image refuse; their results are compared in test_values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.vision.utils import make_grid, save_image


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: make_grid([]), DTypeError, r"expected a tensor of pictures \(n, c, h, w\), or"),
        (lambda: make_grid(np.ones((2, 3, 4, 4))), DTypeError, "expected a tensor of pictures"),
        (lambda: make_grid(mr.ones(2, dtype="int64")), DTypeError, "pictures of floats or uint8"),
        (
            lambda: make_grid([mr.ones(3, 2, 2), mr.ones(3, 2, 4)]),
            ShapeError,
            "of one size and dty",
        ),
        (lambda: make_grid([mr.ones(2, 2)]), ShapeError, r"expected pictures \(n, c, h, w\) with"),
        (lambda: make_grid(mr.ones(0, 3, 2, 2)), ShapeError, "with pixels, got shape"),
        (lambda: make_grid(mr.ones(2, 3, 2, 2), 0), ArgumentError, "expected nrow an integer >= 1"),
        (
            lambda: make_grid(mr.ones(2, 3, 2, 2), normalize=True, value_range=1),
            ArgumentError,
            r"expected value_range as \(lowest, highest\), got 1",
        ),
        (
            lambda: make_grid(mr.ones(2, 3, 2, 2, dtype="uint8"), normalize=True),
            DTypeError,
            "expected floats to normalize, got uint8",
        ),
        (
            lambda: save_image(mr.ones(3, 2, 2), "a.txt"),
            ArgumentError,
            r"ends in \.png.*got a\.txt",
        ),
        (lambda: save_image(mr.ones(3, 2, 2), "a.png", "X"), ArgumentError, "unknown format 'X'"),
        (lambda: save_image(mr.ones(3, 2, 2), 3), ArgumentError, "expected a path"),
        (
            lambda: save_image(mr.ones(3, 2, 2), "a.png", rows=2),
            ArgumentError,
            "unexpected keyword",
        ),
        (lambda: save_image(mr.ones(5, 2, 2), "a.png"), ShapeError, "expected pictures of 1 to 4"),
    ],
)
def test_what_is_refused(call, kind, words, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


def test_formats(tmp_path: Path):
    save_image(mr.full((3, 4, 6), 0.2), tmp_path / "new" / "a.JPG")
    save_image(mr.full((3, 4, 6), 0.2), str(tmp_path / "b"), format="png")
    for name, kind in (("new/a.JPG", "JPEG"), ("b", "PNG")):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size, image.getpixel((2, 2))) == (kind, (6, 4), (51,) * 3)

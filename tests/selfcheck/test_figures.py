"""The figure of errors: every argument is in it, and what fails stands out."""

import numpy as np
import pytest

from minires import selfcheck
from minires.report.figures import FORMATS
from minires.selfcheck import figures, gallery, page
from minires.selfcheck.results import Row


def row(name, error, backend="numba", kind="operation", ok=True, references=("complex step",)):
    return Row(kind, name, "x", backend, 1, 10, relative=error, references=[*references], ok=ok)


ROWS = [
    row("relu", 1e-16),
    row("conv2d", 1e-12),
    row("conv2d", 0.0, "numpy"),
    row("BasicBlock", 3e-9, kind="block"),
    row("missing", 0.0, references=()),
]


def test_every_compared_argument_is_a_dot_sorted_by_error():
    figure = figures.errors(ROWS)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["Operations", "Blocks"]
    drawn = {tuple(line.get_ydata()) for axis in figure.axes for line in axis.get_lines()} - {()}
    assert drawn == {(1e-16, 1e-12), (figures.FLOOR,), (3e-9,)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["numba", "numpy"]
    assert any("4 arguments, 40 entries" in text.get_text() for text in figure.texts)


def test_what_fails_is_a_cross():
    figure = figures.errors([*ROWS, row("silu", 0.3, ok=False)])
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [tuple(line.get_ydata()) for line in crosses if len(line.get_ydata())] == [(0.3,)]
    assert figure.axes[0].get_ylim()[1] > 0.3
    assert "fails" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
@pytest.mark.parametrize("narrow", [False, True])
def test_it_can_be_drawn_of_anything(rows, narrow):
    figures.errors(rows, narrow=narrow).draw_without_rendering()


def test_a_picture_becomes_files(tmp_path):
    shown = gallery.picture("errors", "t", "c", lambda narrow: figures.errors(ROWS, narrow=narrow))
    shown.save(tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(
        f"errors.{ending}" for ending in FORMATS
    )
    assert (tmp_path / "new" / "errors.svg").read_bytes() == shown.wide
    assert np.frombuffer((tmp_path / "new" / "errors.png").read_bytes()[1:4], "S3")[0] == b"PNG"


def test_a_result_shows_itself(tmp_path):
    result = selfcheck.plan(["relu"], backend="numpy", device="cpu").run()
    assert repr(result).startswith("All ")
    assert "cases hold on numpy" in repr(result)
    html = result._repr_html_()
    assert "cases hold on numpy" in html
    for part in ("<td", "relu", "data:image/svg+xml"):
        assert part in html
    assert "Report:" not in html
    path = tmp_path / "<page>.html"
    page.write(path, result, "minires gradcheck relu")
    assert str(path) in repr(result)
    assert "&lt;page&gt;.html</a>" in result._repr_html_()

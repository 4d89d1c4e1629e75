"""The study's figures: what is drawn, read back from Matplotlib's objects and from the files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from PIL import Image

from minires.study import figures


def _labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _run(results, kind, depth, seed=0):
    wanted = (kind, depth, seed)
    return next(r for r in results["runs"] if (r["kind"], r["depth"], r["seed"]) == wanted)


def _long(axis):
    """The lines of data, without single crosses and triangles."""
    return [line for line in axis.get_lines() if len(line.get_xdata()) > 1]


@pytest.mark.slow
def test_draw_all_writes_png_svg_and_pdf(make_results, tmp_path):
    paths = figures.draw_all(make_results(), tmp_path)
    names = ["curves", "error_by_depth", "gradient_norms"]
    assert [path.name for path in paths] == [
        f"{n}.{e}" for n in names for e in ("png", "svg", "pdf")
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.info["dpi"]) >= 149
                assert image.width >= 1200
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
        else:
            root = ET.parse(path).getroot()
            texts = {"".join(node.itertext()).strip() for node in root.iter() if "text" in node.tag}
            assert any("digits, 1,500 training images" in text for text in texts)


@pytest.mark.slow
def test_same_results_same_bytes_and_no_date(make_results):
    results = make_results(depths=(8, 20), seeds=(0, 1), epochs=3)
    for name in figures.FIGURES:
        assert len({figures.render(results, name, "pdf") for _ in range(2)}) == 1
        first, second = (figures.render(results, name, "svg") for _ in range(2))
        assert first == second
        assert b"<dc:date>" not in first
        assert b"http://www.w3.org" in first


def test_curves_hold_the_data_in_percent(make_results):
    results = make_results()
    figure = figures.curves(results)
    plain, residual = figure.axes
    assert [a.get_title(loc="left") for a in (plain, residual)] == [
        "Plain networks",
        "Residual networks",
    ]
    assert plain.get_ylim() == residual.get_ylim()
    for axis, kind in ((plain, "plain"), (residual, "residual")):
        lines = _long(axis)
        assert len(lines) == 2 * 4
        run = _run(results, kind, 20)
        train, test = lines[2:4]
        np.testing.assert_array_equal(train.get_xdata(), range(1, 13))
        for line, measure in ((train, "train_error"), (test, "test_error")):
            expected = [100 * epoch[measure] for epoch in run["epochs"]]
            np.testing.assert_allclose(line.get_ydata(), expected)
        assert [line.get_linestyle() for line in lines] == ["--", "-"] * 4  # He et al., Fig. 6
        hues = [rgb_to_hsv(to_rgb(line.get_color())) for line in lines]
        assert np.ptp([hue for hue, _, _ in hues]) < 0.03  # shades of the kind's colour
        assert [v for _, _, v in hues[::2]] == sorted((v for _, _, v in hues[::2]), reverse=True)
    assert _labels(figure) == [
        "depth 8",
        "depth 20",
        "depth 32",
        "depth 56",
        "training (running)",
        "test",
    ]


def test_curves_of_several_seeds_are_mean_and_range(make_results):
    results = make_results(depths=(8, 20), seeds=(0, 1, 2))
    axis = figures.curves(results).axes[0]
    errors = 100 * np.array(
        [[e["train_error"] for e in _run(results, "plain", 8, s)["epochs"]] for s in range(3)]
    )
    np.testing.assert_allclose(_long(axis)[0].get_ydata(), errors.mean(0))
    band = axis.collections[0].get_paths()[0].vertices
    for column, epoch in ((0, 1), (11, 12)):
        y = band[band[:, 0] == epoch][:, 1]
        np.testing.assert_allclose(
            [y.min(), y.max()], [errors[:, column].min(), errors[:, column].max()]
        )


def test_a_run_cut_short_is_drawn_alone_up_to_a_cross(make_results):
    results = make_results(seeds=(0, 1, 2), done={("plain", 56, 1): 7})
    figure = figures.curves(results)
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    last = _run(results, "plain", 56, 1)["epochs"][-1]
    assert [(c.get_xdata()[0], c.get_ydata()[0]) for c in crosses] == [
        (7, pytest.approx(100 * last["train_error"])),
        (7, pytest.approx(100 * last["test_error"])),
    ]
    assert not [line for line in figure.axes[1].get_lines() if line.get_marker() == "x"]
    assert _labels(figure)[-1] == "run cut short"
    finished = [_run(results, "plain", 56, s)["epochs"][0]["train_error"] for s in (0, 2)]
    assert _long(figure.axes[0])[6].get_ydata()[0] == pytest.approx(100 * np.mean(finished))


def test_the_error_axis_is_cut_where_all_end_low_and_says_so(make_results):
    def cut_note(figure):
        return any("axis cut at 20%" in text.get_text() for text in figure.texts)

    figure = figures.curves(make_results(depths=(8, 20, 32)))
    assert figure.axes[0].get_ylim()[1] == 20
    assert cut_note(figure)
    stuck = make_results(depths=(8, 56))
    figure = figures.curves(stuck)
    worst = max(100 * epoch["test_error"] for run in stuck["runs"] for epoch in run["epochs"])
    assert worst < figure.axes[0].get_ylim()[1] <= 100
    assert not cut_note(figure)
    low = make_results(depths=(8,), kinds=("residual",))
    figure = figures.curves(low)
    assert figure.axes[0].get_ylim()[1] == 20
    assert not cut_note(figure)


def test_error_by_depth_holds_final_errors(make_results):
    results = make_results()
    figure = figures.error_by_depth(results)
    for axis, measure in zip(figure.axes, ("train_error", "test_error")):
        for container, kind in zip(axis.containers, ("plain", "residual")):
            line = container[0]
            np.testing.assert_array_equal(line.get_xdata(), [8, 20, 32, 56])
            expected = [100 * _run(results, kind, d)[measure] for d in (8, 20, 32, 56)]
            np.testing.assert_allclose(line.get_ydata().astype(float), expected)
            assert line.get_linestyle() == ("--" if measure == "train_error" else "-")
            label = f"{expected[-1]:.1f}%"
            assert label in [text.get_text() for text in axis.texts]
        assert axis.get_yscale() == "symlog"
        low, high = axis.get_ylim()
        assert low < 0 < 100 * _run(results, "plain", 56)["test_error"] < high
    assert _labels(figure) == ["plain", "residual"]


def test_error_by_depth_leaves_out_what_is_not_final(make_results):
    results = make_results(done={("plain", 56, 0): 7, ("residual", 56, 0): None})
    figure = figures.error_by_depth(results)
    for container in figure.axes[0].containers:
        np.testing.assert_array_equal(container[0].get_xdata(), [8, 20, 32])


def test_error_bars_span_the_seeds(make_results):
    results = make_results(depths=(8, 56), seeds=(0, 1, 2))
    figure = figures.error_by_depth(results)
    bars = figure.axes[0].containers[0][2][0].get_segments()
    errors = [100 * _run(results, "plain", 56, s)["train_error"] for s in range(3)]
    np.testing.assert_allclose(bars[1][:, 1], [min(errors), max(errors)])


def test_labels_of_equal_errors_do_not_overlap(make_results):
    results = make_results(depths=(8,))
    for run in results["runs"]:
        run["train_error"] = 0.01
    figure = figures.error_by_depth(results)
    figure.draw_without_rendering()
    first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)


def test_gradient_norms_hold_the_data_by_relative_position(make_results):
    results = make_results()
    figure = figures.gradient_norms(results)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [
        f"{kind} networks, {moment} of training"
        for moment in ("start", "end")
        for kind in ("Plain", "Residual")
    ]
    for axis, (moment, kind) in zip(
        figure.axes, [(m, k) for m in ("start", "end") for k in ("plain", "residual")]
    ):
        assert axis.get_yscale() == "log"
        line = _long(axis)[1]
        norms = _run(results, kind, 20)["gradient_norms"][moment]
        np.testing.assert_allclose(line.get_ydata(), norms)
        np.testing.assert_allclose(line.get_xdata(), np.arange(19) / 18)
    assert len({axis.get_ylim() for axis in figure.axes}) == 1


def test_gradient_norms_of_seeds_are_averaged_geometrically(make_results):
    results = make_results(depths=(8,), seeds=(0, 1))
    for seed, factor in ((0, 1.0), (1, 100.0)):
        _run(results, "plain", 8, seed)["gradient_norms"]["start"] = [factor] * 7
    line = _long(figures.gradient_norms(results).axes[0])[0]
    np.testing.assert_allclose(line.get_ydata(), 10.0)


def test_a_zero_gradient_is_marked_and_not_dropped(make_results):
    results = make_results(depths=(8,))
    norms = _run(results, "plain", 8)["gradient_norms"]["start"]
    norms[0] = norms[3] = 0.0
    axis = figures.gradient_norms(results).axes[0]
    line, triangles = axis.get_lines()
    assert np.isnan(line.get_ydata()[[0, 3]]).all()
    assert np.isfinite(line.get_ydata()[[1, 2, 4, 5, 6]]).all()
    assert triangles.get_marker() == "v"
    np.testing.assert_allclose(triangles.get_xdata(), [0, 0.5])


def test_an_unfinished_run_shows_its_start_and_an_empty_end_says_so(make_results):
    results = make_results(depths=(8,), kinds=("plain",), done={("plain", 8, 0): 3})
    start, end = figures.gradient_norms(results).axes
    assert len(_long(start)) == 1
    assert not end.get_lines()
    assert [text.get_text() for text in end.texts] == ["no run measured"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"depths": (8,), "kinds": ("residual",)},
        {"depths": (8, 20), "epochs": 1},
        {"depths": (8, 20, 32, 44, 56, 110), "epochs": 4},
        {"depths": (8,), "done": {("plain", 8, 0): 0, ("residual", 8, 0): None}},
        {"seeds": (0, 1, 2), "done": {("plain", 56, 1): 7, ("residual", 8, 2): None}},
    ],
)
def test_every_kind_of_study_can_be_drawn(make_results, options):
    results = make_results(**options)
    before = copy.deepcopy(results)
    for draw in figures.FIGURES.values():
        draw(results)
        draw(results, narrow=True).draw_without_rendering()
    assert results == before


@pytest.mark.slow
def test_narrow_figures_are_one_column_for_a_phone(make_results):
    results = make_results()
    for draw in figures.FIGURES.values():
        figure = draw(results, narrow=True)
        assert figure.get_figwidth() < 5
        figure.draw_without_rendering()
        left = {round(axis.get_position().x0, 3) for axis in figure.axes}
        assert len(left) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curves", "error_by_depth", "gradient_norms"])
@pytest.mark.parametrize("narrow", [False, True])
def test_no_text_leaves_the_figure_or_crosses_a_panel_title(make_results, name, narrow):
    results = make_results(depths=(8, 20, 32), seeds=(0, 1, 2), done={("plain", 32, 1): 7})
    figure = figures.FIGURES[name](results, narrow=narrow)
    figure.draw_without_rendering()
    edge = figure.bbox
    heading = [text.get_window_extent() for text in figure.texts]
    # Matplotlib keeps the left title in a private attribute; get_title has no extent.
    titles = [axis._left_title.get_window_extent() for axis in figure.axes]
    legend = figure.legends[0].get_window_extent()
    labels = [text.get_window_extent() for axis in figure.axes for text in axis.texts]
    for box in (*heading, *titles, *labels, legend):
        assert edge.x0 <= box.x0
        assert box.x1 <= edge.x1
        assert edge.y0 <= box.y0
        assert box.y1 <= edge.y1
    assert not any(a.overlaps(b) for a in heading for b in titles)
    assert not any(legend.overlaps(axis.get_window_extent()) for axis in figure.axes)


def test_colours_get_darker_with_depth_and_stay_apart(make_results):
    colours = figures._depth_colours(make_results(depths=(8, 20, 32, 44, 56, 110), epochs=1))
    weights = np.array([0.2126, 0.7152, 0.0722])
    for of_depths in colours.values():
        lightness = [float(np.array(colour[:3]) @ weights) for colour in of_depths.values()]
        assert lightness == sorted(lightness, reverse=True)
        assert lightness[0] < 0.8  # still dark enough for a thin line on white
        assert min(np.diff(lightness[::-1])) > 0.02
    assert len({to_hex(c) for of_depths in colours.values() for c in of_depths.values()}) == 12


@pytest.mark.slow
def test_pyplot_and_the_users_settings_are_left_alone(make_results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(make_results(depths=(8,), epochs=2)))
    code = (
        "import json, sys\n"
        "from minires.study import figures, report\n"
        "assert not {'matplotlib', 'rich'} & sys.modules.keys()\n"
        "import matplotlib\n"
        "def settings():\n"  # asking for the backend would itself import pyplot
        "    return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = settings()\n"
        "figures.draw_all(json.load(open(sys.argv[1] + '/results.json')), sys.argv[1])\n"
        "assert settings() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-Wignore", "-c", code, str(tmp_path)], check=True)

"""What the command line shows of a study, with one network in training and with several."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from minires.console import StudyDisplay
from minires.study import PROTOCOLS, StudyConfig, run_study, runner
from minires.train import Running

RUNNING = Running(training=True, loss=1.5, error=0.25, batch=8)
ROW = {"epoch": 1, "train_error": 0.5, "test_error": 0.625, "seconds": 2.0}
FINAL = {"train_error": 0.125, "test_error": 0.25, "seconds": 4.0}


class Screen:
    """A terminal, and what is on it."""

    def __init__(self, terminal=True):
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=terminal, width=100, color_system=None
        )
        self.display = StudyDisplay(self.console)

    def bars(self):
        with self.console.capture() as drawn:
            self.console.print(self.display._progress.get_renderable())
        return [" ".join(line.split()) for line in drawn.get().splitlines()]


@pytest.fixture
def screen(tmp_path):
    screen = Screen()
    screen.display.plan(tmp_path, total=1000, done=100)
    return screen


def test_one_network_has_its_bar_and_a_line_of_words(screen):
    screen.display.network("plain-8", 2, 0, 400, 0)
    screen.display.batch("plain-8", 100, RUNNING)
    whole, bar, words = screen.bars()
    assert whole.startswith("whole study")
    assert "20%" in whole
    assert bar.startswith("plain-8 ")
    assert "25%" in bar
    assert words == "epoch 1 of 2, training: loss 1.5000, error 25.0 % so far"


def test_several_networks_have_a_bar_each_and_no_words_that_flicker(screen):
    display = screen.display
    display.network("plain-8", 2, 0, 400, 0)
    display.network("residual-8", 2, 1, 400, 200)
    display.batch("plain-8", 100, RUNNING)
    display.batch("residual-8", 100, RUNNING)
    whole, *bars = screen.bars()
    assert "50%" in whole
    assert [bar.split(" ━")[0] for bar in bars] == [
        "plain-8, epoch 1 of 2",
        "residual-8, epoch 2 of 2",
    ]
    assert "25%" in bars[0]
    assert "75%" in bars[1]
    display.epoch("residual-8", {**ROW, "epoch": 2})
    display.evaluating("residual-8")
    assert screen.bars()[2].startswith("residual-8, evaluating ")
    display.batch("residual-8", 100, RUNNING)
    display.finished("residual-8", FINAL)
    display.batch("plain-8", 100, RUNNING)
    _, bar, words = screen.bars()
    assert bar.startswith("plain-8 ━")
    assert words.startswith("epoch 1 of 2, training")


def test_a_network_that_diverged_leaves_its_work_behind(screen):
    screen.display.network("plain-8", 2, 0, 400, 0)
    screen.display.batch("plain-8", 100, RUNNING)
    screen.display.diverged("plain-8")
    (whole,) = screen.bars()
    assert "50%" in whole
    screen.display.diverged("plain-20")  # it met NaN before its first batch


def test_without_a_terminal_there_are_lines_alone_each_with_its_network(tmp_path):
    screen = Screen(terminal=False)
    display = screen.display
    with display:
        display.plan(tmp_path, 1000, 0)
        display.network("plain-8", 2, 0, 400, 0)
        display.network("plain-20", 2, 1, 600, 300)
        display.batch("plain-20", 300, RUNNING)
        display.epoch("plain-8", ROW)
        display.finished("plain-20", FINAL)
    assert screen.file.getvalue().strip().splitlines() == [
        "plain-20: going on after epoch 1 of 2",
        "plain-8: epoch 1 of 2, running training error 50.0 %, test error 62.5 %, 2.0 s",
        "plain-20: final training error 12.5 %, final test error 25.0 %, 4.0 s",
    ]


def test_the_whole_takes_at_least_as_long_as_the_longest_of_its_networks(tmp_path):
    """At the end one rank trains alone, and the whole is slower than it was."""
    screen, now = Screen(), [0.0]
    display, progress = screen.display, screen.display._progress
    progress.get_time = lambda: now[0]
    display.plan(tmp_path, 10_000, 0)
    display.network("plain-8", 1, 0, 8000, 0)
    display.network("plain-56", 1, 0, 2000, 0)
    for _ in range(10):
        now[0] += 1
        display.batch("plain-8", 700, RUNNING)
        display.batch("plain-56", 20, RUNNING)
    whole, small, large = progress.tasks
    assert whole.time_remaining < 10
    assert small.time_remaining < 10
    assert large.time_remaining == pytest.approx(90, abs=5)
    drawn = screen.bars()
    assert "0:01:30" in drawn[2] or "0:01:3" in drawn[2]
    assert drawn[0].split("%")[1] == drawn[2].split("%")[1], "the whole waits for the longest"


def test_a_study_calls_it_as_it_is_called_here(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")
    config = StudyConfig(
        depths=(8,), kinds=("plain",), limit=32, protocol=PROTOCOLS["quick"].with_epochs(1)
    )
    screen = Screen(terminal=False)
    with screen.display:
        run_study(config, tmp_path, progress=screen.display)
        (whole,) = screen.bars()
    assert "100%" in whole
    first, last = screen.file.getvalue().strip().splitlines()
    assert first.startswith("plain-8: epoch 1 of 1, running training error ")
    assert last.startswith("plain-8: final training error ")

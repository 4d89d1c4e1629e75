"""What fit shows: bars on a terminal, one table in a notebook, else lines of a log."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
from harness import Page, raises

import minires as mr
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.errors import ArgumentError
from minires.kernels.numba import compiler
from minires.train import Callback, EarlyStopping, fit
from minires.train.callbacks import Run
from minires.train.display import LogDisplay, NotebookDisplay
from minires.train.loop import Running
from minires.train.shown import shown


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


def parts(lr=0.1):
    mr.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    loader = DataLoader(TensorDataset(mr.randn(12, 1, 5, 4), mr.arange(12) % 2), 5)
    held_out = DataLoader(TensorDataset(mr.randn(7, 1, 5, 4), mr.arange(7) % 2), 4)
    return net, loader, held_out, optim.SGD(net.parameters(), lr=lr)


class Interrupted(Callback):
    """Ctrl-C in the second epoch."""

    def on_step(self, run, step, loss):
        if len(run.history) == 1 and step == 1:
            raise KeyboardInterrupt


class Terminal(io.StringIO):
    """What is written, and to a program a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """The lines that a reader sees at the end, by the few commands that Rich sends."""
        lines, row, column = [""], 0, 0
        for code, text in re.findall(
            r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", self.value()
        ):
            if text:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + text + line[column + len(text) :]
                column += len(text)
            elif code == "\r":
                column = 0
            elif code == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif code[-1] == "A":
                row -= int(code[2:-1] or 1)
            elif code == "\x1b[2K":
                lines[row] = ""
            else:
                assert code[-1] in "mhl", code  # colours, the cursor
        return [line.rstrip() for line in lines if line.strip()]

    def value(self):
        return self.getvalue()

    def has_cursor(self):
        found = re.findall(r"\x1b\[\?25([hl])", self.value())
        return found.count("l") > 0 and found[-1] == "h"


@pytest.fixture
def terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("minires.train.shown.sys", SimpleNamespace(stdout=screen))
    return screen


LINE = (
    r"epoch {} of {}: lr 0\.1, running training loss \d\.\d{{4}} accuracy \d+\.\d\d %, "
    r"test loss \d\.\d{{4}} accuracy \d+\.\d\d %, [\d,]+ images/s, \d+\.\d s"
)


def test_a_terminal_has_bars_and_then_a_line_for_each_epoch(terminal):
    # ten pictures a second are drawn
    fit(*parts(), epochs=2, watch=lambda running: time.sleep(0.15))
    text = terminal.value()
    assert "all epochs" in text
    assert "epoch 1 of 2 " in text
    assert "remaining" in text
    assert re.search(r"training: loss \d\.\d{4}, accuracy \d+\.\d\d %, lr 0\.1, [\d,]+ image", text)
    assert re.search(r"evaluating: loss", text)
    left = terminal.screen()
    assert len(left) == 2
    for epoch, line in enumerate(left, 1):
        assert re.fullmatch(LINE.format(epoch, 2), line)
    assert terminal.has_cursor()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_a_clean_terminal(terminal, error):
    class Stop(Interrupted):
        def on_step(self, run, step, loss):
            if len(run.history) == 1 and step == 1:
                raise error

    with pytest.raises(error):
        fit(*parts(), epochs=3, callbacks=[Stop()])
    (line,) = terminal.screen()
    assert re.fullmatch(LINE.format(1, 3), line)
    assert terminal.has_cursor()


def test_a_stopped_run_says_so(terminal):
    fit(*parts(0.1), epochs=9, callbacks=[EarlyStopping(1, monitor="lr")])
    *lines, last = terminal.screen()
    assert len(lines) == 2
    assert last == "stopped: no epoch has been better than epoch 1 for 1 epochs"


def test_a_resumed_run_begins_where_it_was(terminal, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(*parts(), epochs=3, checkpoint=path, progress=False)
    assert terminal.value() == ""
    fit(*parts(), epochs=4, checkpoint=path, resume=True)
    assert "epoch 4 of 4" in terminal.value()
    assert "75%" in terminal.value()  # of all epochs, at once
    assert len(terminal.screen()) == 1


def test_a_loader_without_a_length_has_no_percentage(terminal):
    net, loader, held_out, optimizer = parts()

    class Stream:
        def __iter__(self):
            return iter(loader)

    fit(net, Stream(), held_out, optimizer, epochs=2)
    assert len(terminal.screen()) == 2


def test_kernels_that_are_compiled_are_named(terminal):
    class Compile(Callback):
        def on_fit_start(self, run):
            compiler._compiling("_a_kernel")

    fit(*parts(), epochs=1, callbacks=[Compile()])
    first, _ = terminal.screen()
    assert first == "Compiling kernels for this CPU, once. `minires warmup` does it ahead."


def test_elsewhere_there_is_a_log(capsys, caplog):
    with caplog.at_level(logging.INFO, "minires.train"):
        fit(*parts(), epochs=2, callbacks=[EarlyStopping(1, monitor="lr")])
    assert [record.name for record in caplog.records] == ["minires.train"] * 3
    for epoch, text in enumerate(caplog.messages[:2], 1):
        assert re.fullmatch(LINE.format(epoch, 2), text)
    assert caplog.messages[2].startswith("stopped: no epoch")
    caplog.clear()
    with caplog.at_level(logging.INFO, "minires.train"):
        fit(*parts(), epochs=1, progress=False)
    assert caplog.messages == []
    out, err = capsys.readouterr()
    assert out == err == ""


def test_which_display(monkeypatch):
    with shown(True, [1], [2]) as display:
        assert type(display) is LogDisplay
    monkeypatch.setattr(
        "minires.train.shown.sys", SimpleNamespace(stdout=None)
    )  # a program without a console
    with shown(True, [1], [2]) as display:
        assert type(display) is LogDisplay


def test_progress_is_a_flag():
    with raises(ArgumentError, "fit: expected progress True or False, got 'bar'"):
        fit(*parts(), epochs=1, progress="bar")


# **** notebooks ****


def row(epoch, key="test"):
    return {
        "epoch": epoch,
        "lr": 0.1,
        "train_loss": 0.5,
        "train_error": 0.25,
        f"{key}_loss": 0.75,
        f"{key}_error": 0.125,
        "seconds": 2.0,
    }


class Shown:
    """What IPython's ``display`` gives: it is told to show the same place anew."""

    def __init__(self):
        self.pages = []

    def update(self, thing):
        self.pages.append((thing._repr_html_(), repr(thing)))


@pytest.fixture
def place(monkeypatch):
    """The one place in which a notebook's display shows itself."""
    made = []

    def display(thing, display_id):
        assert display_id is True
        made.append(Shown())
        made[-1].update(thing)
        return made[-1]

    module = type(sys)("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", type(sys)("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return made


def test_the_table_of_a_notebook(place):
    run = Run(None, None, optim.SGD([mr.ones(1, requires_grad=True)], lr=0.1), 2, [row(1, "val")])
    with NotebookDisplay((2, 1)) as display:
        display.on_fit_start(run)
        display.kernel("_relu")
        display.batch(Running(True, 0.5, 0.25, 8))
        run.history.append(row(2, "val"))
        display.epoch(run.history[-1])
    (one,) = place
    assert "compiling relu" in one.pages[1][0]
    html, text = one.pages[-1]
    heads, first, second = Page(html).rows
    assert heads == [
        *("epoch", "lr", "training loss", "accuracy"),
        *("validation loss", "validation accuracy", "images/s", "seconds"),
    ]
    assert first == ["1", "0.1", "0.5000", "75.00 %", "0.7500", "87.50 %", "", "2.0"]
    assert second[:6] == ["2", "0.1", "0.5000", "75.00 %", "0.7500", "87.50 %"]
    assert re.fullmatch(r"[\d,]+", second[6])
    assert "<progress" not in html
    assert len(text.splitlines()) == 5  # heads, a line, two epochs, the time


def test_a_notebook_shows_how_far_it_is(place, monkeypatch):
    monkeypatch.setattr("minires.train.display._PAUSE", 0)
    run = Run(None, None, optim.SGD([mr.ones(1, requires_grad=True)], lr=0.1), 2)
    with NotebookDisplay((2, 1)) as display:
        display.on_fit_start(run)
        display.batch(Running(True, 0.5, 0.25, 8))
    html = place[0].pages[1][0]
    assert '<progress value="3" max="7">' in html
    assert re.search(
        r"epoch 1 of 2, training: loss 0\.5000, accuracy 75\.00 %, lr 0\.1, [\d,]+ images/s, "
        r"\d+:\d\d remaining",
        html,
    )


@pytest.mark.parametrize(
    ("error", "words"), [(KeyboardInterrupt, "interrupted"), (ValueError, "ValueError")]
)
def test_a_notebook_says_what_ended_it(place, error, words):
    run = Run(None, None, None, 3, [row(1)])
    display = NotebookDisplay((1, 1))
    display.on_fit_start(run)
    display.__exit__(error, error(), None)
    assert f"ended in epoch 2 of 3: {words}" in place[0].pages[-1][0]


CELL = """
import minires as mr
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.train import fit

mr.manual_seed(1)
net = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
loader = DataLoader(TensorDataset(mr.randn(60, 1, 5, 4), mr.arange(60) % 2), 5)
with mr.backend("numpy"):
    rows = fit(net, loader, loader, optim.SGD(net.parameters(), lr=0.1), epochs=3)
"""


def test_an_exported_notebook_shows_the_table_once():
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    nbconvert = pytest.importorskip("nbconvert")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(CELL)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zmq and asyncio
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert len(Page(output.data["text/html"]).rows) == 4
    assert page.count("training loss") == 1
    assert page.count("<progress") == 0

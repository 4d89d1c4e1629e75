"""What IPython and notebooks show of an error: the reader's lines."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import minires as mr
from minires import nn
from minires.errors import MiniresError
from minires.notebook import trimmed


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return self.inner(x)  # the reader's own line


def stop(*args):
    raise KeyboardInterrupt


def caught(action):
    try:
        action()
    except (MiniresError, KeyboardInterrupt) as error:
        return traceback.extract_tb(error.__traceback__), traceback.extract_tb(
            trimmed(error.__traceback__)
        )
    raise AssertionError("no error")


def interrupted():
    net = Net()
    net.inner[0].register_forward_hook(stop)
    net(mr.ones(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("action", "last"),
    [
        (lambda: Net()(mr.ones(1, 2, 8, 8)), "return self.inner(x)  # the reader's own line"),
        (interrupted, "raise KeyboardInterrupt"),
        (lambda: (mr.ones(3, requires_grad=True) * 2).backward(), None),
    ],
)
def test_the_frames_of_minires_are_left_out(action, last):
    whole, short = caught(action)
    assert any(frame.filename.startswith(os.path.dirname(mr.__file__)) for frame in whole)
    assert {frame.filename for frame in short} == {__file__}
    if last is not None:
        assert short[-1].line == last


def test_an_error_in_a_cell_is_short(tmp_path):
    pytest.importorskip("IPython")
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_line_magic('colors', 'nocolor')\n"
        "shell.run_cell('import minires as mr; from minires.models import cifar_resnet')\n"
        "shell.run_cell('cifar_resnet(depth=8)(mr.ones(2, 1, 8, 8))')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        check=False,
    )
    shown = done.stdout + done.stderr
    assert "expected images of shape (n, 3, h, w), got" in shown
    assert str(Path(mr.__file__).parent) not in shown
    assert len(shown.splitlines()) <= 12

"""A Ctrl-C at every line of the proof of a captured step: `python tests/captured/every_line.py`.

A trace function sends the signal before a line of minires is run, so that its handler runs there,
as Python may run it there at any time. Afterwards all state must be, to the last bit, as it was
before the call or as it is after it; and all modes and handlers as they were.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter

import numpy as np

import minires as mr
from minires import nn, optim
from minires.autograd import current
from minires.mode import settings

PACKAGE = os.path.dirname(mr.__file__)
RNG = np.random.default_rng(1)
BATCHES = [
    (mr.tensor(RNG.standard_normal((3, 2, 5, 4)).astype("f4")), mr.tensor(RNG.integers(0, 3, 3)))
    for _ in range(2)
]


class Net(nn.Module):
    """A convolution, running statistics, something to draw in each step, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.drop(self.bn(self.conv(x)).relu().mean((2, 3))))


class Tracer:
    """Sends a signal before each line of minires for which ``sends`` is true; a line is (file,
    number).

    Attributes:
        lines: all lines that were run.
        sent: how many signals.
    """

    def __init__(self, sends=lambda line: False):
        self.sends, self.lines, self.sent = sends, {}, 0

    def __call__(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, arg):
        if event == "line":
            line = frame.f_code.co_filename[len(PACKAGE) + 1 :], frame.f_lineno
            self.lines[line] = None
            if self.sends(line):
                self.sent += 1
                signal.raise_signal(signal.SIGINT)
        return self._line


class Step:
    """A training step of a new network, captured, called once: the next call is the proof.

    Args:
        stops: called within each step, before the update.
    """

    def __init__(self, stops=lambda: None):
        mr.manual_seed(3)
        self.net = Net()
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)

        def step(x, y):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(x), y)
            loss.backward()
            stops()
            self.optimizer.step()
            return loss

        self.captured = mr.capture(step, self.net, self.optimizer)
        self.captured(*BATCHES[0])

    def state(self):
        """Weights, buffers, gradients, the optimiser's state and the random state, as bytes."""
        tensors = [*self.net.parameters(), *self.net.buffers()]
        found = [tensor._array.tobytes() for tensor in tensors]
        gradients = [tensor._grad for tensor in tensors]
        found += [None if g is None else g._array.tobytes() for g in gradients]
        for kept in self.optimizer.state_dict()["state"].values():
            found += [v.tobytes() if hasattr(v, "tobytes") else v for v in kept.values()]
        return [*found, mr.random.get_state()]

    def prove(self, sends=lambda line: False):
        """The call that proves; the tracer that was there, and what the call raised."""
        tracer, raised = Tracer(sends), None
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            self.captured(*BATCHES[1])
        except BaseException as error:
            raised = error
        finally:
            sys.settrace(before)
        return tracer, raised


def once(line):
    """To send a signal before this line, the first time that it is run."""
    left = [line]
    return lambda now: now == line and bool(left) and bool(left.pop())


def outcomes(lines):
    """How many interrupts, before these lines, left the state as it was before the call, or as it
    is after it; how many lines were not run this time; and where something else was left."""
    first = Step()
    before = first.state()
    assert first.prove()[1] is None
    after, found, wrong = first.state(), Counter(), []
    modes, handler = (current(), settings()), signal.getsignal(signal.SIGINT)
    for line in lines:
        step = Step()
        tracer, raised = step.prove(once(line))
        state = step.state()
        if not tracer.sent:
            found["not run"] += 1
        elif state == before and type(raised) is KeyboardInterrupt:
            found["before"] += 1
        elif state == after:
            found["after"] += 1
        else:
            wrong.append((*line, "state"))
        if (current(), settings()) != modes:
            wrong.append((*line, "mode"))
        if signal.getsignal(signal.SIGINT) != handler:
            wrong.append((*line, "handler"))
    return found, wrong


def lines_of_proof(*files):
    """The lines of these files, or of all of minires, that a proof runs."""
    Step().prove()  # what only the first proof of a process does is done by then
    return [line for line in Step().prove()[0].lines if not files or line[0] in files]


if __name__ == "__main__":
    found, wrong = outcomes(lines_of_proof())
    print(f"interrupts: {dict(found)}, wrong: {wrong or 'none'}")
    sys.exit(bool(wrong))

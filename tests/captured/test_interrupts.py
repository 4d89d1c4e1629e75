"""Ctrl-C in a proof: a step that was stopped was not done, and nothing of it is left."""

from __future__ import annotations

import signal
import threading

import pytest
from captured.every_line import BATCHES, Step, lines_of_proof, once, outcomes

import minires as mr
from minires.interrupts import HeldBack

PROOF = ("captured/function.py", "captured/state.py", "interrupts.py")


@pytest.fixture(autouse=True)
def _handlers():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_at_lines_of_the_proof():
    """At every fifth; at all of them, and at those of all of minires, by every_line.py."""
    lines = lines_of_proof(*PROOF)
    assert len(lines) > 150
    found, wrong = outcomes(lines[::5])
    assert wrong == []
    assert found["not run"] == 0
    assert found["before"] > 15
    assert found["after"] > 3


def test_what_follows_an_interrupt_is_as_ever():
    undisturbed = Step()
    before = undisturbed.state()
    losses = [undisturbed.captured(*BATCHES[1]).item() for _ in range(4)]
    stopped = 0
    for line in lines_of_proof(*PROOF)[5::40]:
        step = Step()
        _, raised = step.prove(once(line))
        assert isinstance(raised, KeyboardInterrupt)
        if step.state() == before:  # else the interrupt was handled after the step
            stopped += 1
            assert [step.captured(*BATCHES[1]).item() for _ in range(4)] == losses
            assert step.state() == undisturbed.state()
    assert stopped


@pytest.mark.parametrize("run", [1, 2], ids=["the function runs", "it is being recorded"])
@pytest.mark.parametrize("first", [1, 5, 50])
def test_more_interrupts_while_the_state_is_being_restored(run, first):
    """Ctrl-C is held down: from some line on, after the function has raised."""
    calls, since = [], []

    def stop():
        calls.append(None)
        if len(calls) == 1 + run:
            since.append(0)
            raise KeyboardInterrupt

    def sends(line):
        if since:
            since[0] += 1
        return bool(since) and since[0] >= first

    before, step = Step().state(), Step(stop)
    tracer, raised = step.prove(sends)
    assert isinstance(raised, KeyboardInterrupt)
    assert step.state() == before
    assert tracer.sent >= (1 if first == 1 else 10)


class Alarm(Exception):
    pass


def test_handlers_of_the_users_own():
    """One that raises stops the step; one that returns is called once, and nothing is stopped."""
    undisturbed = Step()
    before = undisturbed.state()
    undisturbed.prove()
    after, came = undisturbed.state(), []

    def raises(number, frame):
        raise Alarm

    for handler in (raises, lambda number, frame: came.append(number)):
        signal.signal(signal.SIGINT, handler)
        lines = lines_of_proof(*PROOF)[::20]
        for line in lines:
            step = Step()
            _, raised = step.prove(once(line))
            assert signal.getsignal(signal.SIGINT) is handler
            if handler is raises:
                assert isinstance(raised, Alarm)
                assert step.state() in (before, after)
            else:
                assert raised is None
                assert step.state() == after
        assert len(came) == (0 if handler is raises else len(lines))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_proof_in_another_thread_is_not_stopped():
    undisturbed = Step()
    undisturbed.prove()
    after = undisturbed.state()
    began, go_on = threading.Event(), threading.Event()

    def wait():
        if threading.current_thread() is thread:
            began.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=lambda: step.captured(*BATCHES[1]))
    step = Step(wait)
    thread.start()
    assert began.wait(20)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    go_on.set()
    thread.join()
    assert step.state() == after


def test_gradients_that_were_half_added_are_gone():
    """The proof does not copy them, which would cost memory: none is better than a wrong one."""
    net, stops = Step().net, threading.Event()

    def total(x):
        loss = net(x).sum()
        loss.backward()
        if stops.is_set():
            raise KeyboardInterrupt
        return loss

    total(BATCHES[0][0])
    captured = mr.capture(total, net)
    captured(BATCHES[0][0])
    stops.set()
    with pytest.raises(KeyboardInterrupt):
        captured(BATCHES[1][0])
    assert all(p.grad is None for p in net.parameters())


# -- signals that wait


def test_signals_wait_and_are_handled_once_in_the_end():
    came = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with HeldBack() as signals:
            for _ in range(3):
                signal.raise_signal(signal.SIGUSR1)
            assert came == []
            assert signals.let_through(lambda: [*came]) == [signal.SIGUSR1]
            signal.raise_signal(signal.SIGUSR1)
            assert len(came) == 1
        assert len(came) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_is_set_inside_stays():
    def mine(number, frame):
        raise Alarm

    with HeldBack() as signals:
        signals.let_through(signal.signal, signal.SIGINT, mine)
    assert signal.getsignal(signal.SIGINT) is mine
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_error_and_an_interrupt_are_both_told():
    def fails():
        with HeldBack():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("of the block")

    with pytest.raises(KeyboardInterrupt) as caught:
        fails()
    assert str(caught.value.__context__) == "of the block"

"""Hands the networks of a study out to the ranks of a group, and brings their numbers together.

Networks do not depend on one another. So each is trained by one rank, which works alone meanwhile,
and its numbers are those that a single process gets. Rank 0 leads: it alone reads and writes the
results, hands out the largest network that is left to whoever is free, and trains too.

All that passes between ranks are small messages, over a communicator of their own. Rank 0 sends a
word: a network to train, or the end. The others call the methods of :class:`Listener` at a
distance. Rank 0 reads its mail after each batch of its own, and while it waits; a worker looks
after each batch whether the end has come. Without a launcher there is one process, and no MPI.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from minires.distributed.exits import name_speaker
from minires.distributed.group import Group, Launched, alone, described, retold
from minires.errors import DistributedError, NaNError, message
from minires.study.config import Key
from minires.study.network import Job, Order, Run, Tell, compile_networks, train_network
from minires.train import Running

NAP = 0.005  # seconds between two looks of a rank that has nothing to do
PACE = 0.1  # seconds between what a worker tells of its batches
MANY = 100  # such messages in a second that rank 0 is to read at most

T = TypeVar("T")


class Listener(Tell, Protocol):
    """Told of networks in training and of what came of them."""

    def finished(self, key: Key, run: Run) -> None:
        """A network is trained to its end."""

    def diverged(self, key: Key, why: str) -> None:
        """A network met NaN."""

    def warned(self, text: str, category: type[Warning]) -> None:
        """Something was warned of on another rank."""


Train = Callable[[Job, Sequence[Order], Listener], None]


# --- What all ranks do alike ----------------------------------------------------------------------


def agreed(group: Group, function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` on each rank; if it raises on any, all raise, see :meth:`Group.agree`."""
    result: Any = None
    error: Exception | None = None
    try:
        result = function(*args)
    except Exception as raised:
        error = raised
    group.agree(error)
    return result


FIXES = {
    "settings": "Start all ranks with the same options.",
    "versions": "Install the same versions on all machines.",
    "images": "Give all ranks the same data sets.",
}


def check_same(group: Group, facts: dict[str, Any]) -> None:
    """Refuse ranks whose networks would have other numbers than the same networks on rank 0.

    Args:
        facts: what is to be the same on all ranks, by the names of ``FIXES``.

    Raises:
        DistributedError: names the first rank that differs, and in what; on all ranks.
    """
    first, *others = group.gather_objects(facts)
    for rank, theirs in enumerate(others, 1):
        for what in facts:
            if theirs[what] != first[what]:
                expected = f"the same {what} on all {group.size} ranks"
                got = f"others on rank {rank}"
                raise DistributedError(message("study", expected, got, fix=FIXES[what]))


def led(group: Group, job: Job, lead: Callable[[Train], T]) -> T:
    """What ``lead(train)`` returns or raises on rank 0, on all ranks. ``train`` trains networks
    on all of them; the others serve until ``lead`` is done.

    Args:
        job: what this rank has of the study; its folder and stored settings are those of rank 0.
        lead: called on rank 0 alone.
    """
    if not isinstance(group, Launched) or group.size == 1:
        return lead(_one_after_the_other)
    mail = _Mail(group)
    if group.rank > 0:
        return _Worker(mail, job).serve()
    leader = _Leader(mail)
    try:
        result = lead(leader.train)
    except BaseException as error:
        leader.end(error=error)
        raise
    leader.end(result)
    mail.close()
    return result


def _one_after_the_other(job: Job, orders: Sequence[Order], listener: Listener) -> None:
    for order in orders:
        _train(job, order, listener)


def _train(job: Job, order: Order, listener: Listener) -> None:
    try:
        with alone():
            run = train_network(job, order, listener)
    except NaNError as error:
        listener.diverged(order.key, str(error))
    else:
        listener.finished(order.key, run)


# --- Messages -------------------------------------------------------------------------------------


class _Mail:
    """Messages of a study between rank 0 and the others; to send one waits for nobody."""

    # Until a message has arrived its memory must stay, also when its study is over by an error.
    _open: ClassVar[list[_Mail]] = []

    def __init__(self, group: Launched) -> None:
        self.rank, self.size = group.rank, group.size
        self._new_status = group.MPI.Status
        self._comm = group.comm.Dup()
        self._sent: list[Any] = []
        self._open.append(self)

    def send(self, to: int, *content: Any) -> None:
        self._sent = self._undelivered()
        self._sent.append(self._comm.isend(content, to))

    def _undelivered(self) -> list[Any]:
        return [request for request in self._sent if not request.Test()]

    def arrived(self) -> tuple[int, Any] | None:
        """A message and who sent it, if there is one."""
        status = self._new_status()
        found = self._comm.improbe(status=status)
        return None if found is None else (status.source, found.recv())

    def wait(self) -> tuple[int, Any]:
        """The next message, and who sent it."""
        while (found := self.arrived()) is None:
            time.sleep(NAP)
        return found

    def close(self) -> None:
        """Wait until all is delivered; to be called by all ranks."""
        while self._undelivered():
            time.sleep(NAP)
        self._comm.Free()
        self._open.remove(self)


class _Leader:
    """Rank 0: hands out, trains too, and hears of everything."""

    def __init__(self, mail: _Mail) -> None:
        self._mail = mail
        self._left: deque[Order] = deque()
        self._at_work: set[int] = set()
        self._failure: tuple[tuple[str, str], int] | None = None  # what another rank ended by

    def train(self, job: Job, orders: Sequence[Order], listener: Listener) -> None:
        epochs = job.config.protocol.epochs
        by_work = sorted(orders, key=lambda order: order.cost * (order.done - epochs))
        self._left, self._job, self._listener = deque(by_work), job, listener
        self._say_who_is_idle(len(orders))
        for rank in range(1, self._mail.size):
            self._hand_out(rank)
        while self._left:
            _train(job, self._left.popleft(), _Attentive(listener, self._attend))
            self._attend()
        while self._at_work:
            self._hear(*self._mail.wait())

    def _say_who_is_idle(self, networks: int) -> None:
        idle = self._mail.size - networks
        if networks and idle > 0:
            left = "1 network" if networks == 1 else f"{networks} networks"
            stay = "1 rank has" if idle == 1 else f"{idle} ranks have"
            warnings.warn(
                f"study: {left} to train on {self._mail.size} ranks: {stay} nothing to do.",
                UserWarning,
                stacklevel=2,
            )

    def _hand_out(self, rank: int) -> None:
        self._at_work.discard(rank)
        if self._left:
            job = self._job
            self._mail.send(rank, "train", job.path.absolute(), job.stored, self._left.popleft())
            self._at_work.add(rank)

    def _attend(self) -> None:
        """Read what has arrived."""
        while (found := self._mail.arrived()) is not None:
            self._hear(*found)

    def _hear(self, rank: int, content: Any) -> None:
        what, *args = content
        if what == "free":
            self._hand_out(rank)
        elif what == "failed":
            self._failure = args[0], rank
            raise retold(*self._failure)
        else:
            getattr(self._listener, what)(*args)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        failure = None if error is None else self._failure or (described(error), 0)
        for rank in range(1, self._mail.size):
            self._mail.send(rank, "end", result, failure)


class _Attentive:
    """Passes on what it is told, and lets rank 0 read its mail after each batch."""

    def __init__(self, listener: Listener, attend: Callable[[], None]) -> None:
        self._listener, self._attend = listener, attend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def batch(self, key: Key, work: int, running: Running) -> None:
        self._listener.batch(key, work, running)
        self._attend()


class _End(Exception):
    """The end came while a network was in training."""


class _Worker:
    """Another rank: trains what it is given, and tells rank 0; a :class:`Listener`."""

    def __init__(self, mail: _Mail, job: Job) -> None:
        self._mail, self._job = mail, job
        self._pace = max(PACE, mail.size / MANY)
        self._work, self._running, self._told = 0, Running(True, 0.0, 0.0, 0), 0.0
        self._compiled = False

    def serve(self) -> Any:
        """Do what rank 0 says until it says that this was all; what its study returned or raised
        comes of it."""
        try:
            while True:
                _, word = self._mail.wait()
                self._obey(*word)
        except _End as end:
            result, failure = end.args
            if failure is not None:
                raise retold(*failure) from None
            self._mail.close()
            return result

    def _obey(self, what: str, *args: Any) -> None:
        if what == "end":
            raise _End(*args)
        path, stored, order = args
        try:
            with self._warnings_told():
                self._train(replace(self._job, path=Path(path), stored=stored), order)
        except _End:
            raise
        except BaseException as error:
            self._mail.send(0, "failed", described(error))
            name_speaker(error, self._mail.rank)
            raise
        else:
            self._mail.send(0, "free")

    def _train(self, job: Job, order: Order) -> None:
        if job.device.type == "cuda" and not self._compiled:
            compile_networks(job, lambda name, done, asked: None)  # as rank 0 has: they are on disk
            self._compiled = True
        _train(job, order, self)

    @contextlib.contextmanager
    def _warnings_told(self) -> Iterator[None]:
        def tell(text: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            self.warned(str(text), category)

        shown: Any = tell
        with warnings.catch_warnings():
            warnings.showwarning = shown
            yield

    def _tell(self, what: str, *args: Any) -> None:
        self._mail.send(0, what, *args)

    def _tell_work(self, key: Key) -> None:
        """What the batches since the last time came to."""
        if self._work:
            self._tell("batch", key, self._work, self._running)
        self._work, self._told = 0, time.monotonic()

    def begun(self, key: Key, run: Run) -> None:
        self._tell("begun", key, run)

    def batch(self, key: Key, work: int, running: Running) -> None:
        found = self._mail.arrived()
        if found is not None:  # while a network is in training there is no other word
            raise _End(*found[1][1:])
        self._work, self._running = self._work + work, running
        if time.monotonic() - self._told > self._pace:
            self._tell_work(key)

    def epoch(self, key: Key, row: dict[str, Any]) -> None:
        self._tell_work(key)
        self._tell("epoch", key, row)

    def evaluating(self, key: Key) -> None:
        self._tell_work(key)
        self._tell("evaluating", key)

    def finished(self, key: Key, run: Run) -> None:
        self._tell_work(key)
        self._tell("finished", key, run)

    def diverged(self, key: Key, why: str) -> None:
        self._tell_work(key)
        self._tell("diverged", key, why)

    def warned(self, text: str, category: type[Warning]) -> None:
        self._tell("warned", text, category)

"""Names the rank that died without a word: killed, out of memory, crashed.

The launcher ends the job then, at once, and says the number of a process; which rank that was, no
rank is left to say. So on each machine a *witness* looks on: a process that takes no part, to which
every rank holds a line. A line that breaks without a goodbye is a death. The witness says whose,
and ends when all lines are closed. It runs this file as a program.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import Any

BACKLOG = 1024  # ranks of a machine
PATIENCE = 5.0  # seconds in which the launcher may end the other ranks itself
FOR_ALL = b"all\n"  # the goodbye of a rank that ends the job
CALLED = 60.0  # seconds in which the first rank is to be there


class Line:
    """This rank's line to the witness of its machine.

    Args:
        node: the ranks of this machine, a communicator of mpi4py; all of them make their lines.
        rank: which one this is of all ranks, and of how many.
        size: how many ranks there are on all machines.
    """

    def __init__(self, node: Any, rank: int, size: int) -> None:
        address = _start_witness(size) if node.rank == 0 else None
        address = node.bcast(address)
        self._socket = None if address is None else socket.socket(socket.AF_UNIX)
        if self._socket is not None:
            try:
                self._socket.connect(address)
                self._socket.sendall(f"{rank} {os.getpid()}\n".encode())
                self._socket.recv(1)  # it looks on; else deaths would be told in another order
            except ConnectionError:  # it has seen a death already, and ended
                self._socket.close()
                self._socket = None

    def goodbye(self, for_all: bool = False) -> None:
        """This rank ends as it should; or ``for_all``, it ends all and has said why."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionError):  # it has seen a death, and ended
                self._socket.sendall(FOR_ALL if for_all else b"bye\n")


def _start_witness(size: int) -> bytes | None:
    """Start the witness of this machine; where it can be reached. None on systems without sockets
    that have a name and no file."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"")  # a free name
        listener.listen(BACKLOG)
        command = [sys.executable, "-I", "-S", __file__, str(size)]
        os.posix_spawn(
            sys.executable,
            command,
            {k: v for k, v in os.environ.items() if k.startswith("LD_")},  # it is no rank
            file_actions=[(os.POSIX_SPAWN_DUP2, listener.fileno(), 0)],
            setsid=True,  # Ctrl-C in the terminal is for the ranks
        )
        address: bytes = listener.getsockname()
        return address


class _Rank:
    """What the witness knows of a rank."""

    def __init__(self, line: socket.socket) -> None:
        self.line, self.heard = line, b""

    @property
    def name(self) -> str:
        return self.heard.split()[0].decode()

    @property
    def process(self) -> int:
        return int(self.heard.split()[1])

    def listen(self) -> bool:
        """Hear what there is on the line; whether it is closed."""
        try:
            while said := self.line.recv(64):
                if not self.heard:
                    self.line.sendall(b"\n")  # from here on the witness looks on
                self.heard += said
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return True

    def left(self) -> bool:
        """Whether there is no death to be told of."""
        return self.heard.count(b"\n") != 1


def witness(listener: socket.socket, size: int, patience: float = PATIENCE) -> None:
    """Look on until all lines that were made are closed.

    Args:
        listener: where ranks make their lines.
        size: how many ranks there are on all machines.
        patience: seconds after a death in which the others are to end; then they are killed.
    """
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ranks: dict[int, _Rank] = {}
    died = ended = False
    deadline = time.monotonic() + CALLED
    while True:
        waits = died or not ranks
        events = poll.poll(max(0.0, deadline - time.monotonic()) if waits else None)
        for file, _ in events:
            if file == listener.fileno():
                line, _ = listener.accept()
                line.setblocking(False)
                ranks[line.fileno()] = _Rank(line)
                poll.register(line, select.EPOLLIN | select.EPOLLET)  # in the order of events
                continue
            rank = ranks[file]
            closed = rank.listen()
            ended = ended or FOR_ALL in rank.heard
            if not closed:
                continue
            if not (ended or died or rank.left()):
                died, deadline = True, time.monotonic() + patience
                text = f"died: killed, or crashed (process {rank.process})"
                os.write(2, f"[rank {rank.name} of {size}] {text}.\n".encode())
            poll.unregister(file)
            ranks.pop(file).line.close()
            if not ranks:
                return
        if not events:  # nobody came; or the others are still there, and wait for the dead
            for rank in ranks.values():
                if rank.heard:
                    os.kill(rank.process, signal.SIGKILL)
                rank.line.close()
            return


if __name__ == "__main__":
    highest = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(3, highest + 1)  # the ranks' own: the launcher reads their ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    witness(socket.socket(fileno=0), int(sys.argv[1]))

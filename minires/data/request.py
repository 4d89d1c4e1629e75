"""A request over http(s) that ends in time and fills no memory, whatever the server does.

The timeout of a socket bounds each wait for a byte, not all of them together: a server that drips
a byte now and then would be listened to for ever, in the middle of a header or of a handshake as
well. So a timer shuts the connection down, after which every read of it ends.

The standard library's HTTP modules are imported by the functions that need them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from minires.errors import printable

_BLOCK = 1 << 16  # bytes
_SLOWEST = 1024  # bytes per second: even a telephone line is faster
_ANSWER = 3  # times the timeout, for connections, redirections and the header together


class Failed(Exception):
    """Why a request gave nothing; its text may be shown, whatever the server wrote."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


class BrokeOff(Failed):
    """The transfer stopped in the middle: to go on may help."""


class Patience:
    """How long to wait: ``timeout`` seconds for any byte, and for all together until ``end``.

    Attributes:
        timeout: seconds without any byte.
        most: seconds that everything may take, from now on.
    """

    def __init__(self, timeout: float, most: float) -> None:
        self.timeout, self.most = timeout, most
        self.end = time.monotonic() + most

    @property
    def left(self) -> float:
        """Seconds that are left of all."""
        return self.end - time.monotonic()


class _Watch:
    """The connections of a request, which a timer can shut down."""

    def __init__(self) -> None:
        self.connections: list[socket.socket] = []
        self.late = False

    def add(self, connection: socket.socket) -> None:
        """A handle of our own: TLS takes the socket over before its handshake."""
        self.connections.append(connection.dup())
        if self.late:
            self.shut()

    def shut(self) -> None:
        self.late = True
        for connection in self.connections:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(max(seconds, 0), self.shut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


class Response:
    """What a server answered: ``status``, ``headers``, ``length`` (None if it does not say)."""

    def __init__(self, answer: Any, watch: _Watch, patience: Patience) -> None:
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self.length: int | None = answer.length
        self._answer, self._watch, self._patience = answer, watch, patience

    def blocks(self) -> Iterator[bytes]:
        """The body, in the blocks that arrive.

        Raises:
            BrokeOff: the connection broke off, or there was no byte for the timeout.
            Failed: the body comes too slowly, or time is up.
        """
        patience, watch = self._patience, self._watch
        came, since = 0, time.monotonic()
        with watch.within(patience.left):
            while block := self._read():
                yield block
                came += len(block)
                seconds = time.monotonic() - since
                if seconds >= patience.timeout:
                    if came < _SLOWEST * seconds:
                        raise Failed(f"only {came} bytes in {seconds:.3g} seconds")
                    came, since = 0, time.monotonic()

    def _read(self) -> bytes:
        """One block; ``read1`` does not wait until it is full."""
        import http.client

        try:
            block: bytes = self._answer.read1(_BLOCK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: the length of a chunk that is no number
            if not self._watch.late:
                raise BrokeOff(_reason(error, self._patience.timeout)) from error
            block = b""
        if self._watch.late:
            raise Failed(f"not done when {self._patience.most:g} seconds were over")
        return block


@contextlib.contextmanager
def request(url: str, headers: Mapping[str, str], patience: Patience) -> Iterator[Response]:
    """The answer to a GET request, after up to ten redirections to other http(s) addresses.

    Raises:
        Failed: no answer, a header that does not end in time, or one that says there is an error.
    """
    import http.client
    import urllib.error
    import urllib.request

    watch = _Watch()
    seconds = min(_ANSWER * patience.timeout, patience.left)
    try:
        try:
            with watch.within(seconds):
                asked = urllib.request.Request(url, headers=dict(headers))
                answer = _opener(watch).open(asked, timeout=patience.timeout)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection open
            raise Failed(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: an address that cannot be one, here or where a server redirects to
            if not watch.late:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                raise Failed(_reason(cause, patience.timeout)) from error
        if watch.late:  # half a header passes for a whole one
            raise Failed(f"no whole answer in {seconds:.3g} seconds")
        with answer:
            yield Response(answer, watch, patience)
    finally:
        watch.close()


def _opener(watch: _Watch) -> Any:
    """Opens http(s) addresses, by the proxies of the environment, and tells ``watch`` of every
    connection."""
    import http.client
    import urllib.request as library

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            watch.add(self.sock)

    class Secure(http.client.HTTPSConnection, Plain):
        """Its ``connect`` calls that of ``Plain``, then shakes hands."""

    class PlainHandler(library.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(Plain, req)

    class SecureHandler(library.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(Secure, req)

    class Redirections(library.HTTPRedirectHandler):
        def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
            fp.close()  # the library would read the whole body, which may have no end
            return super().http_error_302(req, fp, code, msg, headers)

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    opener = library.OpenerDirector()  # build_opener's would take ftp: and file: as well
    for handler in (
        library.ProxyHandler(),
        library.UnknownHandler(),
        PlainHandler(),
        SecureHandler(),
        Redirections(),
        library.HTTPDefaultErrorHandler(),
        library.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _reason(error: object, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no byte for {timeout:g} seconds"
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)

"""What a command prints goes to streams that cannot stop it.

A terminal that knows ASCII alone, a pipe whose reader has left (``| head -1``), a full disk, a
stream that was closed (``>&-``): whatever happens to the words, the work goes on and its results
are kept. :func:`steady` puts such streams into the place of the standard ones.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

# What is written where a character cannot be: near enough to be read.
_NEAR = {
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╞╡╪┏┓┗┛┡┩┣┫┳┻╇╋", "+"),
    **dict.fromkeys("─━╌═╸╺–—−", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”", '"'),
    **{"×": "x", "·": ".", "±": "+/-", "…": "...", "→": "->", "∂": "d", "‖": "|", "≤": "<="},
    **{"≥": ">=", "γ": "gamma", "β": "beta", "ε": "eps", "σ": "sigma", "λ": "lambda", "√": "sqrt"},
    **{"ᵀ": "^T", "²": "^2", "³": "^3", "⟨": "<", "⟩": ">", "Σ": "sum", "•": "*", "µ": "u"},
}


def printable(text: object) -> str:
    """``text`` as it can be written anywhere that takes UTF-8.

    A file name need not be text: Python stands in a lone surrogate for each byte that is not
    UTF-8, and no file or stream takes those. They are written as their escapes.

    >>> printable("runs/caf\\udce9")
    'runs/caf\\\\udce9'
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def plain(text: str, encoding: str) -> str:
    """``text`` in what ``encoding`` has: other characters by similar ones, or by ``?``.

    >>> plain("3 × 8 ± 1 … ✓", "ascii")
    '3 x 8 +/- 1 ... ?'
    """
    text = printable(text)
    try:
        text.encode(encoding)
    except (UnicodeError, LookupError):
        return "".join(_one(character, encoding) for character in text)
    return text


def _one(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except (UnicodeError, LookupError):
        return _NEAR.get(character, character if character.isascii() else "?")
    return character


class Steady:
    """A text stream that takes every text and never raises, over one that does; or over none.

    Attributes:
        failed: why it does not write any more; None while it does.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failed: Exception | None = None

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        self._try("write", plain(text, self.encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try("flush")

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:
        return getattr(self._stream, "errors", None)

    def isatty(self) -> bool:
        return self._stream is not None and self.failed is None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()

    def _try(self, method: str, *text: str) -> None:
        if self._stream is None or self.failed is not None:
            return
        try:
            getattr(self._stream, method)(*text)
        except (OSError, ValueError) as error:  # ValueError: it has been closed
            self.failed = error
            self._let_go()

    def _let_go(self) -> None:
        """Send what is left in the stream's buffer nowhere, or Python complains when it ends."""
        try:
            number = self.fileno()
        except (OSError, ValueError):  # no file behind it, or closed
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _open_closed() -> None:
    """Open nothing as each of the descriptors 0, 1 and 2 that is closed.

    The next file to be opened would get its number, and what C code prints would go into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


@contextlib.contextmanager
def steady() -> Iterator[Steady]:
    """Let the standard streams be steady ones; gives standard output, to see whether it failed."""
    before = sys.stdout, sys.stderr
    if None in before:
        _open_closed()
    out, err = map(Steady, before)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before

"""Files of machine code, which are loaded only if they are what was written, to the last bit.

Nothing checks machine code while it runs: with one bit of it changed it ends the process, or
computes something else. So each file says what it should hold, before anything of it is used::

    MAGIC      what kind of file this is
    length     of the content, in bytes
    checksum   of what the file is for, of its source and of its content
    source     what the content was made from, as a hash
    content

What a file is for takes part in the checksum but is not in the file: it is asked for. The file of
another kernel is noticed like a changed bit, whatever its name.

A checksum does not keep people out, since they could write one too. What does: only files are read
that belong to this user, or the system's administrator, and that nobody else may write to.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from ...files import foreign, open_own, others_may_write, replace

MAGIC = b"minires kernel 1"
HASH = 32  # bytes of a checksum
_HEAD = struct.Struct(f"<{len(MAGIC)}sQ{HASH}s{HASH}s")


class Damaged(Exception):
    """A file that must not be loaded; the text says what it is instead."""


def write(path: Path, purpose: str, source: bytes, content: bytes) -> None:
    """Keep ``content``, which was made from what has the hash ``source``, for ``purpose``.

    Readers see the old file or the new one. Only this user may read it.

    Raises:
        OSError: it cannot be written. The old file is as it was.
    """
    head = _HEAD.pack(MAGIC, len(content), _checksum(purpose, source, content), source)
    replace(path, head + content, mode=0o600)


def read(path: Path, purpose: str, source: bytes) -> bytes | None:
    """The content that was kept for ``purpose``.

    Returns None if there is no such file, or one that was made from another source.

    Raises:
        Damaged: what is there is not what was written for this purpose, or cannot be trusted.
    """
    try:
        with open(path, "rb", opener=open_own) as file:
            status = os.fstat(file.fileno())  # of what is read, whatever the name stands for now
            if problem := why_not(status):
                raise Damaged(f"one that {problem}")
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or not head.startswith(MAGIC):
                raise Damaged("one that minires did not write")
            _, length, checksum, made_from = _HEAD.unpack(head)
            if status.st_size != _HEAD.size + length:
                raise Damaged(f"{status.st_size - _HEAD.size:,} of {length:,} bytes")
            content = file.read(length)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"one that cannot be read ({error.strerror})") from error
    if checksum != _checksum(purpose, made_from, content):
        raise Damaged("another content than was written for it")
    return content if made_from == source else None


def why_not(status: os.stat_result) -> str:
    """What forbids to trust a file or folder of this status; nothing if nothing does."""
    if os.name != "posix":  # Windows: folders of a user's profile are the user's
        return ""
    if foreign(status):
        return "belongs to another user"
    return "other users may write to" if others_may_write(status) else ""


def hash_of(*parts: bytes) -> bytes:
    """A hash of all parts, each with its length."""
    digest = hashlib.blake2b(digest_size=HASH)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _checksum(purpose: str, source: bytes, content: bytes) -> bytes:
    return hash_of(purpose.encode(), source, content)

"""Downloads of the data sets: several mirrors, resumed where they broke off, checked by SHA-256.

A file grows as ``NAME.part`` and takes its name only when its SHA-256 is right, so a file without
``.part`` is complete, whatever interrupted the download. The standard library's tar module and
Rich are imported by the functions that need them: loading data must not pay for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minires import arguments
from minires.data.dataset import RemoteFile, data_root, find_source
from minires.data.request import BrokeOff, Failed, Patience, request
from minires.errors import ArgumentError, DataError, message, quoted
from minires.files import make_private, open_own

_MAX_TIMEOUT = 86_400  # seconds
_TIMEOUT, _MAX_TIME = 20.0, 3600.0  # seconds
_ATTEMPTS = 5  # per mirror, as long as each attempt brings new bytes
_BLOCK = 1 << 16  # bytes
_BESIDE = 1 << 20  # bytes that an archive may hold beside the files that are wanted
_UNKNOWN = 1 << 30  # bytes that it may hold if their sizes are not known


def get(
    name: str,
    root: str | os.PathLike[str] | None = None,
    mirrors: str | Sequence[str] | None = None,
    progress: bool = True,
    *,
    timeout: float = _TIMEOUT,
    max_time: float = _MAX_TIME,
) -> Path:
    """Download a data set, unless it is there already; only what is missing or damaged is fetched.

    Args:
        name: see :func:`minires.data.load`.
        root: the folder to put it in; else ``MINIRES_DATA``, else ``~/.cache/minires``.
        mirrors: addresses of folders that hold the published files, tried in turn; else those of
            ``DATASETS[name].mirrors``.
        progress: show a progress bar, and say what is there already, on standard error.
        timeout: seconds without any byte after which a mirror is given up; so is one that sends
            less than a kilobyte per second for as long.
        max_time: seconds that all of it may take. What came by then is kept for the next call.

    Returns:
        The folder that holds the files.

    Raises:
        ArgumentError: unknown name, a mirror that is not http(s), seconds that are not positive.
        DataError: no mirror gave a file (lists each with its reason), time was over, or the folder
            cannot be written.
    """
    source = find_source(name)
    urls = source.mirrors if mirrors is None else _check_mirrors(mirrors)
    timeout = arguments.number("data get", "timeout", timeout, above=0, most=_MAX_TIMEOUT)
    max_time = arguments.number("data get", "max_time", max_time, above=0, most=_MAX_TIMEOUT)
    patience = Patience(timeout, max_time)
    bar = _display(arguments.flag("data get", "progress", progress))
    base = data_root(root)
    if not source.files:
        folder = Path(__file__).parent
        _say(bar, f"{source.name}: part of minires, nothing to download ({folder})")
        return folder
    for candidate in source.folders:
        with _told(source.name, base):
            complete = all(is_valid(base / candidate / file.name, file) for file in source.files)
        if complete:
            _say(bar, f"{source.name}: complete and valid in {base / candidate}")
            return base / candidate
    folder = base / source.folders[0]
    if root is None and not os.environ.get("MINIRES_DATA"):
        with _told(source.name, base):
            make_private(base)  # kernels are kept there too, and must be the user's alone
    fetch(source.name, source.files, folder, urls, source.archive, patience=patience, bar=bar)
    _say(bar, f"{source.name}: complete in {folder}")
    return folder


def fetch(
    name: str,
    files: Sequence[RemoteFile],
    folder: Path,
    mirrors: Sequence[str],
    archive: RemoteFile | None = None,
    *,
    patience: Patience | None = None,
    bar: Any = None,
) -> None:
    """Download those of ``files`` that ``folder`` lacks; or, of an ``archive``, all of them.

    Args:
        name: of the data set, for messages.
        files: what is to be in the folder.
        folder: made if need be.
        mirrors: addresses of folders that hold the files, or the archive.
        archive: what holds the files; it is kept beside the folder until they are out of it.
        patience: how long to wait; as :func:`get` by default.
        bar: where progress is shown; a bar of its own by default.

    Raises:
        DataError: no mirror gave a file, time was over, or the folder cannot be written.
    """
    patience = Patience(_TIMEOUT, _MAX_TIME) if patience is None else patience
    shown = _display(True) if bar is None else bar
    with _told(name, folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        with shown:
            if archive is None:
                for file in files:
                    _fetch(name, file, folder, mirrors, patience, shown)
            else:
                packed = _fetch(name, archive, folder.parent, mirrors, patience, shown)
                _extract(packed, folder, files)
                packed.unlink()


@contextlib.contextmanager
def _told(name: str, base: Path) -> Iterator[None]:
    """Tell errors of the disk: those of the network are Failed."""
    try:
        yield
    except OSError as error:
        expected, got = f"to read and write in {base}", str(error)
        fix = "Free space or choose another folder with root= or MINIRES_DATA"
        raise DataError(message(name, expected, got, fix=fix)) from error


def _check_mirrors(mirrors: str | Sequence[str]) -> tuple[str, ...]:
    urls = (mirrors,) if isinstance(mirrors, str) else mirrors
    if not isinstance(urls, list | tuple) or not urls:
        raise ArgumentError(message("data get", "at least one mirror", quoted(mirrors)))
    for url in urls:
        if not _is_address(url):
            expected = "mirrors that are http(s) addresses"
            raise ArgumentError(message("data get", expected, quoted(url)))
    return tuple(urls)


def _is_address(url: object) -> bool:
    from urllib.parse import urlsplit

    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that are none
        return False


def _display(show: bool) -> Any:
    """A Rich progress bar on standard error; prints nothing at all unless ``show``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, quiet=not show),
        disable=not show,
    )


def _say(bar: Any, text: str) -> None:
    # soft_wrap: a path broken over two lines cannot be copied.
    bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def is_valid(path: Path, file: RemoteFile) -> bool:
    """Whether a file is the published one."""
    return path.is_file() and path.stat().st_size == file.size and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(
    name: str,
    file: RemoteFile,
    folder: Path,
    mirrors: Sequence[str],
    patience: Patience,
    bar: Any,
) -> Path:
    """``folder / file.name``, downloaded from the first mirror that gives it."""
    target, part = folder / file.name, folder / f"{file.name}.part"
    if is_valid(target, file):
        _say(bar, f"{name}: {target} is there and valid")
        return target
    task = bar.add_task(file.name, total=file.size)
    reasons = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        try:
            _from_mirror(url, part, file, patience, lambda done: bar.update(task, completed=done))
        except Failed as failure:
            reasons.append(f"\n  {url}: {failure}")
            if patience.left <= 0:
                break
            continue
        part.replace(target)
        return target
    fix = (
        f"Try again later (what came is kept), name another mirror, or put the file into {folder} "
        f"yourself (SHA-256 {file.sha256})"
    )
    if patience.left <= 0:
        fix += f". To wait for more than {patience.most:g} seconds, say so: max_time=, --max-time"
    got = f"none from {len(reasons)} mirrors:{''.join(reasons)}\n{fix}"
    # every mirror is told with its reason, however long that becomes
    raise DataError(f"{name}: expected {file.name} ({file.size} bytes), got {got}")


def _from_mirror(
    url: str, part: Path, file: RemoteFile, patience: Patience, advance: Callable[[int], None]
) -> None:
    """Complete ``part`` from one mirror, so that its SHA-256 is right.

    Raises:
        Failed: with the reason; ``part`` then holds what is worth keeping for the next.
    """
    # Bytes that an earlier run or mirror left may be the wrong ones: only if every byte came from
    # here is a wrong checksum this mirror's fault.
    all_from_here = not part.exists()
    reason = Failed(f"broke off {_ATTEMPTS} times")
    for _ in range(_ATTEMPTS):
        before = _size(part)
        if before < file.size:
            try:
                _transfer(url, part, file, patience, advance)
            except BrokeOff as failure:
                if _size(part) <= before:
                    raise
                reason = failure
                continue
        found = _sha256(part)
        if found == file.sha256:
            return
        part.unlink()
        reason = Failed(f"SHA-256 {found}, expected {file.sha256}")
        if all_from_here:
            break
        all_from_here = True
    raise reason


def _transfer(
    url: str, part: Path, file: RemoteFile, patience: Patience, advance: Callable[[int], None]
) -> None:
    """One request: append to ``part`` what it lacks, or write it anew if the server sends all."""
    start = _size(part)
    headers = {"User-Agent": "minires"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with request(url, headers, patience) as response:
        if response.status != 206:
            start = 0  # the server ignores Range, and sends the file from its beginning
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise Failed(f"asked for the bytes from {start} on, it sent others")
        if response.length is not None and start + response.length != file.size:
            raise Failed(f"a file of {start + response.length} bytes, expected {file.size}")
        done = start
        with open(part, "ab" if start else "wb", opener=open_own) as out:
            for block in response.blocks():
                out.write(block[: file.size - done])
                done = min(done + len(block), file.size)
                advance(done)
                if done == file.size:  # anything beyond is not the file: its checksum will tell
                    break
            out.flush()
            os.fsync(out.fileno())
    if done < file.size:
        raise BrokeOff(f"broke off after {done} of {file.size} bytes")


class _AtMost:
    """A stream that ends with an error after ``most`` bytes, which compression makes of few."""

    def __init__(self, stream: Any, most: int, archive: Path) -> None:
        self.stream, self.most, self.left, self.archive = stream, most, most, archive

    def read(self, size: int) -> bytes:
        if self.left < 0:
            expected = f"an archive of at most {self.most} bytes when it is unpacked"
            raise DataError(message(str(self.archive), expected, "more"))
        block: bytes = self.stream.read(size)
        self.left -= len(block)
        return block


def _extract(archive: Path, folder: Path, files: Sequence[RemoteFile]) -> None:
    """Take ``files`` out of ``archive`` into ``folder``.

    Only regular members called ``<folder's name>/<file's name>`` are read, and they are written
    under names of our own, so no member can reach outside the folder.
    """
    import gzip
    import tarfile
    import zlib

    missing = {f"{folder.name}/{file.name}": file for file in files}
    known = all(file.size for file in files)
    most = sum(file.size for file in files) + _BESIDE if known else _UNKNOWN
    try:
        with contextlib.ExitStack() as opened:
            bounded: Any = _AtMost(opened.enter_context(gzip.open(archive)), most, archive)
            # "r|": from front to end, never back
            tar = opened.enter_context(tarfile.open(fileobj=bounded, mode="r|"))
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() else None
                file = missing.pop(member.name, None) if stream else None
                if stream is None or file is None:
                    continue
                if known and member.size != file.size:
                    expected = f"{member.name} of {file.size} bytes"
                    raise DataError(message(str(archive), expected, f"one of {member.size}"))
                part = folder / f"{file.name}.part"
                with open(part, "wb", opener=open_own) as out:
                    while block := stream.read(_BLOCK):
                        out.write(block)
                if file.sha256 and (found := _sha256(part)) != file.sha256:
                    part.unlink()
                    expected = f"{member.name} with SHA-256 {file.sha256}"
                    raise DataError(message(str(archive), expected, found))
                part.replace(folder / file.name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(message(str(archive), "a sound tar.gz archive", error)) from error
    if missing:
        raise DataError(
            message(str(archive), f"members {', '.join(missing)}", "an archive without")
        )

"""Downloads against a local server that breaks off, corrupts, redirects, hangs and lies."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minires.data import DATASETS, get, load
from minires.data.dataset import RemoteFile
from minires.errors import ArgumentError, DataError

BIG, SMALL = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def files(server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make MNIST a data set of two files that the server has."""
    rng = np.random.default_rng(0)
    server.content = {BIG: rng.bytes(300_000), SMALL: rng.bytes(1000)}
    remote = tuple(
        RemoteFile(name, len(body), hashlib.sha256(body).hexdigest())
        for name, body in server.content.items()
    )
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], train=remote, test=()))
    return server.content


def fetch(server, root: Path, *behaviours: str, timeout: float = 5.0) -> Path:
    mirrors = [server.url(behaviour) for behaviour in behaviours]
    return get("mnist", root, mirrors, progress=False, timeout=timeout)


def complete(folder: Path, files: dict[str, bytes]) -> bool:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found == files  # no .part is left either


@pytest.mark.parametrize("behaviour", ["good", "redirect", "norange", "endless"])
def test_one_mirror_is_enough(server, files, tmp_path: Path, behaviour: str):
    folder = fetch(server, tmp_path / "new", behaviour)
    assert folder == tmp_path / "new" / "mnist"
    assert complete(folder, files)


def test_a_transfer_that_breaks_off_is_resumed(server, files, tmp_path: Path):
    # Each answer gives half of what is asked for; the second mirror goes on where the first ended.
    folder = fetch(server, tmp_path, "breaks", "good")
    assert complete(folder, files)
    ranges = [asked for _, name, asked in server.requests if name == BIG]
    starts = [int(asked[6:-1]) if asked else 0 for asked in ranges]
    assert starts == [0, 150_000, 225_000, 262_500, 281_250, 290_625]
    assert [b for b, name, _ in server.requests if name == BIG] == ["breaks"] * 5 + ["good"]


def test_an_earlier_part_is_resumed(server, files, tmp_path: Path):
    part = tmp_path / "mnist" / f"{BIG}.part"
    part.parent.mkdir()
    part.write_bytes(files[BIG][:123_456])
    assert complete(fetch(server, tmp_path, "good"), files)
    assert server.requests[0] == ("good", BIG, "bytes=123456-")


@pytest.mark.parametrize("size", [300_000, 300_001])
def test_a_full_part_needs_no_request_or_starts_again(server, files, tmp_path: Path, size: int):
    part = tmp_path / "mnist" / f"{BIG}.part"
    part.parent.mkdir()
    part.write_bytes((files[BIG] + b"!")[:size])
    assert complete(fetch(server, tmp_path, "good"), files)
    asked = [request for request in server.requests if request[1] == BIG]
    assert asked == ([] if size == 300_000 else [("good", BIG, None)])


def test_a_server_that_ignores_range_starts_again(server, files, tmp_path: Path):
    part = tmp_path / "mnist" / f"{BIG}.part"
    part.parent.mkdir()
    part.write_bytes(b"other bytes")
    assert complete(fetch(server, tmp_path, "norange"), files)
    assert [request for request in server.requests if request[1] == BIG] == [
        ("norange", BIG, "bytes=11-")
    ]


def test_wrong_leftovers_do_not_condemn_a_good_mirror(server, files, tmp_path: Path):
    part = tmp_path / "mnist" / f"{BIG}.part"
    part.parent.mkdir()
    part.write_bytes(b"other bytes")
    assert complete(fetch(server, tmp_path, "good"), files)
    asked = [header for _, name, header in server.requests if name == BIG]
    assert asked == ["bytes=11-", None]


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["404", "503", "corrupt", "page", "loop", "silent"])
def test_the_next_mirror_is_tried(server, files, tmp_path: Path, bad: str):
    assert complete(fetch(server, tmp_path, bad, "good", timeout=1.0), files)


@pytest.mark.slow
def test_a_mirror_that_hangs_in_the_middle(server, files, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("minires.data.download._ATTEMPTS", 1)
    assert complete(fetch(server, tmp_path, "hangs", "good", timeout=1.0), files)
    assert ("good", BIG, "bytes=150000-") in server.requests


def test_a_mirror_that_sends_other_bytes_than_asked(server, files, tmp_path: Path):
    part = tmp_path / "mnist" / f"{BIG}.part"
    part.parent.mkdir()
    part.write_bytes(files[BIG][:1000])
    assert complete(fetch(server, tmp_path, "shifted", "good"), files)
    assert ("good", BIG, "bytes=1000-") in server.requests


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes are POSIX'")
@pytest.mark.parametrize("kind", ["a symbolic link", "a file that has a second name", "a pipe"])
def test_a_part_that_someone_planted_is_left_alone(server, files, tmp_path: Path, kind: str):
    victim, folder = tmp_path / "victim", tmp_path / "mnist"
    victim.write_text("precious")
    folder.mkdir()
    part = folder / f"{BIG}.part"
    if kind == "a pipe":
        os.mkfifo(part)
    elif kind == "a symbolic link":
        part.symlink_to(victim)
    else:
        os.link(victim, part)
    with pytest.raises(DataError, match=f"expected to read and write in .*{kind}"):
        fetch(server, tmp_path, "good")
    assert victim.read_text() == "precious"


@pytest.mark.slow
def test_all_mirrors_failing_is_one_error_with_each_reason(server, files, tmp_path: Path):
    behaviours = ["404", "503", "corrupt", "page", "loop", "silent"]
    with pytest.raises(DataError) as caught:
        fetch(server, tmp_path, *behaviours, timeout=1.0)
    first, *reasons, last = str(caught.value).splitlines()
    assert first == f"mnist: expected {BIG} (300000 bytes), got none from 6 mirrors:"
    shown = [reason.removeprefix("  http://127.0.0.1:").split("/", 1)[1] for reason in reasons[:4]]
    zeros, right = (hashlib.sha256(b).hexdigest() for b in (bytes(300_000), files[BIG]))
    assert shown == [
        f"404/{BIG}: HTTP 404 Not Found",
        f"503/{BIG}: HTTP 503 Service Unavailable",
        f"corrupt/{BIG}: SHA-256 {zeros}, expected {right}",
        f"page/{BIG}: a file of 40 bytes, expected 300000",
    ]
    assert "infinite loop" in "\n".join(reasons)
    assert reasons[-1].endswith(f"silent/{BIG}: no byte for 1 seconds")
    assert f"into {tmp_path}/mnist yourself (SHA-256 {right})" in last
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.slow
def test_what_came_is_kept_for_the_next_run(server, files, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("minires.data.download._ATTEMPTS", 2)
    with pytest.raises(DataError, match=r"breaks/.*: broke off after 225000 of 300000 bytes"):
        fetch(server, tmp_path, "breaks")
    with pytest.raises(DataError, match=r"hangs/.*no byte for 1 seconds"):
        fetch(server, tmp_path, "hangs", timeout=1.0)
    part = (tmp_path / "mnist" / f"{BIG}.part").read_bytes()
    assert part == files[BIG][:281_250]
    assert complete(fetch(server, tmp_path, "good"), files)


def test_an_address_without_a_server(files, server, tmp_path: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DataError, match="ConnectionRefusedError"):
            get("mnist", tmp_path, url, progress=False, timeout=1.0)


def test_present_and_valid_files_are_left_alone(server, files, tmp_path: Path, capsys):
    fetch(server, tmp_path, "good")
    assert capsys.readouterr() == ("", "")  # progress=False: not a word
    server.requests.clear()
    folder = get("mnist", tmp_path, server.url("good"))
    assert server.requests == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"mnist: complete and valid in {folder}\n"


def test_only_what_is_missing_or_damaged_is_fetched(server, files, tmp_path: Path, capsys):
    folder = fetch(server, tmp_path, "good")
    server.requests.clear()
    (folder / SMALL).write_bytes(b"damaged")
    get("mnist", tmp_path, server.url("good"))
    assert server.requests == [("good", SMALL, None)]
    assert complete(folder, files)
    err = capsys.readouterr().err
    assert f"mnist: {folder / BIG} is there and valid" in err
    assert SMALL in err
    assert err.rstrip().endswith(f"mnist: complete in {folder}")


def test_root_from_the_environment(server, files, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "there"))
    folder = get("mnist", mirrors=server.url("good"), progress=False)
    assert folder == tmp_path / "there" / "mnist"


def test_a_folder_that_cannot_be_written(server, files, tmp_path: Path):
    (tmp_path / "mnist").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"read and write in .*File exists.*MINIRES_DATA"):
        fetch(server, tmp_path, "good")


def test_digits_need_no_download(capsys):
    folder = get("digits")
    assert (folder / "digits.npz").is_file()
    assert "digits: part of minires, nothing to download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "minst"}, "did you mean mnist"),
        ({"name": "mnist", "mirrors": []}, "at least one mirror"),
        ({"name": "mnist", "mirrors": ["file:///etc/"]}, "http(s) addresses, got 'file:///etc/'"),
        ({"name": "mnist", "timeout": 0}, "timeout a finite number > 0"),
    ],
)
def test_bad_arguments(arguments, words: str):
    with pytest.raises(ArgumentError) as caught:
        get(**arguments)
    assert words in str(caught.value)


def tar_gz(members: list[tuple[str, bytes | None]]) -> bytes:
    """An archive of files; ``None`` makes a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            if body is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(body)
            tar.addfile(info, io.BytesIO(body or b""))
    return buffer.getvalue()


def serve_archive(server, monkeypatch, body: bytes) -> None:
    remote = RemoteFile("cifar-10-binary.tar.gz", len(body), hashlib.sha256(body).hexdigest())
    server.content = {remote.name: body}
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], archive=remote))


def members_of(content: dict[str, bytes]) -> list[tuple[str, bytes | None]]:
    return [(f"cifar-10-batches-bin/{name}", body) for name, body in content.items()]


def test_cifar_archive(server, small_cifar, tmp_path: Path, monkeypatch):
    hostile: list[tuple[str, bytes | None]] = [
        ("../outside", b"x"),
        ("/tmp/outside", b"x"),
        ("cifar-10-batches-bin/readme.html", b"x"),
        ("elsewhere/test_batch.bin", b"x"),
        ("cifar-10-batches-bin/link", None),
    ]
    serve_archive(server, monkeypatch, tar_gz(hostile + members_of(small_cifar)))
    root = tmp_path / "root"
    folder = get("cifar10", root, [server.url("404"), server.url("good")], progress=False)
    assert folder == root / "cifar-10-batches-bin"
    assert complete(folder, small_cifar)
    # Nothing else anywhere: no archive, no member from outside the list.
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert len(load("cifar10", root=root)) == 20
    server.requests.clear()
    assert get("cifar10", root, server.url("good"), progress=False) == folder
    assert server.requests == []


def test_cifar_in_the_other_folder_counts_as_present(server, small_cifar, tmp_path: Path):
    folder = tmp_path / "cifar-10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, body in small_cifar.items():
        (folder / name).write_bytes(body)
    assert get("cifar10", tmp_path, server.url("good"), progress=False) == folder
    assert server.requests == []


def test_an_archive_that_was_kept_is_used(server, small_cifar, tmp_path: Path, monkeypatch):
    body = tar_gz(members_of(small_cifar))
    serve_archive(server, monkeypatch, body)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(body)
    assert complete(get("cifar10", tmp_path, server.url("404"), progress=False), small_cifar)
    assert server.requests == []


def test_archives_that_do_not_hold_the_files(server, small_cifar, tmp_path: Path, monkeypatch):
    members = members_of(small_cifar)
    cases = [
        (tar_gz(members[:-1]), "expected members cifar-10-batches-bin/test_batch.bin, got an arch"),
        (tar_gz([*members[:-1], (members[-1][0], None)]), "expected members cifar-10-batches-bin/"),
        (
            tar_gz([*members[:-1], (members[-1][0], b"x")]),
            "test_batch.bin of 12292 bytes, got one of 1",
        ),
        (tar_gz(members)[:-3000], "a sound tar.gz archive"),
        (b"no archive at all", "a sound tar.gz archive"),
    ]
    for k, (body, words) in enumerate(cases):
        serve_archive(server, monkeypatch, body)
        with pytest.raises(DataError) as caught:
            get("cifar10", tmp_path / str(k), server.url("good"), progress=False)
        assert words in str(caught.value)
        assert not (tmp_path / str(k) / "cifar-10-batches-bin" / "test_batch.bin").exists()


def test_loading_data_imports_no_http_and_no_rich():
    code = (
        "import sys, minires.data; minires.data.load('digits'); "
        "print([m for m in ('rich', 'urllib.request', 'tarfile', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""What a damaged cache of kernels does, and what it costs to notice the damage.

``flips`` takes the files that a training step of ResNet-20 keeps and flips their bits, one at a
time, every 50th. Each flipped file is read from the disk as minires reads it when it looks for a
kernel, and must be refused. For some of them, spread over all files, a new process then takes the
step from a cache with that one bit flipped: it must end well, with the same loss and weights to the
last bit, say once that it compiled anew, and leave the file as sound as it was. With
``--unchecked`` the checksum is not looked at: what would happen without it.

``cost`` takes the step in new processes that find all kernels kept, in turns with and without the
checksum, and prints the processor time until the end of the step, and how much of it the checksum
took by the clock.

Rows are appended to ``benchmarks/results/bit_flips.csv`` and ``warm_start.csv``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness import RESULTS, append, environment

from minires.errors import ArgumentError, DeviceError, MiniresError, message
from minires.kernels.numba import sealed

MACHINE = (
    "date", "commit", "minires", "python", "numpy", "numba", "platform", "cpu", "threads", "load",
    "net", "batch", "files", "bytes",
)  # fmt: skip
COUNTED = ("flips", "accepted", "sound", "crashed", "wrong", "silent")
FLIPS = (*MACHINE, "step", "checked", "processes", *COUNTED)
COST = (*MACHINE, "rounds", "cpu_seconds", "unchecked_cpu_seconds", "ratio", "checksum_seconds")

# One step: prints a hash of loss and weights, the processor time so far, and the checksum's.
STEP = """
import hashlib, sys, time
from minires.kernels.numba import sealed

name, batch, checked = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "checked"
checksum, spent = sealed._checksum, 0.0

class Equal(bytes):
    def __ne__(self, other):
        return False

def timed(*parts):
    global spent
    start = time.perf_counter()
    result = checksum(*parts) if checked else Equal()
    spent += time.perf_counter() - start
    return result

sealed._checksum = timed
import minires as mr
from minires import models, optim

mr.manual_seed(0)
net = models.create(name)
optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
x, labels = mr.randn(batch, 3, 32, 32), mr.arange(batch) % 10
loss = mr.cross_entropy(net(x), labels)
loss.backward()
optimizer.step()
digest = hashlib.sha256(loss.detach().numpy().tobytes())
for parameter in net.parameters():
    digest.update(parameter.detach().numpy().tobytes())
print(digest.hexdigest(), time.process_time(), spent)
"""

# The same, and every file that is read, with what it is read for.
RECORD = """
import json, sys
from minires.kernels.numba import sealed

read, seen = sealed.read, []

def recorded(path, purpose, source):
    seen.append([str(path), purpose, source.hex()])
    return read(path, purpose, source)

sealed.read = recorded
exec(sys.argv[4])
json.dump(seen, open(sys.argv[5], "w"))
"""

ANEW = "compiled anew and replaced"


def step(
    options: argparse.Namespace, cache: Path, code: str = "", *more: str, checked: bool = True
) -> subprocess.CompletedProcess[str]:
    """A step in a new process that keeps its kernels in ``cache``."""
    check = "checked" if checked else "unchecked"
    return subprocess.run(
        [sys.executable, "-c", code or STEP, options.net, str(options.batch), check, *more],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        timeout=600,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> tuple[str, float, float]:
    """The hash, the processor time and the checksum's time that a step printed.

    Raises:
        DeviceError: it did not come so far; with the end of what it said.
    """
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DeviceError(f"the step failed: {last[0]}")
    digest, seconds, spent = done.stdout.split()
    return digest, float(seconds), float(spent)


# -- flips


def flipped(whole: bytes, bit: int) -> bytes:
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def accepted(path: Path, purpose: str, source: bytes, bits: Iterator[int]) -> tuple[int, int]:
    """Flip each of these bits of a file, read it, and flip it back; returns how many were tried
    and how many of the flipped files were taken for sound."""
    tried = taken = 0
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for bit in bits:
            byte = bit // 8
            file.seek(byte)
            file.write(bytes([whole[byte] ^ 1 << bit % 8]))
            with contextlib.suppress(sealed.Damaged):
                sealed.read(path, purpose, source)
                taken += 1
            file.seek(byte)
            file.write(whole[byte : byte + 1])
            tried += 1
    if not is_sound(path, purpose, source):
        raise DeviceError(message("flips", "a sound file after the last flip", "none", str(path)))
    return tried, taken


def is_sound(path: Path, purpose: str, source: bytes) -> bool:
    try:
        return sealed.read(path, purpose, source) is not None
    except sealed.Damaged:
        return False


def outcome(done: subprocess.CompletedProcess[str], expected: str) -> str:
    """What became of a step from a damaged cache."""
    if done.returncode:
        return "crashed"
    if told(done)[0] != expected:
        return "wrong"
    return "sound" if done.stderr.count(ANEW) == 1 else "silent"


def flips(options: argparse.Namespace) -> None:
    import json

    if options.step < 1 or options.processes < 0:
        got = f"{options.step} and {options.processes}"
        raise ArgumentError(message("flips", "--step from 1 and --processes from 0 on", got))
    with tempfile.TemporaryDirectory() as folder:
        cache, copy, list_of = made(folder, options), Path(folder, "copy"), Path(folder, "seen")
        expected = told(step(options, cache, RECORD, STEP, str(list_of)))[0]
        seen = json.loads(list_of.read_text())
        files = [(Path(path), purpose, bytes.fromhex(source)) for path, purpose, source in seen]
        counts: Counter[str] = Counter()
        for k, (path, purpose, source) in enumerate(files):
            bits = iter(range(k % options.step, 8 * path.stat().st_size, options.step))
            tried, taken = accepted(path, purpose, source, bits)
            counts.update(flips=tried, accepted=taken)
            print(f"{k + 1}/{len(files)} {path.name}: {taken} of {tried} accepted", flush=True)
        for k in range(options.processes):
            path, purpose, source = files[k % len(files)]
            whole = path.read_bytes()
            # places that differ from file to file and from round to round, in all parts of a file
            bit = int((0.382 + k * 0.6180339887) % 1 * 8 * len(whole))
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(cache, copy)
            target = copy / path.relative_to(cache)
            target.write_bytes(flipped(whole, bit))
            done = step(options, copy, checked=not options.unchecked)
            what = outcome(done, expected)
            if what == "sound" and not (options.unchecked or is_sound(target, purpose, source)):
                what = "silent"
            counts[what] += 1
            print(f"{k + 1}/{options.processes} {path.name}, bit {bit}: {what}", flush=True)
        size = sum(path.stat().st_size for path, _, _ in files)
    row = facts(options, len(files), size) | {
        "step": options.step,
        "checked": not options.unchecked,
        "processes": options.processes,
        **{name: counts[name] for name in COUNTED},
    }
    append(options.results / "bit_flips.csv", [row], FLIPS)
    print(
        f"{len(files)} files, {size / 2**20:.1f} MiB: of {row['flips']:,} flipped bits "
        f"{row['accepted']} were accepted; of {options.processes} processes {row['crashed']} "
        f"crashed, {row['wrong']} computed something else, {row['silent']} said nothing"
    )
    if (not options.unchecked and row["sound"] != options.processes) or row["accepted"]:
        raise SystemExit(1)


# -- cost


def cost(options: argparse.Namespace) -> None:
    if options.rounds < 1:
        raise ArgumentError(message("--rounds", "at least 1", options.rounds))
    with tempfile.TemporaryDirectory() as folder:
        cache = made(folder, options)
        kept = [path.stat().st_size for path in cache.rglob("*.nbc")]
        with_it, without, spent = [], [], []
        for k in range(options.rounds):
            for checked in (True, False) if k % 2 else (False, True):
                _, seconds, checksum = told(step(options, cache, checked=checked))
                (with_it if checked else without).append(seconds)
                if checked:
                    spent.append(checksum)
    ratio = median(a / b for a, b in zip(with_it, without))
    row = facts(options, len(kept), sum(kept)) | {
        "rounds": options.rounds,
        "cpu_seconds": f"{median(with_it):.4f}",
        "unchecked_cpu_seconds": f"{median(without):.4f}",
        "ratio": f"{ratio:.4f}",
        "checksum_seconds": f"{median(spent):.5f}",
    }
    append(options.results / "warm_start.csv", [row], COST)
    print(
        f"{len(kept)} files, {sum(kept) / 2**20:.1f} MiB, {options.rounds} rounds: "
        f"{row['cpu_seconds']} s of processor time with the checksum, "
        f"{row['unchecked_cpu_seconds']} s without (ratio {row['ratio']}); the checksum takes "
        f"{1e3 * median(spent):.1f} ms, {100 * median(spent) / median(with_it):.2f} %"
    )


def made(folder: str, options: argparse.Namespace) -> Path:
    """A cache below ``folder`` with all that the step needs, a copy of ``--cache`` if given."""
    cache = Path(folder, "cache")
    if options.cache is not None:
        shutil.copytree(options.cache, cache)
    told(step(options, cache))
    return cache


def facts(options: argparse.Namespace, files: int, size: int) -> dict[str, Any]:
    from minires.kernels.numba.threads import get_num_threads

    known = environment(get_num_threads())
    known |= {"net": options.net, "batch": options.batch, "files": files, "bytes": size}
    return {name: known[name] for name in MACHINE}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/kernel_cache.py flips --processes 300",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["flips", "cost"])
    parser.add_argument("--net", default="cifar_resnet20", help="from the zoo  [cifar_resnet20]")
    parser.add_argument("--batch", type=int, default=16, help="images of the step  [16]")
    parser.add_argument("--step", type=int, default=50, help="every which bit is flipped  [50]")
    parser.add_argument("--processes", type=int, default=200, help="that take the step  [200]")
    parser.add_argument("--unchecked", action="store_true", help="ignore checksums in processes")
    parser.add_argument("--rounds", type=int, default=15, help="of cost  [15]")
    parser.add_argument("--cache", type=Path, help="of a step before: spares compiling  [none]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)
    try:
        {"flips": flips, "cost": cost}[options.what](options)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

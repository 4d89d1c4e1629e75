"""The main loop of a kernel in its machine code: a figure of merit that needs no GPU.

A loop is a branch back and all between it and its target. The main loop is the one with the most
products (an FFMA is one of each lane, an HMMA 32 or more), of several with about as many the
shortest, without what it rarely runs: the parts that a branch jumps over and that hold a loop of
their own, but neither arithmetic nor copies (the turn to the next tap of a filter).

Bounds follow from counts alone. A multiprocessor has four partitions, each of which issues one
instruction of a warp per cycle:

- issue: every instruction takes a cycle of its partition;
- math: FFMA a cycle (DFMA two), HMMA 16x8x8 of tf32 four at the full rate (16x8x16 of bfloat16 as
  well); of which ``mma.sync`` was seen to reach 63 % on Hopper (arXiv 2501.12084);
- shared: 128 bytes a cycle for all four partitions, so four cycles for 32 lanes of 16 bytes; two,
  where pairs of lanes read the same.

The largest bounds the rate. Latencies that too few warps hide, caches and clocks are not in it: it
can refute a kernel, not prove one.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# kinds of instructions, the first whose pattern begins the operation's name
KINDS = (
    ("FFMA", r"FFMA|DFMA"),
    ("HMMA", r"HMMA"),
    ("LDSM", r"LDSM"),
    ("LDS", r"LDS"),
    ("STS", r"STS"),
    ("control", r"LDGDEPBAR"),
    ("LDGSTS", r"LDGSTS"),
    ("LDG", r"LDG|LD\."),
    ("STG", r"STG|ST\."),
    ("local", r"LDL|STL"),
    ("float", r"F|MUFU|H|D(ADD|MUL|SETP)|I2F"),
    ("control", r"BRA|BSSY|BSYNC|BAR|DEPBAR|EXIT|NOP|WARPSYNC|CALL|RET|ERRBAR|YIELD|BREAK|ARRIVES"),
    ("integer", r"."),
)
MOST = 0.8  # of the products of the largest loop: an outer loop has its prologue's as well
MMA_SHARE = 0.63  # of the tensor cores' rate, reached by mma.sync
WIDE = {".128": 4, ".64": 2}  # cycles of shared memory for an access of this width

Line = tuple[int, str]  # address and instruction


class DisassemblerMissing(RuntimeError):
    """There is no nvdisasm."""


@functools.cache
def _program() -> str:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("cu1*/bin/nvdisasm")):
            if not os.access(path, os.X_OK):  # some installers drop the permission
                path.chmod(0o755)
            return str(path)
    raise DisassemblerMissing(
        'nvdisasm: not installed. Install it with pip install "minires[test]".'
    )


def missing() -> str:
    """Why nothing can be read here; an empty string where it can."""
    try:
        _program()
    except DisassemblerMissing as error:
        return str(error)
    return ""


def disassembled(cubin: bytes) -> dict[str, list[Line]]:
    """The instructions of each kernel by symbol, with addresses for the labels they branch to.

    Raises:
        DisassemblerMissing: there is no nvdisasm.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_program(), "-c", file.name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return parsed(out)


def parsed(text: str) -> dict[str, list[Line]]:
    """What nvdisasm prints, taken apart."""
    found: dict[str, list[Line]] = {}
    now: list[Line] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []  # labels of the next instruction
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            now = found.setdefault(section[1], [])
        elif label := re.match(r"(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif code := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;", line):
            address = int(code[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting = []
            now.append((address, code[2]))
    target = re.compile(r"`\((\.L_x_\d+)\)")
    return {
        symbol: [
            (at, target.sub(lambda label: hex(labels.get(label[1], 0)), code)) for at, code in lines
        ]
        for symbol, lines in found.items()
    }


def operation(instruction: str) -> str:
    """``FFMA`` of ``@!P0 FFMA R1, R2, R3, R1``."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


@functools.cache
def _kind(name: str) -> str:
    return next(kind for kind, pattern in KINDS if re.match(rf"(?:{pattern})", name))


def kind(instruction: str) -> str:
    """What an instruction does, one of :data:`KINDS`."""
    return _kind(operation(instruction))


def _branches(code: list[Line]) -> list[tuple[int, int]]:
    """From where to where branches lead."""
    found = []
    for address, instruction in code:
        if (match := re.search(r"(0x[0-9a-f]+)$", instruction)) and "BRA" in instruction:
            found.append((address, int(match[1], 16)))
    return found


def main_loop(code: list[Line]) -> list[str]:
    """The instructions of the main loop; none if there is no loop with multiply-adds."""

    def inside(first: int, last: int) -> list[str]:
        return [instruction for at, instruction in code if first <= at <= last]

    def products(loop: tuple[int, int]) -> int:
        return sum({"FFMA": 1, "HMMA": 32}.get(kind(i), 0) for i in inside(*loop))

    branches = _branches(code)
    loops = [(to, at) for at, to in branches if to < at]
    most = max(map(products, loops), default=0)
    if not most:
        return []
    first, last = min(
        (loop for loop in loops if products(loop) >= MOST * most), key=lambda l: l[1] - l[0]
    )
    work = {"FFMA", "HMMA", "LDGSTS", "LDG", "STS", "LDSM"}
    rare = [
        (at, to)
        for at, to in branches
        if first < at < to <= last
        and any(at < begin and end < to for begin, end in loops)
        and not work.intersection(map(kind, inside(at + 1, to - 1)))
    ]
    return [
        instruction
        for at, instruction in code
        if first <= at <= last and not any(begin < at < end for begin, end in rare)
    ]


@dataclass(frozen=True)
class Loop:
    """What a turn of a main loop is made of, for one warp.

    Args:
        counts: instructions by kind.
        math: cycles that the multiply-adds take at the rate that can be reached.
        shared: cycles that the accesses to shared memory take.
    """

    counts: Counter[str]
    math: float
    shared: float

    @property
    def instructions(self) -> int:
        return self.counts.total()

    @property
    def tensor(self) -> bool:
        return self.counts["HMMA"] > 0

    @property
    def share(self) -> float:
        """Of the instructions, those that are multiply-adds."""
        return (self.counts["HMMA"] if self.tensor else self.counts["FFMA"]) / self.instructions

    @property
    def bound(self) -> str:
        """What takes the most cycles: math, issue or shared."""
        sizes = {"math": self.math, "issue": self.instructions, "shared": self.shared}
        return max(sizes, key=lambda name: sizes[name])

    @property
    def rate(self) -> float:
        """The share of the reachable rate that counts allow."""
        return self.math / max(self.math, self.instructions, self.shared)


def loop(body: list[str]) -> Loop | None:
    """A main loop, counted; None for an empty one."""
    if not body:
        return None
    counts = Counter(map(kind, body))
    shared = 0
    for instruction in body:
        name, what = operation(instruction), kind(instruction)
        width = next((cycles for mark, cycles in WIDE.items() if mark in name), 1)
        if what == "LDS":  # lanes in pairs read the same 16 bytes (tile.cuh)
            shared += 2 if width == 4 else 1
        elif what in ("STS", "LDGSTS"):
            shared += width
        elif what == "LDSM":
            shared += 4
    math = 4 / MMA_SHARE * counts["HMMA"]
    if not counts["HMMA"]:
        math = sum((2 if operation(i).startswith("DFMA") else 1) for i in body if kind(i) == "FFMA")
    return Loop(counts, math, 4 * shared)

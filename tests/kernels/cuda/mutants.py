"""Mistakes put into the CUDA sources one at a time, and small cases that must notice each.

A mutant is a source with one barrier, wait, commit or bounds check deleted or weakened. The cases
run the operations on the stand-in for a GPU under each of ``cudasim.ALL_CONDITIONS``, the checked
ones first. Each mutant is tried in a process of its own, which may crash or never end.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cudasim
import numpy as np
from cases import Case
from cupy_stand_in import cupy_installed

import minires
from minires.kernels.cuda import source
from minires.kernels.cuda.kernel import Kernel

PACKAGE = Path(minires.__file__).parent
PATIENCE = 60  # seconds of the processor, after which a mutant counts as one that never ends


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        file: the source.
        line: where.
        kind: ``"barrier"``, ``"wait"``, ``"commit"`` or ``"bounds"``.
        what: the change, for people.
        start, end, new: what replaces which part of the text.
    """

    file: Path
    line: int
    kind: str
    what: str
    start: int
    end: int
    new: str

    @property
    def text(self) -> str:
        old = self.file.read_text(encoding="utf-8")
        return old[: self.start] + self.new + old[self.end :]

    def __str__(self) -> str:
        return f"{self.file.relative_to(PACKAGE)}:{self.line}: {self.what}"


_BARRIER = re.compile(r"\b(__syncthreads|__syncwarp)\(\);")
_WAIT = re.compile(r"\bcopy_wait<([^<>]*)>\(\);")
_COMMIT = re.compile(r"\bcopy_commit\(\);")
# A comparison with a blank on either side: the brackets of templates have none.
_COMPARISON = re.compile(r" (<=|>=|<|>) ")
_WEAKER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
# names of what is known when a kernel is compiled: constants, and template arguments
_CONSTANT = r"(?:[A-Z][A-Z0-9_]*|\d+|\w+(?:::|\.)[A-Z][A-Z_]*)"
_FIXED_RIGHT = re.compile(rf"\s*{_CONSTANT}(?:\s*[-+*/%]\s*{_CONSTANT})*\s*(?:[;:?)&|]|$)")
_FIXED_LEFT = re.compile(rf"(?:^|[(!&|,?=]\s*){_CONSTANT}(?:\s*[-+*/%]\s*{_CONSTANT})*\s*$")


def _blank_comments(text: str) -> str:
    """The text with blanks for comments, each character in its place."""
    return re.sub(
        r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL
    )


def mutants(file: Path) -> list[Mutant]:
    """Every mistake of these kinds that can be made in a source, in the order of its text."""
    return mutants_of(file.read_text(encoding="utf-8"), file)


def mutants_of(text: str, file: Path) -> list[Mutant]:
    """The same of the text of a source."""
    text = _blank_comments(text)
    found = []

    def add(kind: str, what: str, start: int, end: int, new: str) -> None:
        found.append(Mutant(file, text.count("\n", 0, start) + 1, kind, what, start, end, new))

    for match in _BARRIER.finditer(text):
        add("barrier", f"no {match[1]}", *match.span(), ";")
    for match in _WAIT.finditer(text):
        add("wait", "no copy_wait", *match.span(), ";")
        add("wait", "copy_wait one short", *match.span(), f"copy_wait<({match[1]}) + 1>();")
    for match in _COMMIT.finditer(text):
        if text[: match.start()].rstrip().endswith("cusim::"):  # the twin in common.cuh
            continue
        add("commit", "no copy_commit", *match.span(), ";")
    for match in _COMPARISON.finditer(text):
        if _guards(text, match):
            old, new = match[1], _WEAKER[match[1]]
            left = re.split(r"[(&|?;={\n]", text[: match.start()])[-1].strip()
            right = re.split(r"[)&|?;:]", text[match.end() :], maxsplit=1)[0].strip()
            what = f"{left} {new} {right}, not {old}"
            add("bounds", what, match.start(1), match.end(1), new)
    return sorted(found, key=lambda mutant: (mutant.start, mutant.what))


def _guards(text: str, match: re.Match[str]) -> bool:
    """Whether a comparison is one of numbers that are known when a kernel runs: not of constants,
    and not of the values of an array with a number."""
    line_start = text.rfind("\n", 0, match.start()) + 1
    line_end = text.find("\n", match.end())
    line = text[line_start:line_end]
    if re.match(r"\s*(#|static_assert|static constexpr|constexpr|template)", line):
        return False
    if "if constexpr" in line:
        return False
    before, after = text[line_start : match.start()], text[match.end() : line_end]
    return not (_FIXED_RIGHT.match(after) or _FIXED_LEFT.search(before))


def sources() -> list[Path]:
    """Every CUDA source of minires."""
    return sorted([*PACKAGE.rglob("*.cu"), *PACKAGE.rglob("*.cuh")])


@functools.cache
def _includes(file: Path) -> frozenset[Path]:
    """A source and the headers that its text takes in."""
    names = re.findall(r'^#line 1 "([\w.]+)"$', source.text(file), re.MULTILINE)
    known = {path.name: path for path in (*source.HEADERS.glob("*.cuh"), *file.parent.iterdir())}
    return frozenset(known[name] for name in names)


def users(file: Path) -> set[Path]:
    """The ``.cu`` files into which a source goes."""
    return {path for path in sources() if path.suffix == ".cu" and file in _includes(path)}


# Mutants that compute the same as the source: file, part of the line, change, reason.
_TURN = "one more turn, in which everything is compared with the end again, and refused"
SAME = (
    ("ops/batch_norm/kernel_cuda.cu", "for (int row = at.row;", "row <= at.end", _TURN),
    ("kernels/cuda/operand.cu", "for (int row = at.row;", "row <= at.end", _TURN),
    ("ops/avg_pool2d/kernel_cuda.cu", "for (int tap = part;", "tap <= area", _TURN),
    ("ops/max_pool2d/kernel_cuda.cu", "for (int first = 0;", "first <= g.k_w", _TURN),
    ("ops/max_pool2d/kernel_cuda.cu", "for (int first = first_j;", "first <= end_j", _TURN),
    ("kernels/cuda/matmul.cu", "for (int k0 = begin;", "k0 <= end", _TURN),
    (
        "kernels/cuda/matmul.cu",
        "if (k0 + SLICE < end)",
        "<=",
        "a slice that begins at the end: each entry of it is compared with the end again",
    ),
    (
        "ops/avg_pool2d/kernel_cuda.cu",
        "if (item < g.packs) {",
        "<=",
        "a thread beyond the last one works on the last one's window, and stores nothing",
    ),
    (
        "ops/update/kernel_cuda.cu",
        "top > entry[4]",
        ">=",
        "the larger of two equal numbers is either",
    ),
    (
        "kernels/cuda/draws.cu",
        "if (i >= size) return;",
        ">",
        "the thread behind the last entry stores none: each is compared with the end again",
    ),
    (
        "kernels/cuda/prologue.cuh",
        "return v <= floor ? floor : v",
        "<",
        "the larger of two equal numbers is either",
    ),
    (
        "ops/conv2d/cuda_weight.cu",
        "if (again && i < size)",
        "<=",
        "a thread beyond the last sum has none to compute again: its own is 0",
    ),
    ("kernels/cuda/scatter.cu", "(first > second)", ">=", "no two keys are equal"),
    (
        "ops/conv2d/cuda_pack.cu",
        "while (mine + 1 < packs.count",
        "<= packs.count",
        "behind the last pack stands the number of blocks, larger than any block's",
    ),
)


def same_program(mutant: Mutant) -> str:
    """Why a mutant cannot be told from the source, or an empty string."""
    place = str(mutant.file.relative_to(PACKAGE))
    line = mutant.file.read_text(encoding="utf-8").splitlines()[mutant.line - 1]
    for file, part, change, reason in SAME:
        if file == place and part in line and change in mutant.what:
            return reason
    return ""


# **** trying one ****


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Args:
        noticed: ``"checks"``, ``"values"``, ``"crash"``, ``"never ends"``, ``"not compiled"`` or,
            for one that nothing notices, an empty string.
        how: the case and conditions that noticed it, and what they said.
        seconds: that it took.
    """

    noticed: str
    how: str
    seconds: float


@contextlib.contextmanager
def _reading(mutant: Mutant | None) -> Iterator[None]:
    """Inside, the mutant's file has the mutant's text."""
    original, text = Path.read_text, mutant and mutant.text

    def read_text(self: Path, *args: object, **options: object) -> str:
        return text if mutant and self == mutant.file else original(self, *args, **options)

    Path.read_text = read_text  # type: ignore[method-assign]
    source.text.cache_clear()
    for thing in gc.get_objects():  # what was compiled of the original before is not the mutant
        if type(thing) is Kernel:
            thing._functions.clear()
    try:
        yield
    finally:
        Path.read_text = original  # type: ignore[method-assign]
        source.text.cache_clear()


Expected = dict[Case, list[np.ndarray]]


def _differs(values: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> str:
    for i, (value, right) in enumerate(zip(values, expected, strict=True)):
        if not np.allclose(value, right, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"result {i} differs"
    return ""


def _run(cases: Expected) -> tuple[str, str]:
    """What notices, and how; in this process."""
    conditions = sorted(cudasim.ALL_CONDITIONS, key=lambda c: not c.checked)
    with cupy_installed():
        for now in conditions:
            for case, expected in cases.items():
                try:
                    with cudasim.running(now):
                        how = _differs(case.run("cuda"), expected, case.tolerance)
                except cudasim.BuildError as error:
                    return "not compiled", str(error)
                except (RuntimeError, ArithmeticError, ValueError, AssertionError) as error:
                    return "checks", f"{case.name}, {now}: {error}"
                if how:
                    return "values", f"{case.name}, {now}: {how}"
    return "", ""


def attempt(mutant: Mutant | None, cases: Expected) -> Outcome:
    """Run the cases on a mutant, or on the sources as they are, in a process of their own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        with warnings.catch_warnings():  # the child starts no threads, and waits for none
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                if mutant:  # a compiler has as much for itself
                    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
                with _reading(mutant):
                    report.write_bytes("\0".join(_run(cases)).encode())
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - start
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return Outcome("never ends", f"after {PATIENCE} s of the processor", seconds)
        if status:
            return Outcome("crash", f"exit status {status}", seconds)
        noticed, how = report.read_bytes().decode().split("\0", 1)
        return Outcome(noticed, how, seconds)


def with_expected(cases: Iterable[Case]) -> Expected:
    """Cases, each with what the NumPy references make of it."""
    cudasim.build.runtime()  # once, for all the processes
    with minires.backend("numpy"):
        return {case: case.run("cpu") for case in cases}


def cases_for(file: Path, expected: Expected) -> Expected:
    """The cases that run kernels of a source."""
    stems = {str(user.relative_to(PACKAGE)) for user in users(file)}
    return {case: right for case, right in expected.items() if stems.intersection(case.files)}

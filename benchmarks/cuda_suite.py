"""How many tests run the CUDA kernels where there is no GPU, and how long they take.

Runs every test of the suite that has to do with a GPU (compiling, simulating, the stand-in for
CuPy) with an empty cache of simulator builds, and counts cases and seconds by what they test.
``--write`` puts the table into ``benchmarks/README.md`` and ``benchmarks/results/cuda_suite.csv``.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

from harness import RESULTS

from minires.environment import describe
from minires.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "benchmarks/README.md"
BEGIN, END = "<!-- the CUDA part of the tests -->", "<!-- end of the CUDA part -->"
CHOSEN = "cuda or gpu or second_device or stand_in or upload"  # names of files and parameters
COLUMNS = ("part", "cases", "seconds")


def run(folder: Path) -> tuple[Path, float]:
    """Run the tests; the JUnit file they leave, and the seconds they took in all."""
    report = folder / "tests.xml"
    environment = {**os.environ, "CUSIM_CACHE": str(folder / "builds")}
    command = [sys.executable, "-m", "pytest", "-k", CHOSEN, f"--junitxml={report}"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"error: expected tests that pass, got exit code {done.returncode}")
    return report, seconds


def counted(report: Path) -> dict[str, tuple[int, float]]:
    """Cases and seconds by part: an operation's name, or the folder or file of the tests."""
    found: dict[str, tuple[int, float]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        names = case.get("classname", "").split(".")
        part = next((name for name in names if name.startswith("test_")), names[-1])
        part = part.removeprefix("test_").removesuffix("_gradients").removesuffix("_cuda")
        if "cudasim" in names:
            part = "the simulator itself"
        cases, seconds = found.get(part, (0, 0.0))
        found[part] = cases + 1, seconds + float(case.get("time", 0))
    return found


def markdown(found: dict[str, tuple[int, float]], seconds: float, facts: str) -> str:
    """The table, the longest parts first; those of less than a second together."""
    rows = sorted(found.items(), key=lambda item: -item[1][1])
    shown = [(part, *of) for part, of in rows if of[1] >= 1]
    rest = [of for _, of in rows if of[1] < 1]
    if rest:
        shown.append(("others", sum(n for n, _ in rest), sum(s for _, s in rest)))
    lines = ["| tests of | cases | seconds |", "| --- | ---: | ---: |"]
    lines += [f"| {part} | {cases:,} | {took:.1f} |" for part, cases, took in shown]
    cases = sum(n for n, _ in found.values())
    lines.append(f"| **all, with collecting and starting** | **{cases:,}** | **{seconds:.0f}** |")
    return f"{facts}\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/cuda_suite.py --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="put the table into README and CSV")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report, seconds = run(Path(folder))
        found = counted(report)
    known = describe()
    facts = (
        f"{datetime.now():%Y-%m-%d}: commit {known['commit']}, Python {known['python']}; "
        f"{known['cpu']}, {os.cpu_count()} cores; no simulator build kept from before."
    )
    text = markdown(found, seconds, facts)
    print(text)
    if options.write:
        before, rest = README.read_text(encoding="utf-8").split(BEGIN)
        write_atomic(README, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        rows = sorted(found.items())
        writer.writerows([part, n, f"{took:.2f}"] for part, (n, took) in rows)
        writer.writerow(["all", sum(n for n, _ in found.values()), f"{seconds:.2f}"])
        write_atomic(RESULTS / "cuda_suite.csv", table.getvalue())


if __name__ == "__main__":
    main()

"""Mistakes in the CUDA sources, one at a time: do the simulator's small cases notice each?

Every barrier, wait and commit of every ``.cu`` and ``.cuh`` file is deleted, every bounds check
moved by one (``tests/kernels/cuda/mutants.py``), and the cases of ``tests/kernels/cuda/cases.py``
that launch kernels of the file are run. Each mutant is a line of
``benchmarks/results/cuda_mutants.csv``, which is written anew; ``--write`` puts the sums into
``benchmarks/README.md``. Needs a C++ compiler, no GPU.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from harness import RESULTS

from minires.environment import describe
from minires.files import write_atomic
from minires.texttable import text_table

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
BEGIN, END = "<!-- mutants -->", "<!-- end of mutants -->"
COLUMNS = ("file", "line", "kind", "change", "noticed", "how", "seconds")
KINDS = ("barrier", "wait", "commit", "bounds")


def table(rows: list[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: of each file the mutants by kind, and what noticed them."""
    heads = ["file", *KINDS, "all", "checks", "values", "crash or no end", "same program", "missed"]
    lines = []
    for file in [*dict.fromkeys(row["file"] for row in rows), ""]:
        own = [row for row in rows if row["file"] == file or not file]
        kinds, by = Counter(r["kind"] for r in own), Counter(r["noticed"] for r in own)
        cells = [file or "all", *[str(kinds[kind]) for kind in KINDS], str(len(own))]
        cells += [str(by["checks"]), str(by["values"]), str(by["crash"] + by["never ends"])]
        lines.append([*cells, str(by["same"]), str(by[""])])
    return heads, lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/cuda_mutants.py --only relu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", default="", help="files whose path holds this; nothing is written"
    )
    parser.add_argument("--write", action="store_true", help="put the sums into the README")
    options = parser.parse_args(arguments)
    sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests/kernels/cuda")]
    import cases
    import mutants

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUSIM_CACHE"] = folder
        files = [file for file in mutants.sources() if options.only in str(file)]
        everything = {case: [] for case in cases.CASES}
        needed = [case for file in files for case in mutants.cases_for(file, everything)]
        expected = mutants.with_expected(dict.fromkeys(needed))
        untouched = mutants.attempt(None, expected)
        if untouched.noticed:
            sys.exit(f"the sources as they are: {untouched.noticed}, {untouched.how}")
        rows = []
        for file in files:
            place = str(file.relative_to(mutants.PACKAGE))
            for mutant in mutants.mutants(file):
                found = mutants.attempt(mutant, mutants.cases_for(file, expected))
                noticed, how = found.noticed, " ".join(found.how.split())
                if not noticed and (reason := mutants.same_program(mutant)):
                    noticed, how = "same", reason
                print(f"{noticed or 'MISSED':10}  {mutant}  {how[:100]}", flush=True)
                values = (place, mutant.line, mutant.kind, mutant.what, noticed, how[:200])
                rows.append(dict(zip(COLUMNS, (*map(str, values), f"{found.seconds:.1f}"))))
    heads, lines = table(rows)
    print(text_table(heads, lines, left=1))
    known = describe()
    about = (
        f"{datetime.now():%d %B %Y}, commit {known['commit']}: {len(rows)} mutants, "
        f"{len(expected)} cases, {time.perf_counter() - start:.0f} s."
    )
    print(about)
    if options.only:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(RESULTS / "cuda_mutants.csv", text.getvalue())
    if options.write:
        before, rest = README.read_text(encoding="utf-8").split(BEGIN)
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        write_atomic(README, f"{before}{BEGIN}\n\n{about}\n\n{body}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

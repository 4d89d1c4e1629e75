"""What NVIDIA's compiler makes of every CUDA kernel: registers, shared memory, spills, main loops.

Every instance of every kernel is compiled by NVRTC, with CuPy's options, for ``sm_80``, ``sm_90``
and the newest GPU that NVRTC knows; of those that multiply and add in a loop, the main loop is
found in the machine code of ``sm_90`` and counted (:mod:`cubin.sass`). Needs no GPU. Every instance
is a line of ``benchmarks/results/cuda_code.csv`` and ``cuda_loops.csv``, which are written anew;
``--write`` puts the sums into ``benchmarks/README.md``. Fails if a kernel needs more than a GPU
has, or spills or uses a stack and is not listed with a reason in :data:`cubin.kernels.SPILLS`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from cubin import kernels, nets, nvrtc, sass
from harness import RESULTS

from minires.environment import describe
from minires.files import write_atomic
from minires.texttable import text_table

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- machine code -->", "<!-- end of machine code -->"
READ = 90  # the target whose main loops are read
CODE = (
    "file", "kernel", "target", "block", "registers", "static_shared", "dynamic_shared", "stack",
    "spills", "asked_for", "complaints", "reason",
)  # fmt: skip
LOOPS = (
    "file", "kernel", "used_by", "registers", "instructions", "ffma", "hmma", "lds_ldsm", "copies",
    "integer", "float", "control", "share", "rate", "bound",
)  # fmt: skip
ARITHMETIC = ("Fp32", "Tf32", "Bf16", "Fp64")  # of kernels that are products of matrices
FEW = 16  # multiply-adds of a loop that is no product of matrices
Row = dict[str, Any]


def code_rows(all_kernels: dict[tuple[str, str], Any], codes: dict[Any, nvrtc.Code]) -> list[Row]:
    """A row for each kernel and target."""
    rows = []
    for (file, name, target), code in codes.items():
        kernel = all_kernels[file, name]
        shared = (code.shared, kernel.shared)
        asked_for = "yes" if kernels.asked_for(kernel, code) else "not asked for there"
        values = (
            file, name, f"sm_{target}", kernel.block, code.registers, *shared, code.stack,
            code.spills, asked_for, "; ".join(kernels.complaints(kernel, code)),
            kernels.SPILLS.get((target, name), ""),
        )  # fmt: skip
        rows.append(dict(zip(CODE, values)))
    return rows


def loop_rows(codes: dict[Any, nvrtc.Code], used: dict[tuple[str, str], str]) -> list[Row]:
    """A row for each kernel of a convolution whose main loop is one of multiply-adds."""
    rows = []
    listings: dict[bytes, dict[str, list[sass.Line]]] = {}  # several kernels share a cubin
    for (file, name, _), code in codes.items():
        if arithmetic(name) not in ARITHMETIC:
            continue
        if code.cubin not in listings:
            listings = {code.cubin: sass.disassembled(code.cubin)}
        loop = sass.loop(sass.main_loop(listings[code.cubin][code.symbol]))
        if loop is None or loop.counts["FFMA"] + loop.counts["HMMA"] < FEW:
            continue  # it packs weights
        count = loop.counts
        values = (
            file, name, used.get((file, name), ""), code.registers, loop.instructions,
            count["FFMA"], count["HMMA"], count["LDS"] + count["LDSM"],
            count["LDG"] + count["LDGSTS"] + count["STS"], count["integer"], count["float"],
            count["control"], f"{loop.share:.3f}", f"{loop.rate:.3f}", loop.bound,
        )  # fmt: skip
        rows.append(dict(zip(LOOPS, values)))
    return rows


def plain_name(name: str) -> str:
    """``relu_fwd`` of ``relu_fwd<float, 4>``."""
    return name.partition("<")[0]


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = {"kernel": plain_name(row["kernel"]), "arithmetic": arithmetic(row["kernel"])}
        groups.setdefault(tuple(name.get(key, row.get(key, "")) for key in keys), []).append(row)
    return groups


def arithmetic(name: str) -> str:
    """What a kernel computes with, by its first template argument."""
    first = re.match(r"\w+<\s*(\w+)", name)
    return first[1] if first else ""


def _range(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"


def code_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: of each kernel, over its instances and by target."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    heads = [
        "kernel",
        "instances",
        *[f"registers {t}" for t in targets],
        "shared",
        "not asked for on",
        "stack",
        "spills",
    ]
    lines = []
    for (file, name), group in _grouped(rows, "file", "kernel").items():
        registers = [_range([r["registers"] for r in group if r["target"] == t]) for t in targets]
        shared = _range([row["static_shared"] + row["dynamic_shared"] for row in group])
        worst = [str(max(row[key] for row in group)) for key in ("stack", "spills")]
        instances = str(len({row["kernel"] for row in group}))
        place = f"{Path(file).parent.name}: {name}"
        lines.append([place, instances, *registers, shared, _left_out(group), *worst])
    total = len({(row["file"], row["kernel"]) for row in rows})
    worst = [str(max(row[key] for row in rows)) for key in ("stack", "spills")]
    return heads, [*lines, ["all", str(total), *[""] * len(targets), "", _left_out(rows), *worst]]


def _left_out(rows: list[Row]) -> str:
    """``3: sm_80``: so many instances are too large for that target, and not asked for there."""
    counts = Counter(row["target"] for row in rows if row["asked_for"] != "yes")
    return ", ".join(f"{count}: {target}" for target, count in counts.items())


def listed(rows: list[Row]) -> list[str]:
    """The kernels that spill or use a stack, with the reasons why they may."""
    return [
        f"{row['target']}, `{row['kernel']}`: {row['stack']} bytes of stack, {row['spills']} of "
        f"spills. {row['reason'][0].upper()}{row['reason'][1:]}."
        for row in rows
        if row["reason"]
    ]


def loop_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: of each kernel and arithmetic, those that ResNets use and all."""
    heads = ["kernel", "arithmetic", "instances", "share", "rate", "used", "share of used", "rate"]
    lines = []
    for (name, kind), group in _grouped(rows, "kernel", "arithmetic").items():
        used = [row for row in group if row["used_by"]]
        cells = [name, kind, str(len(group)), _percents(group, "share"), _percents(group, "rate")]
        cells += [str(len(used)), _percents(used, "share"), _percents(used, "rate")]
        lines.append(cells)
    return heads, lines


def _percents(rows: list[Row], key: str) -> str:
    if not rows:
        return ""
    values = [100 * float(row[key]) for row in rows]
    return f"{min(values):.0f}, {median(values):.0f}"


def markdown(rows: list[Row], loops: list[Row], about: str) -> str:
    """Both tables for the README."""
    parts = [about]
    for heads, lines in (code_table(rows), loop_table(loops)):
        left = 1 if heads is not None and "arithmetic" not in heads else 2
        parts.append("")
        parts.append(f"| {' | '.join(heads)} |")
        parts.append(f"|{' --- |' * left}{' ---: |' * (len(heads) - left)}")
        parts += [f"| {' | '.join(line)} |" for line in lines]
    if lines := listed(rows):
        parts += ["", "All kernels that spill or use a stack:", "", *[f"- {s}" for s in lines]]
    return "\n".join(parts)


def save(path: Path, columns: Sequence[str], rows: list[Row]) -> None:
    """Write a CSV file anew."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/cuda_code.py --only conv2d_windows",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", default="", help="kernels whose name holds this; nothing is written"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="[all cores]")
    parser.add_argument("--write", action="store_true", help="put the sums into the README")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    targets = sorted({nvrtc.OLDEST, READ, nvrtc.newest_target()})
    chosen = {key: k for key, k in kernels.instances().items() if options.only in key[1]}
    codes, seconds = kernels.compile_all(chosen.values(), targets, options.processes)
    rows = code_rows(chosen, codes)
    read = {key: code for key, code in codes.items() if key[2] == READ}
    loops = loop_rows(read, nets.used_by())
    wall = time.perf_counter() - start
    known = describe()
    about = (
        f"{datetime.now():%d %B %Y}, commit {known['commit']}: NVRTC {nvrtc.version()}, "
        f"{len(chosen)} kernels for {', '.join(f'sm_{t}' for t in targets)}; {seconds:.0f} s of "
        f"compiling, {wall:.0f} s in all on {options.processes} processes."
    )
    for heads, lines in (code_table(rows), loop_table(loops)):
        print(text_table(heads, lines, left=1), end="\n\n")
    print(*listed(rows), about, sep="\n")
    faults = [f"{r['target']} {r['kernel']}: {r['complaints']}" for r in rows if r["complaints"]]
    faults += kernels.outdated(codes.values())
    if options.only:
        print(text_table(LOOPS[1:], [[str(row[c]) for c in LOOPS[1:]] for row in loops], left=2))
    else:
        write(rows, loops, about, options.write)
    if faults:
        sys.exit("\n".join(["mend these, or list them in cubin/kernels.py:", *faults]))


def write(rows: list[Row], loops: list[Row], about: str, readme: bool) -> None:
    """The CSV files, and the sums in the README."""
    save(RESULTS / "cuda_code.csv", CODE, rows)
    save(RESULTS / "cuda_loops.csv", LOOPS, loops)
    if readme:
        before, rest = README.read_text(encoding="utf-8").split(BEGIN)
        text = markdown(rows, loops, about)
        write_atomic(README, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

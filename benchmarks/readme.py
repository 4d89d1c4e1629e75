"""Writes the newest results of all benchmarks into ``benchmarks/README.md``."""

from __future__ import annotations

from pathlib import Path

import harness
from versus import report

from minires.files import write_atomic

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- newest results -->", "<!-- end of results -->"


def markdown(results: Path = harness.RESULTS) -> str:
    """The newest results of every CSV file in a folder, as Markdown.

    Files with columns of their own are tables of other pages.
    """
    parts = []
    for path in sorted(results.glob("*.csv")):
        columns = harness.columns_of(path)
        if columns == report.COLUMNS:
            parts.append(report.markdown(path))
        elif columns == harness.COLUMNS:
            parts.append(_kernels_markdown(path))
    return "\n\n".join(parts)


def _kernels_markdown(path: Path) -> str:
    rows = harness.newest(path)
    lines = [("shape", *harness.HEADINGS), ("---", "---", *["---:"] * 5)]
    lines += [(line["shape"], *harness.cells(line)) for line in rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"**{path.stem}**, {rows[0]['date'][:10]}: {harness.header(rows[0])}.\n\n{table}"


def update(readme: Path = README, results: Path = harness.RESULTS) -> None:
    """Put the newest results between the two marks in the README."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    write_atomic(readme, f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}")


if __name__ == "__main__":
    update()

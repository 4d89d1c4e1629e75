"""Tables in plain text: columns side by side, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A table with a line under its heads; the first ``left`` columns begin on the left, all others
    end on the right.

    >>> print(text_table(["kernel", "calls"], [["relu.fwd", "12"]], left=1))
    kernel    calls
    --------  -----
    relu.fwd     12
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )

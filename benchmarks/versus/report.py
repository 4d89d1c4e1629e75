"""The rows of ``vs_pytorch.csv`` as a table in the terminal, in Markdown, and as a figure."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.files import write_atomic
from minires.report import figures

if TYPE_CHECKING:
    from versus.works import Result, Work

COLUMNS = (
    "date",
    "commit",
    "minires",
    "python",
    "numpy",
    "numba",
    "torch",
    "platform",
    "cpu",
    "threads",
    "load",
    "work",
    "title",
    "quantity",
    "must",
    "goal",
    "value",
    "p20",
    "p80",
    "rounds",
    "mine",
    "theirs",
    "unit",
    "layout",
    "error",
)
GPU_COLUMNS = (
    *COLUMNS,
    *("gpu", "driver", "cuda_of_driver", "cuda_of_cupy", "cupy", "cuda_of_torch", "cudnn"),
)  # of vs_pytorch_gpu.csv
HEADINGS = ("work", "must", "goal", "median", "p20-p80", "minires", "PyTorch")
COLOURS = {"goal": "#0072b2", "must": "#56b4e9", "missed": "#d55e00"}

Row = dict[str, str]


def row(work: Work, result: Result, environment: dict[str, Any]) -> Row:
    """One line of the CSV file."""
    facts = {name: str(environment[name] or "") for name in GPU_COLUMNS if name in environment}
    return {
        **facts,
        "work": work.name,
        "title": work.title,
        "quantity": work.quantity,
        "must": f"{work.must:g}",
        "goal": f"{work.goal:g}",
        "value": f"{result.value():.4g}",
        "p20": f"{result.value(20):.4g}",
        "p80": f"{result.value(80):.4g}",
        "rounds": str(len(result.values)),
        "mine": f"{result.mine:.4g}",
        "theirs": f"{result.theirs:.4g}",
        "unit": result.unit,
        "layout": result.layout,
        "error": result.error,
    }


def verdict(row: Row) -> str:
    """Which figure a row reaches: "goal", "must", or none, "missed"."""
    value, must, goal = (float(row[name]) for name in ("value", "must", "goal"))
    if row["quantity"] == "of copy":  # the only one of which more is better
        value, must, goal = -value, -must, -goal
    return "goal" if value <= goal else "must" if value <= must else "missed"


def newest(path: Path) -> list[Row]:
    """The newest row of each work in the file, in the order of the table where it is known."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = {line["work"]: line for line in csv.DictReader(file)}
    from versus import gpu
    from versus.works import works

    order = {name: place for place, name in enumerate([*works(), *gpu.works()])}
    return sorted(rows.values(), key=lambda line: order.get(line["work"], len(order)))


def cells(row: Row) -> tuple[str, ...]:
    """A row as shown, under :data:`HEADINGS`."""
    share = row["quantity"] in ("of copy", "of time")

    def number(text: str, digits: int = 2) -> str:
        return f"{100 * float(text):.0f} %" if share else f"{float(text):.{digits}f}"

    spread = f"{number(row['p20'])}-{number(row['p80'])}".replace(" %-", "-")
    mine, theirs = (f"{float(row[side]):.3g} {row['unit']}" for side in ("mine", "theirs"))
    if row["quantity"] == "of time":
        mine, theirs = f"{mine} of {theirs}", ""
    elif row["quantity"] == "of copy":
        theirs = f"copy {theirs}"
    elif "memory" in row["quantity"]:
        spread = ""
    shown = (number(row["must"]), number(row["goal"]), number(row["value"], 3), spread)
    return (row["title"], *shown, mine, theirs)


def table(rows: Iterable[Row]) -> Any:
    """For the terminal: green reaches the goal, red misses what must be reached."""
    from rich.table import Table

    styles = {"goal": "green", "must": "", "missed": "red"}
    result = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        left = heading == HEADINGS[0]
        result.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for line in rows:
        result.add_row(*cells(line), style=styles[verdict(line)])
    return result


def caption(rows: Sequence[Row]) -> tuple[str, str]:
    """What the rows were measured with: minires and its commits, which may be many; the rest."""
    last = max(rows, key=lambda line: line["date"])
    commits = sorted({_short(line["commit"]) for line in rows})
    rounds = sorted({int(line["rounds"]) for line in rows if "memory" not in line["quantity"]})
    spread = f"{rounds[0]}-{rounds[-1]}" if len(rounds) > 1 else "".join(map(str, rounds))
    return (
        f"minires {last['minires']} (commit {', '.join(commits)})",
        f"PyTorch {last['torch']}, Python {last['python']}, NumPy {last['numpy']}, "
        f"Numba {last['numba']}; {_machine(last)}; "
        f"{spread or 'no'} rounds",
    )


def _machine(line: Row) -> str:
    if "gpu" not in line:
        return f"{line['cpu']}, {line['threads']} threads each"
    return (
        f"{line['gpu']}, driver {line['driver']} (CUDA {line['cuda_of_driver']}), CuPy "
        f"{line['cupy']} (CUDA {line['cuda_of_cupy']}), cuDNN {line['cudnn']} (CUDA "
        f"{line['cuda_of_torch']})"
    )


def _short(commit: str) -> str:
    """The first digits of a commit; a + stays, which says that files were changed."""
    return commit[:7] + "+" * commit.endswith("+") if commit else "unknown"


def markdown(path: Path) -> str:
    """The newest rows as Markdown, with the figure if there is one; **bold** misses its must."""
    rows = newest(path)
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1))]
    for line in rows:
        title, must, goal, value, *rest = cells(line)
        bold = f"**{value}**" if verdict(line) == "missed" else value
        lines.append((title, must, goal, bold, *rest))
    newest_date = max(line["date"] for line in rows)[:10]
    parts = [f"**{path.stem}**, {newest_date}: {', '.join(caption(rows))}."]
    if path.with_suffix(".png").exists():
        parts.append(f"![Time of minires over that of PyTorch](results/{path.stem}.png)")
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


@figures.styled
def figure(rows: Sequence[Row]) -> Any:
    """Bars of the ratios of nets, and beside them the convolutions', with must and goal."""
    from matplotlib.figure import Figure

    ratios = [line for line in rows if line["quantity"].endswith("PyTorch's")]
    panels = [
        ("Nets and tensors", [line for line in ratios if not line["work"].startswith("conv-")]),
        ("Convolutions", [line for line in ratios if line["work"].startswith("conv-")]),
    ]
    panels = [panel for panel in panels if panel[1]]
    longest = max(len(lines) for _, lines in panels)
    result = Figure(figsize=(8.4 * len(panels), 1.9 + 0.2 * longest), layout=figures.layout())
    axes = result.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels):
        for place, line in enumerate(lines):
            value, low, high = (float(line[name]) for name in ("value", "p20", "p80"))
            axis.barh(place, value, height=0.66, color=COLOURS[verdict(line)])
            axis.plot([low, high], [place] * 2, color=figures.INK, lw=1)
            for name, dashes in (("must", "-"), ("goal", ":")):
                at = float(line[name])
                axis.plot([at] * 2, [place - 0.45, place + 0.45], dashes, color=figures.INK, lw=1.6)
        axis.set_yticks(range(len(lines)), [line["title"] for line in lines], fontsize=7.5)
        axis.set_ylim(longest - 0.4, -0.6)
        far = max(float(line[name]) for line in lines for name in ("must", "value", "p80"))
        axis.set_xlim(0, max(1.1, 1.05 * far))
        axis.axvline(1, color=figures.GREY, lw=0.8)
        axis.grid(axis="y", visible=False)
        axis.set_title(title)
        axis.set_xlabel("minires / PyTorch, time or memory")
    names = {"goal": "reaches the goal", "must": "reaches the must", "missed": "misses it"}
    keys = [figures.key(names[name], color=colour, lw=6) for name, colour in COLOURS.items()]
    keys += [figures.key("must", color=figures.INK, lw=1.6)]
    keys += [figures.key("goal", color=figures.INK, lw=1.6, ls=":")]
    figures.heading(result, "minires against PyTorch: less is better", list(caption(rows)))
    figures.legend(result, keys, per_row=5)
    return result


def draw(path: Path) -> Path:
    """Draw the newest rows of a CSV file beside it."""
    target = path.with_suffix(".png")
    write_atomic(target, figures.to_bytes(figure(newest(path)), "png"))
    return target

"""An all-reduce by a ring, turn by turn, as a picture: ``docs/images/ring.png``.

p workers have p parts each. In every turn, each sends one part to its right neighbour: in the first
p - 1 turns the neighbour adds it to its own, so that each worker ends with the whole sum of one
part (*reduce-scatter*); in p - 1 more turns the sums are handed round (*all-gather*).

``python benchmarks/ring.py`` prints the turns, ``--write`` draws the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.files import write_atomic
from minires.report import figures

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "ring.png"
WORKERS = 4

# State: of each worker, for each part, who is in its sum.
State = list[list[frozenset[int]]]


def turns(workers: int) -> list[State]:
    """What all workers have at first, and after each turn."""
    state: State = [[frozenset({worker})] * workers for worker in range(workers)]
    states = [state]
    for turn in range(2 * (workers - 1)):
        after = [list(parts) for parts in state]
        for worker in range(workers):
            part = sent(worker, turn, workers)
            there = (worker + 1) % workers
            own = state[there][part] if turn < workers - 1 else frozenset()
            after[there][part] = own | state[worker][part]
        state = after
        states.append(state)
    return states


def sent(worker: int, turn: int, workers: int) -> int:
    """The part that a worker sends in a turn: its own one first, then the one it got before."""
    return (worker - turn) % workers


def letters(who: frozenset[int]) -> str:
    """``ABD`` for the workers 0, 1 and 3."""
    return "".join(chr(ord("A") + worker) for worker in sorted(who))


def text(workers: int) -> str:
    """The turns as text: a line for each worker."""
    lines = []
    for turn, state in enumerate(turns(workers)):
        lines.append(f"after turn {turn}" if turn else "at first")
        for worker, parts in enumerate(state):
            row = "  ".join(letters(part).ljust(workers) for part in parts)
            lines.append(f"  {letters(frozenset({worker}))}  {row}".rstrip())
    return "\n".join(lines)


@figures.styled
def figure(workers: int = WORKERS) -> Any:
    """The turns as panels: those that add in the first row, those that hand round in the second."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    states = turns(workers)
    result = Figure(figsize=(1.7 * workers, 4.6), layout=figures.layout())
    panels = result.subplots(2, workers)
    blue, vermillion = figures.KIND_COLOURS["residual"], figures.KIND_COLOURS["plain"]
    for place, axes in enumerate(panels.flat):
        row, column = divmod(place, workers)
        turn = column + row * (workers - 1)  # the second row begins where the first one ends
        axes.set_title("at first" if not turn else f"turn {turn}", fontsize=9)
        axes.set(xlim=(0, workers), ylim=(workers, 0), aspect="equal")
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks(
            [worker + 0.5 for worker in range(workers)],
            [letters(frozenset({worker})) for worker in range(workers)],
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for worker in range(workers):
            for part, who in enumerate(states[turn][worker]):
                strength = 0.08 + 0.5 * (len(who) - 1) / (workers - 1)
                axes.add_patch(Rectangle((part, worker), 1, 1, color=blue, alpha=strength, lw=0))
                middle = {"ha": "center", "va": "center"}
                axes.text(part + 0.5, worker + 0.5, letters(who), fontsize=6.5, **middle)
            if turn and (row == 0 or column):
                got = sent((worker - 1) % workers, turn - 1, workers)
                edge = {"fill": False, "edgecolor": vermillion, "lw": 1.4}
                axes.add_patch(Rectangle((got + 0.04, worker + 0.04), 0.92, 0.92, **edge))
    notes = [
        f"{workers} workers, a row each; letters: whose numbers are in the sum; framed: just come",
        "above: parts are added up (reduce-scatter); below: sums are handed round (all-gather)",
    ]
    figures.heading(result, "All-reduce by a ring", notes)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/ring.py --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="draw docs/images/ring.png")
    if parser.parse_args(arguments).write:
        write_atomic(FIGURE, figures.to_bytes(figure(), "png"))
    else:
        print(text(WORKERS))


if __name__ == "__main__":
    main()

"""``minires evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minires.cli.app import app, as_path_option, command_line, folder_option
from minires.console import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from minires.train.evaluation import Evaluation

PAGE, NUMBERS = "evaluation.html", "evaluation.json"
MOST_CLASSES = 30  # that the terminal lists; the page has all


@app.command(epilog="Example: [bold]minires evaluate runs/resnet18-my_pictures[/bold]")
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a run of minires train.", parser=as_path_option, metavar="RUN"
        ),
    ],
    data: Annotated[
        Path | None, folder_option("Other pictures: a folder with a folder for each class.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Or the test images of a data set, such as cifar10.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that are damaged.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
) -> None:
    """Say how well the network of a run tells classes apart, and where it fails.

    Without options it is given the images that the run itself was tested with.
    Prints accuracy with its 95 % interval, each class, the most frequent
    confusions and the calibration; writes all of it with figures and the most
    confident mistakes, as pictures, into evaluation.html, and every number into
    evaluation.json, both in the run's folder.
    """
    from minires import environment
    from minires.console import ReadingDisplay
    from minires.device import existing
    from minires.files import check_writable, write_atomic, write_json_atomic
    from minires.kernels.numba import compiler
    from minires.train import evaluation_page
    from minires.train.evaluation import evaluate_run

    folder = run if run.is_dir() else run.parent
    place = existing(device)
    with ReadingDisplay(console) as display, compiler.listening(display.kernel):
        found = evaluate_run(
            run,
            data,
            dataset,
            device=place,
            skip_unreadable=skip_unreadable,
            reading=display.picture,
            watch=lambda done, total: display.picture(done, total, "evaluating"),
        )
    check_writable(folder / PAGE)
    write_json_atomic(folder / NUMBERS, found.to_json())
    facts = environment.describe(place)
    write_atomic(folder / PAGE, evaluation_page.html(found, facts, command_line()))
    _print(found)
    say(f"\nPage: {folder / PAGE}")


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def _print(found: Evaluation) -> None:
    low, high = found.interval()
    say(
        f"{found.facts.model} on {found.images.name}, {found.images.split} part, "
        f"{len(found.right):,} images: accuracy {_percent(found.accuracy)}, "
        f"95 % interval {_percent(low)} to {_percent(high)}"
    )
    say(
        f"Cross entropy {found.loss:.4f}, expected calibration error "
        f"{found.calibration_error:.4f}\n"
    )
    console.print(_classes(found))
    pairs = found.confusions(5)
    if pairs:
        say("\nMost frequent confusions:")
        for of, taken_for, count, images in pairs:
            say(f"  {of} taken for {taken_for}: {count:,} of {images:,}")


def _classes(found: Evaluation) -> Table:
    """Images, recall and precision of each class; of many, of those with the lowest recall."""
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    from minires.errors import printable

    table = Table(box=HORIZONTALS, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("class", overflow="fold")
    for heading in ("images", "recall", "precision"):
        table.add_column(heading, justify="right", no_wrap=True)
    classes = found.classes()
    if len(classes) > MOST_CLASSES:
        classes = sorted(classes, key=lambda c: 1 if c.recall is None else c.recall)[:MOST_CLASSES]
        table.title = f"The {MOST_CLASSES} classes of the lowest recall"
    for c in classes:
        name = Text(printable(c.name))
        table.add_row(name, f"{c.images:,}", _percent(c.recall), _percent(c.precision))
    return table

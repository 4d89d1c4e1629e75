"""``minires predict``."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from minires.cli.app import app, as_path_option
from minires.console import console, errors, say
from minires.errors import DataError, message, printable

if TYPE_CHECKING:
    from rich.table import Table

    from minires.train.trained import Trained

BATCH = 64  # pictures that are opened at once
BAR = 30  # characters of a bar for 100 %
AS_IT_IS: Any = {"emoji": False, "highlight": False, "soft_wrap": True}


@app.command(epilog="Example: [bold]minires predict runs/resnet18-my_pictures new.jpg[/bold]")
def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a run of minires train.", parser=as_path_option, metavar="RUN"
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures, or folders of them.", parser=as_path_option, metavar="IMAGE..."
        ),
    ],
    top: Annotated[int, typer.Option(help="Show so many classes of each.", min=1)] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, an object for each picture.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
) -> None:
    """Say what is on pictures, with the network of a run.

    Pictures are cut and scaled as those that it was trained on. One that cannot
    be read is named, the others are answered, and the exit code is 1.
    """
    from minires.console import ReadingDisplay
    from minires.kernels.numba import compiler
    from minires.train.trained import load_run

    trained = load_run(run, device)
    wanted = [found for given in images for found in _expanded(given)]
    answers: list[dict[str, Any]] = []
    # what goes on beside the answers must not stand among the JSON
    with ReadingDisplay(errors) as display, compiler.listening(display.kernel):
        for start in range(0, len(wanted), BATCH):
            answers += _answers(trained, wanted[start : start + BATCH], top)
            display.picture(len(answers), len(wanted), "looking at pictures")
    for answer in answers:
        if "error" in answer:
            errors.print(f"[bold red]error:[/bold red] {escape(answer['error'])}", **AS_IT_IS)
        elif not as_json:
            say(printable(answer["picture"], 4096))
            console.print(_bars(answer["classes"]))
    if as_json:
        typer.echo("[\n" + ",\n".join(map(json.dumps, answers)) + "\n]")
    if any("error" in answer for answer in answers):
        raise SystemExit(1)


def _expanded(given: Path) -> list[tuple[Path, str]]:
    """The pictures that an argument stands for: a file, those in a folder, or those that fit a
    pattern which the shell left as it was. If there are none, the argument and what is wrong."""
    from minires.vision.datasets.folder import IMG_EXTENSIONS

    if given.is_dir():
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
        expected = f"pictures, which end in {', '.join(IMG_EXTENSIONS)}"
        return [(path, "") for path in inside] or [(given, message(str(given), expected, "none"))]
    if not given.exists() and glob.has_magic(str(given)):
        fitting = sorted(Path(name) for name in glob.glob(str(given), recursive=True))
        if not fitting:
            return [(given, message(str(given), "files of this pattern", "none"))]
        return [found for path in fitting for found in _expanded(path)]
    return [(given, "")]


def _answers(trained: Trained, wanted: list[tuple[Path, str]], top: int) -> list[dict[str, Any]]:
    """What is said of each picture; of one that cannot be read, why."""
    from minires.vision.datasets import open_picture

    answers: list[dict[str, Any]] = []
    opened, seen = [], []
    for path, wrong in wanted:
        answer: dict[str, Any] = {"picture": str(path)}
        try:
            if wrong:
                raise DataError(wrong)
            opened.append(open_picture(path))
            seen.append(answer)
        except DataError as error:
            answer["error"] = str(error)
        answers.append(answer)
    for answer, probabilities in zip(seen, trained.predict(opened), strict=True):
        order = (-probabilities).argsort(kind="stable")[:top]
        answer["classes"] = [
            {"class": trained.facts.classes[k], "probability": float(probabilities[k])}
            for k in order
        ]
    return answers


def _bars(classes: list[dict[str, Any]]) -> Table:
    """A line for each class: its name, a bar, its probability."""
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(width=2)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
    table.add_column(width=min(BAR, max(console.width - 50, 8)))
    table.add_column(justify="right", no_wrap=True)
    for number, c in enumerate(classes):
        style = "bold" if number == 0 else ""
        bar = Bar(1.0, 0.0, c["probability"], color="blue")
        name, share = Text(printable(c["class"]), style), f"{100 * c['probability']:.1f} %"
        table.add_row("", name, bar, Text(share, style))
    return table

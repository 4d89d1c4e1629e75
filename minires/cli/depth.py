"""``minires depth``: the study."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minires.console import console, fail, say, stopped
from minires.errors import (
    ArgumentError,
    message,
    quoted,
    unknown,
)

if TYPE_CHECKING:
    pass


from minires.cli.app import app, command_line, folder_option


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """``"8,20"`` as (8, 20)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(
            message(f"--{option}", "integers separated by commas", quoted(text), fix="As in 8,20.")
        ) from None


def _kinds(text: str) -> tuple[str, ...]:
    """``"plain,residual"`` as a tuple; ``"both"`` is these two."""
    from minires.study.runner import KINDS

    return KINDS if text.strip() == "both" else tuple(kind.strip() for kind in text.split(","))


@app.command(epilog="Example: [bold]minires depth --dataset fashion-mnist --depths 20,56[/bold]")
def depth(
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, fashion-mnist or cifar10 (default: digits).")
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Depths 6n+2, separated by commas (default: 8,20,32,56).")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(help="plain, residual or both (default: both).")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="One run per seed, separated by commas (default: 0).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs per network (default: by protocol).")
    ] = None,
    shortcut: Annotated[
        str | None, typer.Option(help="A (zero-padded identity) or B (projection) (default: A).")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="quick, or paper (He et al. 2015, Sec. 4.2) (default: quick)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Train on the first N images only.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0 (default: cpu).")] = None,
    out: Annotated[
        Path | None, folder_option("Folder for the results (default: runs/depth-<date>).")
    ] = None,
    lang: Annotated[
        str | None,
        typer.Option(help="Language of table, figures and report: en or vi (default: en)."),
    ] = None,
    resume: Annotated[Path | None, folder_option("Continue the study in this folder.")] = None,
) -> None:
    """Train plain and residual networks of several depths with one recipe, and compare them.

    Without options: 8, 20, 32 and 56 layers on the embedded digits. On two idle
    cores it takes about half a minute, and about a minute the first time, when
    kernels are compiled. Writes results.json, results.csv, figures (PNG and SVG)
    and report.html. The running training error is counted during an epoch, in
    training mode; the final one after the last epoch, in evaluation mode.
    """
    from minires.console import StudyDisplay
    from minires.kernels.numba import compiler
    from minires.study import PROTOCOLS, StudyConfig, resume_study, run_study, words
    from minires.study.tables import print_table

    given: dict[str, Any] = {
        "dataset": dataset,
        "depths": None if depths is None else _numbers("depths", depths),
        "kinds": None if kinds is None else _kinds(kinds),
        "seeds": None if seeds is None else _numbers("seeds", seeds),
        "shortcut": shortcut,
        "limit": limit,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if dataset is not None:
        from minires.data import find_source

        given["dataset"] = find_source(dataset).name
    if protocol is not None and protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    display = StudyDisplay(console)
    try:
        with display, compiler.listening(display.kernel):
            if resume is not None:
                if out is not None and out.resolve() != resume.resolve():
                    raise ArgumentError("--out and --resume name different folders; give one.")
                expect = dict(given)
                if protocol is not None:
                    expect["protocol"] = protocol
                if epochs is not None:
                    expect["epochs"] = epochs
                results, folder = resume_study(
                    resume, expect=expect, progress=display, device=device, lang=lang
                )
            else:
                recipe = PROTOCOLS[protocol or "quick"].with_epochs(epochs)
                config = StudyConfig(**given, protocol=recipe)
                results, folder = run_study(
                    config,
                    out,
                    command=command_line(),
                    progress=display,
                    device=device or "cpu",
                    lang=lang or "en",
                )
    except KeyboardInterrupt:
        begun = display.folder
        if begun is not None and (begun / "results.json").exists():
            advice = f"Go on with: {shlex.join(_resume_command(begun))}"
        else:
            advice = "Nothing was saved yet: run the same command again."
        stopped(advice)
    print_table(results, console)
    say("\n" + words.of(results)("report", path=folder / "report.html"))
    if any("diverged" in run for run in results["runs"]):
        fail("not every network could be trained to the end; see the notes above.")


def _resume_command(folder: Path) -> list[str]:
    """The same command with ``--resume``."""
    arguments, skip = [], False
    for argument in sys.argv[1:]:
        if skip:
            skip = False
        elif argument in ("--out", "--resume"):
            skip = True
        elif not argument.startswith(("--out=", "--resume=")):
            arguments.append(argument)
    return ["minires", *arguments, "--resume", str(folder)]

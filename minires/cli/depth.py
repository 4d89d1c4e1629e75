"""``minires depth``: the study."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minires.console import console, fail, say, stopped
from minires.distributed import current_group
from minires.errors import (
    ArgumentError,
    message,
    quoted,
    unknown,
)

if TYPE_CHECKING:
    pass


from minires.cli.app import app, as_path_option, command_line, folder_option


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
    from minires.study.tables import KINDS

    return KINDS if text.strip() == "both" else tuple(kind.strip() for kind in text.split(","))


def _settings(path: Path) -> dict[str, Any]:
    """The settings in a file, as the options give them."""
    from minires.study.stored import SETTINGS
    from minires.train.settings import read_settings

    values = read_settings(path, SETTINGS, "depth --config")
    lists = ("depths", "kinds", "seeds", "augment")
    return {name: tuple(v) if name in lists else v for name, v in values.items()}


_PART = " (default: by protocol)."


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
    batch_size: Annotated[int | None, typer.Option(help=f"Images per step{_PART}")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help=f"sgd, adam, adamw or rmsprop{_PART}")
    ] = None,
    lr: Annotated[float | None, typer.Option(help=f"Peak learning rate{_PART}")] = None,
    momentum: Annotated[float | None, typer.Option(help=f"Of sgd or rmsprop{_PART}")] = None,
    weight_decay: Annotated[float | None, typer.Option(help=f"Of all weights{_PART}")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help=f"cosine, steps, constant, linear, exponential or one-cycle{_PART}"),
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help=f"Epochs in which the rate rises to its peak{_PART}")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help=f"Share of the uniform distribution in the targets{_PART}")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help=f"Of crop, flip, resized-crop, rotate, color, erase, with commas{_PART}"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings in a TOML file; options here come first.",
            parser=as_path_option,
            metavar="FILE",
        ),
    ] = None,
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
    Options of the recipe replace parts of the protocol, for all networks alike.
    """
    from minires.console import StudyDisplay
    from minires.data import find_source
    from minires.kernels.numba import compiler
    from minires.study import PROTOCOLS, StudyConfig, resume_study, run_study, words
    from minires.study.protocols import RECIPE
    from minires.study.tables import print_table
    from minires.train.recipe import augmentations

    given: dict[str, Any] = {
        "dataset": dataset,
        "depths": None if depths is None else _numbers("depths", depths),
        "kinds": None if kinds is None else _kinds(kinds),
        "seeds": None if seeds is None else _numbers("seeds", seeds),
        "shortcut": shortcut,
        "limit": limit,
        "protocol": protocol,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_epochs": warmup_epochs,
        "label_smoothing": label_smoothing,
        "augment": None if augment is None else augmentations(augment),
        "device": device,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if config is not None:
        given = {**_settings(config), **given}
    device, protocol = given.pop("device", None), given.pop("protocol", None)
    epochs = given.pop("epochs", None)
    parts = {name: given.pop(name) for name in RECIPE if name in given}
    if "dataset" in given:
        given["dataset"] = find_source(given["dataset"]).name
    if protocol is not None and protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    display = StudyDisplay(console)
    try:
        with display, compiler.listening(display.kernel):
            if resume is not None:
                if out is not None and out.resolve() != resume.resolve():
                    raise ArgumentError("--out and --resume name different folders; give one.")
                expect = {**given, **parts}
                if protocol is not None:
                    expect["protocol"] = protocol
                if epochs is not None:
                    expect["epochs"] = epochs
                results, folder = resume_study(
                    resume, expect=expect, progress=display, device=device, lang=lang
                )
            else:
                recipe = PROTOCOLS[protocol or "quick"].with_epochs(epochs).with_recipe(**parts)
                study = StudyConfig(**given, protocol=recipe)
                results, folder = run_study(
                    study,
                    out,
                    command=command_line(),
                    progress=display,
                    device=device or "cpu",
                    lang=lang or "en",
                )
    except KeyboardInterrupt:
        begun = display.folder or resume
        if begun is None and current_group().rank > 0:
            advice = ""  # rank 0 alone knows the folder, and has named it
        elif begun is not None and (begun / "results.json").exists():
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

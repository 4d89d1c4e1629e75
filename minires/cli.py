"""The ``minires`` command."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from minires.console import console, fail, messages, say, stopped
from minires.errors import (
    ArgumentError,
    DataError,
    message,
    quoted,
    unknown,
)
from minires.starting import release
from minires.streams import printable, steady

if TYPE_CHECKING:
    from minires.selfcheck import Result


class _Commands(TyperGroup):
    """Commands that Ctrl-C ends in one line, in whatever they are doing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            release()  # what comes before, Typer's reading of all commands too, just stops
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stopped()


app = typer.Typer(
    cls=_Commands,
    help="Residual networks from scratch: the plain-versus-residual study, training, data, proofs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: list them, download them.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every deliberate error becomes one message and exit code 1."""
    with steady() as out:
        try:
            with messages():
                app(arguments, prog_name="minires")
        except SystemExit as stop:
            out.flush()
            if stop.code or out.failed is None or isinstance(out.failed, BrokenPipeError):
                raise
        fail(f"standard output cannot be written ({out.failed}). All else was done.")


def _show_version(wanted: bool) -> None:
    if wanted:
        from minires import __version__

        say(f"minires {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def _path(text: str) -> Path:
    """A path that a user gave, checked for what no system takes in one."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not encoded or b"\0" in encoded:
        raise typer.BadParameter("a path cannot be empty, and has no NUL and no lone surrogates.")
    return Path(text)


def _folder(text: str) -> Any:
    return typer.Option(help=text, parser=_path, metavar="FOLDER")


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


def _command() -> str:
    return shlex.join(["minires", *map(printable, sys.argv[1:])])


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
        Path | None, _folder("Folder for the results (default: runs/depth-<date>).")
    ] = None,
    resume: Annotated[Path | None, _folder("Continue the study in this folder.")] = None,
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
    from minires.study import PROTOCOLS, StudyConfig, resume_study, run_study
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
                    resume, expect=expect, progress=display, device=device
                )
            else:
                recipe = PROTOCOLS[protocol or "quick"].with_epochs(epochs)
                config = StudyConfig(**given, protocol=recipe)
                results, folder = run_study(
                    config, out, command=_command(), progress=display, device=device or "cpu"
                )
    except KeyboardInterrupt:
        begun = display.folder
        if begun is not None and (begun / "results.json").exists():
            advice = f"Go on with: {shlex.join(_resume_command(begun))}"
        else:
            advice = "Nothing was saved yet: run the same command again."
        stopped(advice)
    print_table(results, console)
    say(f"\nReport: {folder / 'report.html'}")
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


@app.command(epilog="Example: [bold]minires train resnet18 --data my_pictures --epochs 20[/bold]")
def train(
    model: Annotated[str, typer.Argument(help="A name from the zoo: see --list.")] = "",
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, fashion-mnist or cifar10 (default: digits).")
    ] = None,
    data: Annotated[
        Path | None, _folder("Your own pictures: a folder with a folder for each class.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width of your pictures (default: at most 64).")
    ] = None,
    skip_unreadable: Annotated[
        bool | None, typer.Option("--skip-unreadable", help="Leave out pictures that are damaged.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Share of the training images held out to choose the best weights by."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Number of epochs, those before a resume included.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or rmsprop.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay; biases and batch norm have none.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="cosine, steps, constant, linear, exponential, one-cycle or plateau."),
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Epochs in which the rate rises to its peak.")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of the uniform distribution in the targets.")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the weights, such as 0.99.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without progress.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="Of crop, flip, resized-crop, rotate, color, erase, with commas."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Train on the first N images.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order, augmentation, and what is held out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings in a TOML file, such as a run's run.toml; options here come first.",
            parser=_path,
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None, _folder("Folder for the results (default: runs/<model>-<dataset>).")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from the checkpoint in the folder.")
    ] = False,
    list_names: Annotated[bool, typer.Option("--list", help="List the zoo and stop.")] = False,
) -> None:
    """Train one network, keep its best weights, and test them once.

    Without options: 10 epochs of SGD on the embedded digits, learning rate 0.1
    along a cosine, momentum 0.9, weight decay 1e-4, batches of 128; a tenth of
    the training images is held out for validation. Writes best.safetensors, for
    "minires predict" and "minires evaluate"; a checkpoint after every epoch,
    history.csv, the settings (run.toml) and result.json. After a stop at any
    moment the same command with --resume goes on, and ends with the same numbers
    (up to rounding, if on another device).
    """
    from minires import models
    from minires.console import ReadingDisplay, TrainingDisplay
    from minires.kernels.numba import compiler
    from minires.train.job import TrainingJob

    if list_names:
        say("\n".join(models.list_models()))
        return
    options: dict[str, Any] = {
        "model": model or None,
        "dataset": dataset,
        "data": None if data is None else str(data),
        "image_size": image_size,
        "skip_unreadable": skip_unreadable,
        "validation": validation,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_epochs": warmup_epochs,
        "label_smoothing": label_smoothing,
        "ema": ema,
        "patience": patience,
        "augment": None if augment is None else tuple(augment.split(",")),
        "limit": limit,
        "seed": seed,
        "device": device,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if config is not None:
        job = TrainingJob.from_file(config, given)
    elif model:
        job = TrainingJob(**given)
    else:
        raise ArgumentError("train: expected the name of a network, got none. See --list.")
    folder = out or Path("runs") / job.default_name()
    with ReadingDisplay(console) as reading:
        prepared = job.prepare(folder, resume, watch=reading.picture)
    say(prepared.summary())
    try:
        display = TrainingDisplay(console, job.model, job.epochs, prepared.batches)
        with display, compiler.listening(display.kernel):
            display.skip(prepared.epochs_done)
            prepared.run(on_epoch=display.epoch, watch=display.batch)
    except KeyboardInterrupt:
        stopped("The same command with --resume goes on.")
    say(prepared.outcome())


@app.command(epilog="Example: [bold]minires warmup resnet50[/bold]")
def warmup(
    model: Annotated[
        str, typer.Argument(help="A name from the zoo: see minires train --list.")
    ] = "cifar_resnet20",
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
) -> None:
    """Compile the kernels of a network now, so that its first training step need not wait.

    Compiled kernels are kept on disk, for this CPU or GPU and this version of
    minires. Other networks with the same kinds of layers need no further kernels
    on a CPU; on a GPU, layers of other sizes may. Those for a GPU are compiled on
    all cores, and kept by CuPy.
    """
    import time

    from minires.console import WarmUpDisplay
    from minires.device import existing
    from minires.kernels.numba import compiler
    from minires.train import ahead
    from minires.train.warmup import PASSES, compile_kernels, passes

    start, place, ready = time.perf_counter(), existing(device), 0
    with WarmUpDisplay(console, PASSES) as display, compiler.listening(display.kernel):
        if place.type == "cuda":
            ready = compile_kernels(model, place, display.ready)
        for done, (name, run) in enumerate(passes(model, place)):
            display.begin(name, done)
            run()
    seconds, count = time.perf_counter() - start, len(display.kernels)
    if place.type == "cuda":
        kept = f"CuPy keeps them in {ahead.kept_in()}"
        say(f"{ready} kernels for {place} are ready after {seconds:.1f} s. {kept}")
        return
    kernels = f"{count} kernel{'s' if count > 1 else ''}"
    done_in = f"Compiled {kernels} in" if count else "All kernels were there already:"
    text = f"{done_in} {seconds:.1f} s. They are kept in {compiler.cache_folder()}"
    say(text)


@app.command(epilog="Example: [bold]minires gradcheck conv2d BasicBlock --n 20[/bold]")
def gradcheck(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Operations, layers and blocks (default: all).", metavar="NAMES"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda:0 (default: every device there is).")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="numpy or numba (default: every backend there is).")
    ] = None,
    n: Annotated[
        int, typer.Option("--n", metavar="CASES", help="Random shapes for each operation.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the values, probes and random shapes.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the results to this file, as a page or as data.",
            parser=_path,
            metavar="FILE.html|json",
        ),
    ] = None,
) -> None:
    """Check the gradients of operations, layers and blocks against numerical derivatives.

    Prints one line for each argument on each backend, and then every error in
    detail. The exit code is 1 if there is an error.
    """
    from minires import selfcheck
    from minires.console import GradcheckDisplay, gradcheck_legend, gradcheck_table
    from minires.files import make_private
    from minires.kernels.numba.compiler import cache_folder
    from minires.selfcheck import page

    if n:  # Hypothesis keeps its notes in the current folder unless told otherwise
        notes = cache_folder().parent / "hypothesis"
        make_private(notes)
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(notes))
    plan = selfcheck.plan(names or (), backend=backend, device=device, draws=n, seed=seed)
    if report is not None:
        page.check_path(report)
    with GradcheckDisplay(console, max(map(len, selfcheck.NAMES))) as display:
        result = plan.run(display)
    console.print(gradcheck_table(result.rows(), console.width))
    console.print()
    console.print(gradcheck_legend(console.width), highlight=False)
    for text in result.first_failures():
        say(f"\n{text}")
    console.print(f"\n{result.summary()}", highlight=False)
    ok = result.ok
    if report is not None:
        ok &= _gradcheck_report(report, result, seed)
    if not ok:
        raise SystemExit(1)


def _gradcheck_report(path: Path, result: Result, seed: int) -> bool:
    """Write the report; whether the identity path of the blocks in it holds."""
    from minires.selfcheck import gallery, page

    blocks = set(gallery.BLOCKS) & {row.name for row in result.rows()}
    identity = None
    if blocks:
        with console.status("proving and drawing the identity path"):
            identity = gallery.hang(blocks, seed)
        for text in identity.failures():
            say(f"\n{text}")
    page.write(path, result, _command(), identity)
    say(f"Report: {path}")
    return identity is None or identity.ok


@data_app.command("list", epilog="Example: [bold]minires data list[/bold]")
def data_list() -> None:
    """List the data sets, and which are on this machine. "minires data get" fetches the others."""
    from rich.table import Table

    from minires import data

    table = Table(title=f"Data sets (looked for in {data.data_root()})", title_justify="left")
    for column in ("name", "here", "image", "classes", "title", "licence"):
        table.add_column(column, no_wrap=column in ("name", "here", "image"))
    for name, source in data.DATASETS.items():
        try:
            data.load(name)
            data.load(name, train=False)
            here = "yes"
        except DataError as error:
            here = "no" if "searched" in str(error) else "damaged"
        shape = " × ".join(map(str, source.shape))
        table.add_row(name, here, shape, str(len(source.classes)), source.title, source.licence)
    console.print(table)


@data_app.command("get", epilog="Example: [bold]minires data get fashion-mnist[/bold]")
def data_get(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist or cifar10.")],
    root: Annotated[
        Path | None, _folder("Folder (default: $MINIRES_DATA or ~/.cache/minires).")
    ] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="Address to download from instead; may be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a silent server.")] = 20.0,
    max_time: Annotated[float, typer.Option(help="Seconds that all of it may take.")] = 3600.0,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Download a data set. An interrupted download continues where it stopped."""
    from minires import data

    folder = data.get(name, root, mirror, progress, timeout=timeout, max_time=max_time)
    say(f"{name} is in {folder}")


@app.command(epilog="Example: [bold]minires info[/bold]")
def info() -> None:
    """Show versions, processor, threads, devices and caches, for a bug report."""
    from minires.console import facts
    from minires.facts import machine

    console.print(facts("minires", machine()), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()

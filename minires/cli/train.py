"""``minires train`` and ``minires warmup``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minires.console import console, say, stopped
from minires.errors import (
    ArgumentError,
)

if TYPE_CHECKING:
    pass


from minires.cli.app import app, as_path_option, folder_option


@app.command(epilog="Example: [bold]minires train resnet18 --data my_pictures --epochs 20[/bold]")
def train(
    model: Annotated[str, typer.Argument(help="A name from the zoo: see --list.")] = "",
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, fashion-mnist or cifar10 (default: digits).")
    ] = None,
    data: Annotated[
        Path | None, folder_option("Your own pictures: a folder with a folder for each class.")
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
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate (default: 0.1 for sgd, 0.001 for others)."),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Of sgd (default: 0.9) or rmsprop (default: 0).")
    ] = None,
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
    sync_bn: Annotated[
        bool | None,
        typer.Option("--sync-bn", help="With several ranks: batch norms see the whole batch."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings in a TOML file, such as a run's run.toml; options here come first.",
            parser=as_path_option,
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None, folder_option("Folder for the results (default: runs/<model>-<dataset>).")
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
    (up to rounding, if on another device, or another number of ranks).

    "mpiexec -n 4 minires train ..." trains one network on four ranks, with the
    same global batch and recipe.
    """
    from minires import models
    from minires.console import ReadingDisplay
    from minires.distributed import current_group
    from minires.kernels.numba import compiler
    from minires.train.job import TrainingJob
    from minires.train.terminal import TerminalDisplay

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
        "sync_bn": sync_bn,
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
    ranks = current_group().size
    if ranks > 1:  # said now, since some launchers kill at Ctrl-C
        say(f"{ranks} ranks train it together. To go on after a stop: the same command, --resume.")
    try:
        display = TerminalDisplay(console, prepared.batches)
        with display, compiler.listening(display.kernel):
            prepared.run(on_epoch=display.epoch, watch=display.batch, callbacks=[display])
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

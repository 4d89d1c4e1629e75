"""``minires data`` and ``minires info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minires.console import console, say
from minires.errors import (
    DataError,
)

if TYPE_CHECKING:
    pass


from minires.cli.app import app, data_app, folder_option


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
        Path | None, folder_option("Folder (default: $MINIRES_DATA or ~/.cache/minires).")
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

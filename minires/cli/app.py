"""The application: its commands' common parts, and how it is run."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from minires.console import fail, messages, say, stopped
from minires.starting import release
from minires.streams import printable, steady

if TYPE_CHECKING:
    pass


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


def as_path_option(text: str) -> Path:
    """A path that a user gave, checked for what no system takes in one."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not encoded or b"\0" in encoded:
        raise typer.BadParameter("a path cannot be empty, and has no NUL and no lone surrogates.")
    return Path(text)


def folder_option(text: str) -> Any:
    return typer.Option(help=text, parser=as_path_option, metavar="FOLDER")


def command_line() -> str:
    return shlex.join(["minires", *map(printable, sys.argv[1:])])

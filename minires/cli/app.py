"""The application: its commands' common parts, and how it is run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minires.console import console, fail, messages, say, stopped
from minires.distributed import current_group
from minires.distributed.exits import end_all, end_by
from minires.distributed.launch import stay_alone, told
from minires.starting import release
from minires.streams import Steady, printable, steady

TOGETHER = ("depth", "train")  # the commands that all ranks take part in


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
    """Run the command line; every deliberate error becomes one message and exit code 1. Of several
    ranks, rank 0 does the talking, and what ends one of them ends all."""
    with steady() as out:
        try:
            with messages():
                if not _takes_part(sys.argv[1:] if arguments is None else arguments):
                    return
                _run(arguments)
        except SystemExit as stop:
            out.flush()
            if stop.code:
                end_all(stop.code if isinstance(stop.code, int) else 1)
            if stop.code or out.failed is None or isinstance(out.failed, BrokenPipeError):
                raise
        except BaseException as error:  # a fault of the command's own
            end_by(error)
            raise
        fail(f"standard output cannot be written ({out.failed}). All else was done.")


def _takes_part(words: Sequence[str]) -> bool:
    """Whether this process has anything to do; of several that a launcher started, rank 0 alone
    has, but for commands that are for all of them.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    rank, size, _ = told()
    if size == 1:
        return True
    if not words or words[0] not in TOGETHER:
        stay_alone()
        return rank == 0
    if rank:
        console.quiet, sys.stdout = True, Steady(None)
    release()
    current_group()  # before options are read, so that an error in them is said once
    return True


def _run(arguments: list[str] | None) -> None:
    if told().rank == 0:
        app(arguments, prog_name="minires")
    try:
        raise SystemExit(app(arguments, prog_name="minires", standalone_mode=False))
    except Exception as error:
        what: Any = error
        if not hasattr(what, "format_message"):
            raise
        fail(what.format_message(), error, what.exit_code)  # what is wrong with options


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

"""``minires gradcheck``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minires.console import console, say

if TYPE_CHECKING:
    from minires.selfcheck import Result


from minires.cli.app import app, as_path_option, command_line


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
            parser=as_path_option,
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
    page.write(path, result, command_line(), identity)
    say(f"Report: {path}")
    return identity is None or identity.ok

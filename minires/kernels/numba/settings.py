"""Numba reads its settings from the environment when it is imported: refuse what it cannot take.

Imported before Numba by whatever imports Numba first.
"""

from __future__ import annotations

import os

from ...errors import ArgumentError, message, quoted

MOST_THREADS = 4096  # more than any machine has cores: a slip of the fingers


def _import_numba() -> None:
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not _is_number_of_threads(threads):
        expected = f"a whole number of threads, from 1 to {MOST_THREADS}"
        fix = "Set it so, or leave it out: then there is a thread for each core."
        raise ArgumentError(message("NUMBA_NUM_THREADS", expected, quoted(threads), fix=fix))
    try:
        import numba  # noqa: F401
    except ValueError as error:
        reason = str(error).splitlines()[0]
        expected = "settings that Numba can take"
        fix = "Look at the environment variables that begin with NUMBA_."
        raise ArgumentError(message("numba", expected, reason, fix=fix)) from error


def _is_number_of_threads(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_THREADS))
    return digits and 1 <= int(text) <= MOST_THREADS


_import_numba()

"""Numba reads its settings from the environment when it is imported: refuse what it cannot take.

Imported before Numba by whatever imports Numba first.
"""

from __future__ import annotations

import os

from ...errors import ArgumentError, message


def _import_numba() -> None:
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.isascii() and threads.isdigit() and int(threads) > 0):
        expected = "a whole number of threads, from 1 on"
        fix = "Set it so, or leave it out: then there is a thread for each core."
        raise ArgumentError(message("NUMBA_NUM_THREADS", expected, repr(threads), fix=fix))
    try:
        import numba  # noqa: F401
    except ValueError as error:
        reason = str(error).splitlines()[0]
        expected = "settings that Numba can take"
        fix = "Look at the environment variables that begin with NUMBA_."
        raise ArgumentError(message("numba", expected, reason, fix=fix)) from error


_import_numba()

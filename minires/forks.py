"""Forks: what a child process needs anew.

The child that ``os.fork()`` makes has one thread and a copy of all memory, locks included: one that
another thread held at that moment would never be released there. So each module that has a lock
gives the child a new one. (To take all locks before a fork would also do, but those of other
libraries, ``logging`` for one, are taken then too, and the orders may not fit.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


def in_children(function: Callable[[], object]) -> None:
    """Call ``function`` in every child process that a fork makes from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def new_lock_in_children(variables: dict[str, Any], name: str) -> None:
    """Have the lock of this name, of a module's ``globals()``, replaced in every child."""
    in_children(lambda: variables.update({name: threading.RLock()}))

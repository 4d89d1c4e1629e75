"""Ranks that end in the way that the first argument names; the others wait for them."""

import os
import signal
import sys
import time

import minires  # noqa: F401 - and nothing else, before some of the errors

way = sys.argv[1]
if way == "a hook of the user's":
    sys.excepthook = lambda kind, error, trace: print(f"hooked: {error}", file=sys.stderr)
if way == "raise before the group begins" and os.environ["PMI_RANK"] == "1":
    raise ValueError("planted")
if way == "raise on all before the group begins":
    raise ValueError("planted")

from minires.distributed import current_group  # noqa: E402
from minires.errors import NaNError  # noqa: E402

group = current_group()


def end_here():
    if way == "raise" or way == "raise while others wait for its object":
        raise ValueError("planted")
    elif way == "exit":
        sys.exit(3)
    elif way == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif way == "interrupt":
        raise KeyboardInterrupt


if way == "a hook of the user's":
    raise ValueError("planted")
if way == "agree":
    group.agree(NaNError("planted") if group.rank == 1 else None)
if way == "work":
    print("at work", flush=True)
    while True:
        group.barrier()
if way == "a step left out":  # of two, by the last rank
    import numpy as np

    from minires.distributed import group as waiting

    waiting.PATIENCE = 0.3  # or the test would have to be as patient
    if group.rank < group.size - 1:
        group.gather(np.zeros(3))
    group.reduce(np.zeros(5))
    group.barrier()
    sys.exit(0)
if group.rank == 1:
    end_here()
if way == "raise while others wait for its object":
    group.broadcast_object(None, 1)
if way == "raise":
    time.sleep(60)  # at work, and in no operation with others
group.barrier()

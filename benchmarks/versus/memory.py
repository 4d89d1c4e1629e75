"""How much memory training takes beyond the libraries and the net, in a process of its own.

``python benchmarks/versus/memory.py minires NAME`` prints, in bytes, the peak of the resident set
during three training steps, less what it was after the libraries were loaded, a small net had been
trained for a step (threads and kernels are then there) and the net was built.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from minires.errors import DeviceError

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def peak(side: str, net: str, layout: str = "NCHW", style: str = "own") -> int:
    """Bytes, measured in a new process.

    Raises:
        DeviceError: the process failed; with the end of what it said.
    """
    arguments = [sys.executable, __file__, side, net, layout, style]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"memory of {net} in {side}: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1])


def _resident() -> int:
    """The peak so far, of this program alone: on Linux, getrusage begins with the resident set of
    the process that started this one, which may be larger than all that is to be measured."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def _measure(side: str, name: str, layout: str = "NCHW", style: str = "own") -> int:
    from versus.steps import NETS, Minires, Net, Torch

    chosen = NETS[name]

    def make(net: Net, batch: int) -> Minires | Torch:
        x, labels = net.images(batch)
        start = net.torch()
        if side == "torch":
            return Torch(start, x, labels, layout)
        return Minires(net.minires(start.state_dict(), style), x, labels, style)

    make(Net("cifar_resnet", {"depth": 8}, (3, 32, 32), 2, 2), 2).train()
    steps = make(chosen, chosen.batch)
    before = _resident()
    for _ in range(3):
        steps.train()
    return _resident() - before


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(_measure(*sys.argv[1:]))

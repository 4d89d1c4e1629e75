"""A process that calls everything public on arrays in memory that the system lets nobody write.

Run as ``python read_only.py NAME ...`` with the names of entries. It answers with a line of JSON
before each entry, and one for each fault: that a raw error came. A kernel that writes into such
memory ends the process, and the last line tells where.
"""

from __future__ import annotations

import inspect
import json
import mmap
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fuzz.calls import ENTRIES, call, following
from fuzz.judge import boxed, fault, used
from fuzz.recipes import images
from fuzz.surface import arguments

import minires as mr
from minires import nn, optim

MOST = 12  # arrays of one call that are read-only one at a time, besides all of them together
LARGE = 60  # arrays of a whole network: all of them together will do
ALL = -1


def protected(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values, in the same order of memory, in a file that is mapped for reading."""
    copy = array.copy(order="K")
    with tempfile.TemporaryFile() as file:
        order = sorted(range(copy.ndim), key=lambda i: -copy.strides[i])
        file.write(copy.transpose(order).tobytes() or b"\0")
        file.flush()
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    return np.ndarray(copy.shape, copy.dtype, memory, strides=copy.strides)


class Freezer:
    """Puts arrays into read-only memory: the one of this number, of all it meets, or all."""

    def __init__(self, number: int) -> None:
        self.number, self.met = number, 0
        self.done: dict[int, Any] = {}  # also keeps them alive, so that no id comes twice

    def array(self, array: Any) -> Any:
        self.met += 1
        return protected(array) if self.number in (ALL, self.met - 1) else array

    def __call__(self, value: Any) -> Any:
        """The value, with arrays in it replaced; tensors and modules stay the objects they are."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return self.array(value)
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(map(self, value))
        if type(value) is dict:
            return {key: self(entry) for key, entry in value.items()}
        if inspect.isgenerator(value):
            return self(list(value))
        if id(value) in self.done:
            return value
        self.done[id(value)] = value
        if isinstance(value, mr.Tensor):
            value._array = self.array(value._array)
            if value.is_leaf and value.grad is not None:
                self(value.grad)
        elif isinstance(value, nn.Module):
            self([*value.parameters(), *value.buffers()])
        elif isinstance(value, optim.Optimizer):
            for group in value.param_groups:
                self(group["params"])
            for state in value.state.values():
                state.update({key: self(entry) for key, entry in state.items()})
        elif type(value).__module__.startswith("minires.data"):
            for key, entry in vars(value).items():
                object.__setattr__(value, key, self(entry))
        return value


def trained(module: nn.Module, inputs: list[Any], freeze: Callable[[Any], Any]) -> None:
    """Forward, backward and a step of a module, and a look at it in evaluation."""
    freeze([module, inputs])
    used(module(*inputs))
    module.eval()
    used(module(*inputs))


def stepped(optimizer: optim.Optimizer, freeze: Callable[[Any], Any]) -> None:
    """Two steps, before the second of which the arrays are put away."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p in params:
        p.grad = mr.ones(*p.shape)
    optimizer.step()
    freeze(optimizer)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def attempt(name: str, options: dict[str, Any], freeze: Freezer) -> None:
    entry = ENTRIES[name]
    if not inspect.isclass(entry.function):
        used(call(entry, options, freeze))
        return
    result = call(entry, options)
    if isinstance(result, nn.Module) and type(result).forward is not nn.Module.forward:
        # where the forward is a base class's, images: other shapes end in an error of ours
        trained(result, following(entry)(result) or [images()], freeze)
    elif isinstance(result, optim.Optimizer):
        stepped(result, freeze)
    else:
        used(call(entry, options, freeze))


def turned(name: str) -> list[dict[str, Any]]:
    """No option; and each flag of an entry turned to what it is not by default."""
    flags = [p for p in arguments(ENTRIES[name]) if isinstance(p.default, bool)]
    return [{}, *({p.name: not p.default} for p in flags)]


def faults(name: str) -> list[str]:
    """What goes wrong with one entry, with each of its arrays read-only, and with all of them."""
    found = []
    for options in turned(name):
        everything = Freezer(ALL)
        wrong = fault(lambda o=options, f=everything: attempt(name, o, f))
        if wrong:
            found.append(f"{options}, all arrays: {wrong}")
        each = min(everything.met, MOST) if 1 < everything.met < LARGE else 0
        for number in range(each):
            wrong = fault(lambda o=options, n=number: attempt(name, o, Freezer(n)))
            if wrong:
                found.append(f"{options}, array {number}: {wrong}")
    return found


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, boxed():
        os.chdir(folder)
        for name in names:
            print(json.dumps({"at": name}), flush=True)
            mr.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for text in faults(name):
                    print(json.dumps({"fault": f"{name}: {text}"}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

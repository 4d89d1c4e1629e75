"""What a run of ``fit`` does with the other ranks, where several processes train together.

:class:`Alone` is the run of one process, in which nothing of this is to be done; :class:`Together`
does it. Both keep the same promise: whoever looks at model, optimiser, history or random state
between two epochs sees the same on all ranks, to the last bit.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minires import cuda, random
from minires.autograd import no_grad
from minires.data import DataLoader
from minires.device import CPU, is_array, move
from minires.distributed import Group, current_group
from minires.distributed.same import broadcast_state, check_same_model, check_same_values
from minires.errors import ArgumentError, DistributedError, message
from minires.nn import Module, SyncBatchNorm
from minires.nn.parallel import DistributedDataParallel
from minires.optim import LRScheduler, Optimizer, ReduceLROnPlateau
from minires.tensor import Tensor, from_numpy
from minires.train.callbacks import Run
from minires.train.shards import is_shard, shared_out
from minires.train.work import Loss, Model, SharedWork, Work
from minires.version import __version__

Schedule = LRScheduler | ReduceLROnPlateau


class Alone:
    """A run of one process, and what it asks of the ranks of any run.

    Args:
        op: begins the text of errors.
        group: the ranks.

    Attributes:
        talks: whether this rank is the one that shows how it goes.
    """

    def __init__(self, op: str, group: Group) -> None:
        self.op, self.group = op, group
        self.talks = group.rank == 0

    def part_of(self, name: str, loader: Iterable[Any], empty: bool = False) -> Iterable[Any]:
        """What this rank has of a loader's batches; with ``empty`` it may have none of some."""
        return loader

    def work(self, model: Model, loss_fn: Loss, optimizer: Optimizer | None, capture: bool) -> Work:
        """The work on the batches of a loader."""
        return Work(self.op, model, loss_fn, optimizer, capture)

    def compare(
        self,
        model: Model,
        optimizer: Optimizer,
        schedule: Schedule | None,
        facts: Mapping[str, Any],
    ) -> None:
        """Refuse ranks that were given different things."""

    def begin(self, models: Iterable[Model], optimizer: Optimizer) -> None:
        """Let all ranks start from what rank 0 has."""

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """While the block lasts, each rank draws numbers of its own, which rank 0's random state
        decides; after it all have the state that rank 0 has then."""
        yield

    def settle(self, models: Iterable[Model]) -> None:
        """Make what each rank gathered by itself one, and look whether all have the same."""

    def agree_to_stop(self, run: Run) -> None:
        """What one rank wants to stop, all stop."""


class Together(Alone):
    """A run of several ranks."""

    def part_of(self, name: str, loader: Iterable[Any], empty: bool = False) -> Iterable[Any]:
        return shared_out(self.op, name, loader, self.group, empty)

    def work(self, model: Model, loss_fn: Loss, optimizer: Optimizer | None, capture: bool) -> Work:
        return SharedWork(self.op, model, loss_fn, optimizer, capture, self.group)

    def compare(
        self,
        model: Model,
        optimizer: Optimizer,
        schedule: Schedule | None,
        facts: Mapping[str, Any],
    ) -> None:
        own = {"minires": __version__, **facts}
        own["optimizer"] = type(optimizer).__name__
        own["number of parameters with optimizer state"] = len(optimizer.state)
        for number, options in enumerate(optimizer.param_groups):
            own |= {f"{k} of group {number}": v for k, v in options.items() if k != "params"}
        own["schedule"] = schedule and (type(schedule).__name__, schedule.state_dict())
        theirs = self.group.gather_objects({name: _told(value) for name, value in own.items()})
        for rank, other in enumerate(theirs):
            for name in {**theirs[0], **other}:
                values = [each.get(name, "none") for each in (theirs[0], other)]
                if values[0] != values[1]:
                    got = f"{_cut(values[0])} on rank 0 and {_cut(values[1])} on rank {rank}"
                    expected = f"the same {name} on all ranks"
                    raise DistributedError(message(self.op, expected, got))
        check_same_model(_named(model))

    def begin(self, models: Iterable[Model], optimizer: Optimizer) -> None:
        tensors = [tensor for model in models for _, tensor in _named(model)]
        tensors += [p for options in optimizer.param_groups for p in options["params"]]
        broadcast_state({id(tensor): tensor for tensor in tensors}.values())
        state = optimizer.state_dict() if self.group.rank == 0 and optimizer.state else None
        if state is not None:
            for kept in state["state"].values():
                kept.update({k: move(v, CPU) for k, v in kept.items() if is_array(v)})
        state = self.group.broadcast_object(state)
        if self.group.rank and state is not None:
            optimizer.load_state_dict(state)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        state = self._state_of_first()
        if self.group.rank:
            random.set_state(random.derived(state, self.group.rank))
        yield
        state = self._state_of_first()
        if self.group.rank:
            random.set_state(state)

    def _state_of_first(self) -> Any:
        own = random.get_state() if self.group.rank == 0 else None
        return self.group.broadcast_object(own)

    def settle(self, models: Iterable[Model]) -> None:
        for model in models:
            self._average(_statistics(model))
            check_same_values(_named(model))

    def _average(self, statistics: list[Tensor]) -> None:
        """Replace running statistics, which follow the parts that a rank saw, by their means over
        the ranks."""
        if not statistics:
            return
        arrays = [move(tensor._array, CPU) for tensor in statistics]
        flat = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        self.group.reduce(flat)
        flat /= self.group.size
        parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
        with no_grad():
            for tensor, part in zip(statistics, parts):
                tensor.copy_(from_numpy(part.reshape(tensor.shape)))

    def agree_to_stop(self, run: Run) -> None:
        reasons = self.group.gather_objects(run.stopped)
        run.stopped = next(filter(None, reasons), "")


def together(op: str, model: Any = None) -> Alone:
    """How this process trains: with all that were started with it.

    Raises:
        ArgumentError: ``model`` adds up gradients itself.
    """
    if isinstance(model, DistributedDataParallel):
        expected, got = "a module that leaves gradients as they are", type(model).__name__
        fix = "Pass net.module: gradients are added up over the ranks here."
        raise ArgumentError(message(op, expected, got, fix=fix))
    group = current_group()
    return Alone(op, group) if group.size == 1 else Together(op, group)


def by_itself(op: str) -> Alone:
    """How a process works for itself, whoever was started with it."""
    return Alone(op, Group())


def own_device(group: Group, device: Any) -> Any:
    """``"cuda"`` is a GPU for each rank of a machine, in turn; anything else is what it says."""
    if group.size > 1 and device == "cuda" and cuda.is_available():
        return f"cuda:{group.local_rank % cuda.device_count()}"
    return device


def facts_of(name: str, loader: Iterable[Any]) -> dict[str, Any]:
    """What must be the same on all ranks of a loader of whole batches."""
    facts: dict[str, Any] = {}
    if is_shard(loader):
        return facts
    with contextlib.suppress(TypeError):  # a stream of batches
        facts[f"number of batches of {name}"] = len(loader)  # type: ignore[arg-type]
    if isinstance(loader, DataLoader):
        facts |= {
            f"{what} of {name}": getattr(loader, what)
            for what in ("batch_size", "shuffle", "drop_last", "seed")
        }
        facts[f"number of samples of {name}"] = len(loader.dataset)
        generator = getattr(loader.sampler, "generator", None)
        if generator is not None:  # it decides the order, of which each rank takes its part
            facts[f"generator of {name}"] = generator.bit_generator.state["state"]
    return facts


def warn_of_ranks(before: int, now: int) -> None:
    """Say that a run goes on with another number of ranks."""
    if before != now:
        counts = [f"{n} rank{'s' * (n > 1)}" for n in (before, now)]
        warnings.warn(
            f"fit: the run was on {counts[0]} so far and goes on on {counts[1]}: sums over the "
            "parts of a batch are added in another order, so that the last bits of its numbers "
            "are others than if it had stayed.",
            UserWarning,
            stacklevel=3,
        )


def _told(value: Any) -> str:
    """A value as text; where a function lies in memory is another place on each rank."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _named(model: Model) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by their names."""
    if isinstance(model, Module):
        return [*model.named_parameters(), *model.named_buffers()]
    return [*model.state_dict().items()]


def _statistics(model: Model) -> list[Tensor]:
    """The running statistics of batch norms that each rank keeps for itself."""
    found = ("running_mean", "running_var")
    if not isinstance(model, Module):
        return [t for name, t in model.state_dict().items() if name.endswith(found)]
    layers = [layer for layer in model.modules() if not isinstance(layer, SyncBatchNorm)]
    kept = [layer._buffers.get(name) for layer in layers for name in found]
    return [*{id(tensor): tensor for tensor in kept if tensor is not None}.values()]

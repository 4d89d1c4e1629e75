"""The work on each batch of a training loop, in one process or in several that share it.

:class:`Work` is all that one process needs. :class:`SharedWork` is the same with other ranks, each
of which has its part of every batch: what a part counts for in the whole is known before its
backward pass, gradients are added up between ``learn`` and ``update``, and what is told of a batch
is told of the whole one, with the same bits on all ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from minires.distributed import Group
from minires.distributed.reducer import Reducer
from minires.errors import DistributedError, message
from minires.nn import Module, SyncBatchNorm
from minires.optim import Optimizer
from minires.tensor import Tensor
from minires.train.captured import captured_work
from minires.train.checkpoint import Stateful
from minires.train.checks import batches, check_parts, look
from minires.train.shards import check_of

Loss = Callable[[Tensor, Tensor], Tensor]


class Model(Stateful, Protocol):
    """What the loop needs of a model; every ``nn.Module`` has it."""

    training: bool

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


Seen = tuple[float, int, int]  # of a batch: mean loss, wrong answers, examples


class Work:
    """The work on each batch: learning from it, judging it, the update after it."""

    def __init__(
        self, op: str, model: Model, loss_fn: Loss, optimizer: Optimizer | None, capture: bool
    ) -> None:
        def learn(x: Tensor, y: Tensor, *share: Tensor) -> tuple[Tensor, Tensor]:
            if optimizer is not None:
                optimizer.zero_grad()
            logits = model(x)
            loss = loss_fn(logits, y)
            loss.backward(*[_like(s, loss) for s in share])
            return loss, logits

        def judge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(x)
            return loss_fn(logits, y), logits

        check_parts(op, model, loss_fn, capture)
        self.model = model
        self.learn: Callable[..., Any] = learn  # (inputs, labels[, share]) -> (loss, logits)
        self.judge: Callable[..., Any] = judge
        self.update: Callable[[], Any] = optimizer.step if optimizer is not None else lambda: None
        if capture and isinstance(model, Module) and optimizer is not None:
            self._capture(model, optimizer)

    def _capture(self, model: Module, optimizer: Optimizer) -> None:
        works = captured_work(self.learn, self.judge, model, optimizer)
        self.learn, self.judge, self.update = works

    def batches(self, op: str, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the loader, as :meth:`learned` and :meth:`judged` take them."""
        return batches(op, loader, self.model)

    def learned(self, op: str, batch: Any, step: int) -> Seen:
        """Make the gradients of a batch; what the model made of it."""
        x, y, finite = batch
        loss, logits = self.learn(x, y)
        return (*look(op, loss, logits, x, y, finite, step), len(logits))

    def judged(self, op: str, batch: Any, step: int) -> Seen:
        """What the model makes of a batch."""
        x, y, finite = batch
        loss, logits = self.judge(x, y)
        return (*look(op, loss, logits, x, y, finite, step), len(logits))


def _like(share: Tensor, loss: Tensor) -> Any:
    """A share as the gradient of a loss, which may have an axis of one element, and under autocast
    another dtype than weights."""
    return share.to(loss.dtype).reshape(loss.shape)


class SharedWork(Work):
    """The work of one rank of several, on its parts of the batches.

    Each batch costs two small collective operations beside those of the gradients. Errors of one
    rank, in its loader or in its work, are raised on all of them. With a model of synchronised
    batch norms they are raised on that rank alone, which ends the job: the others wait for it in
    the middle of the model. The work of such a model is not captured, its evaluation is.

    Args:
        group: the ranks.
    """

    def __init__(
        self,
        op: str,
        model: Model,
        loss_fn: Loss,
        optimizer: Optimizer | None,
        capture: bool,
        group: Group,
    ) -> None:
        layers = model.modules() if isinstance(model, Module) else ()
        self._synchronised = any(isinstance(layer, SyncBatchNorm) for layer in layers)
        super().__init__(op, model, loss_fn, optimizer, capture)
        self._group = group
        self._shares: dict[float, Tensor] = {}
        if optimizer is None:
            return
        parameters = [p for options in optimizer.param_groups for p in options["params"]]
        self._reducer, self._step = Reducer(parameters), self.update
        if not capture or self._synchronised:
            self.learn = self._reducer.overlapped(self.learn)
        self.update = self._reduce_and_step

    def _capture(self, model: Module, optimizer: Optimizer) -> None:
        learn = self.learn
        super()._capture(model, optimizer)
        if self._synchronised:  # a graph holds no work with others
            self.learn = learn

    def _reduce_and_step(self) -> None:
        self._reducer.reduce()
        self._step()

    def batches(self, op: str, loader: Iterable[Any]) -> Iterator[Any]:
        """This rank's parts, and how many examples a batch has on all ranks together.

        In evaluation, and only there, a rank may have fewer batches than others: it then has None.

        Raises:
            DistributedError: ranks have different batches, or numbers of batches.
            MiniresError: that of the loader of any rank.
        """
        parts, size = batches(op, loader, self.model), self._group.size
        for number in itertools.count():
            part, error = None, None
            try:
                part = next(parts, None)
            except Exception as raised:
                error = raised
            n = 0 if part is None else len(part[0])
            check = check_of(loader)
            ended = part is None and error is None
            sums = np.array([error is not None, ended, n, check, check**2], np.float64)
            self._group.reduce(sums)
            failed, ended_on, total, checks, squares = (int(value) for value in sums)
            if failed:
                self._group.agree(error)
            if ended_on == size:
                return
            if ended_on and self.model.training:
                raise self._uneven(op, number, ended)
            if not ended_on and squares * size != checks**2:  # they are equal if all checks are
                raise self._unlike(op, check)
            yield part, total

    def _uneven(self, op: str, number: int, ended: bool) -> DistributedError:
        """The error of ranks of which some have no more batches."""
        counts = self._group.gather(np.array([number if ended else number + 1]))[:, 0]
        other = int((counts != counts[0]).argmax())
        least = {0: counts[0], other: counts[other]}
        got = " and ".join(
            f"{count} on rank {rank}" if count == number else f"more on rank {rank}"
            for rank, count in least.items()
        )
        expected = "as many batches on all ranks"
        fix = "A DataLoader without shard is cut by itself, evenly."
        return DistributedError(message(op, expected, got, fix=fix))

    def _unlike(self, op: str, check: int) -> DistributedError:
        """The error of ranks whose loaders give other batches than those of rank 0."""
        checks = self._group.gather(np.array([check]))[:, 0]
        other = int((checks != checks[0]).argmax())
        expected, got = "the same batches on all ranks, to be cut", f"others on rank {other}"
        fix = "Give the loader's order a seed. One that gives each rank its own part has an "
        fix += "attribute shard = (rank, size) that says so."
        return DistributedError(message(op, expected, got, fix=fix))

    def learned(self, op: str, batch: Any, step: int) -> Seen:
        (x, y, finite), total = batch
        error, own, done = None, (0.0, 0), False
        try:
            loss, logits = self.learn(x, y, self._share(len(x) / total))
            done = True
            own = look(op, loss, logits, x, y, finite, step)
        except Exception as raised:
            if self._synchronised and not done:
                raise
            error = raised
        return self._seen(own, len(x), total, error)

    def judged(self, op: str, batch: Any, step: int) -> Seen:
        part, total = batch
        error, own, n = None, (0.0, 0), 0
        try:
            if part is not None and len(part[0]):
                x, y, finite = part
                n = len(x)
                loss, logits = self.judge(x, y)
                own = look(op, loss, logits, x, y, finite, step)
        except Exception as raised:
            error = raised
        return self._seen(own, n, total, error)

    def _seen(self, own: tuple[float, int], n: int, total: int, error: Exception | None) -> Seen:
        """What all ranks together saw."""
        loss, wrong = own
        sums = np.array([float(loss) * n, wrong, error is not None], np.float64)
        self._group.reduce(sums)
        if sums[2]:
            self._group.agree(error)
        return float(sums[0]) / total, int(sums[1]), total

    def _share(self, share: float) -> Tensor:
        """What a part counts for in its batch, as an input of the work: a graph would hold it fast
        if it were a number."""
        if share not in self._shares:
            state = self.model.state_dict().values()
            first = next((t for t in state if t.dtype.kind == "f"), None)
            array = np.array(share, np.float32 if first is None else first.dtype)
            tensor = Tensor(array)
            self._shares[share] = tensor if first is None else tensor.to(first.device)
        return self._shares[share]

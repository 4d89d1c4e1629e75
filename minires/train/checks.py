"""What the loop is given, checked before it begins, and the batches on their way in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import host_read
from minires.device import CPU, array_module, beside, fetched, move
from minires.errors import ArgumentError, DTypeError, NaNError, ShapeError, message, quoted
from minires.nn import Module
from minires.optim import LRScheduler, Optimizer
from minires.tensor import Tensor, from_numpy


def check_parts(op: str, model: Any, loss_fn: Any, capture: Any) -> None:
    """Refuse a model or a loss that is none."""
    parts = ("__call__", "train", "eval", "training", "state_dict")
    if isinstance(model, type) or not all(hasattr(model, part) for part in parts):
        raise ArgumentError(message(op, "a module as model", quoted(model)))
    arguments.takes(op, "loss_fn", loss_fn, 2)
    if arguments.flag(op, "capture", capture) and not isinstance(model, Module):
        raise ArgumentError(message(op, "a module to capture", type(model).__name__))


def check_optimizer(op: str, optimizer: Any, schedule: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(message(op, "an optimizer of minires.optim", quoted(optimizer)))
    if schedule is not None and not isinstance(schedule, LRScheduler):
        got = quoted(schedule)
        raise ArgumentError(
            message(op, "schedule None or one that is stepped without metrics", got)
        )


def check_loader(op: str, name: str, loader: Any) -> None:
    if not isinstance(loader, Iterable) or isinstance(
        loader, str | bytes | Mapping | Tensor | np.ndarray
    ):
        raise ArgumentError(message(op, f"{name} an iterable of batches", quoted(loader)))


def batches(op: str, loader: Iterable[Any], model: Any) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """The batches as tensors where the model is, and whether their inputs are finite: a NaN there
    is the data's fault, not the net's. On the CPU they are, or it is an error; on a GPU an array of
    one truth value says so, for which nobody has waited yet."""
    first = next(iter(model.state_dict().values()), None)
    for number, batch in enumerate(arguments.iterator(op, "batches", loader)):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            n = len(batch) if isinstance(batch, tuple | list) else None
            got = f"{n} field{'s' * (n != 1)}" if n is not None else f"a {type(batch).__name__}"
            raise ShapeError(
                message(
                    op,
                    "batches (inputs, labels) from the loader",
                    got,
                    fix="For other batches, write the loop yourself.",
                )
            )
        x, y = (_as_tensor(op, field) for field in batch)
        if first is not None:
            x, y = x.to(first.device), y.to(first.device)
        with beside((x,)):
            finite = array_module(x._array).isfinite(x._array).all()
        if isinstance(x._array, np.ndarray):
            check_finite(op, finite, x, number)
        yield x, y, finite


def check_finite(op: str, finite: Any, x: Tensor, number: int) -> None:
    """Refuse the inputs of a batch that are not ``finite``.

    Raises:
        NaNError: names the first of them.
    """
    if not finite:
        values = move(x._array, CPU)
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise NaNError(
            message(
                op,
                "finite inputs",
                f"{values[where]} at index {where}",
                f"batch {number} of shape {x.shape}",
                "The data set holds it: check its files and its normalisation.",
            )
        )


def look(
    op: str, loss: Tensor, logits: Tensor, x: Tensor, y: Tensor, finite: Any, number: int
) -> tuple[float, int]:
    """The loss of a batch, and how many of its examples are taken for another class.

    A look at a value of a GPU waits for all that was launched before, and the GPU then waits for
    what comes next. So there is one look for everything that the loop wants to know of a batch.

    Raises:
        NaNError: inputs (x) that are not ``finite``.
        ShapeError: the model's output is not (n, classes), or the loss not one number.
    """
    if logits.ndim != 2:
        raise ShapeError(message(op, "logits of shape (n, classes)", logits.shape))
    if loss.numel() != 1:
        raise ShapeError(message(op, "a loss of one element", f"shape {loss.shape}"))
    host_read("the value of a tensor")
    with beside((logits,)):
        expected = y._array.argmax(axis=1) if y.ndim == 2 else y._array
        wrong = (logits._array.argmax(axis=1) != expected).sum()
    finite, value, wrong = fetched(finite, loss._array, wrong)
    check_finite(op, finite, x, number)
    return value, int(wrong)


def _as_tensor(op: str, field: Any) -> Tensor:
    if isinstance(field, Tensor):
        return field
    try:
        return from_numpy(np.asarray(field))
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{quoted(field)} ({error})"
        raise DTypeError(message(op, "batches of Tensors or arrays", got)) from error

"""Samples put together to a batch, field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires.data.sample import pairs_of, sample
from minires.errors import ArgumentError, DTypeError, NaNError, ShapeError, message, quoted
from minires.tensor import Tensor, from_numpy


def collate(dataset: Any, indices: NDArray[np.int64]) -> Any:
    """The samples at ``indices`` (k,) as one batch, field by field; nothing is left out.

    Tuples and dicts stay what they are, of batches; a list of fields becomes a tuple. Numbers and
    arrays (...) become arrays (k, ...), text a list.

    Raises:
        ArgumentError: no index at all.
        ShapeError: samples that differ in their fields or shapes.
        DTypeError: the first field is not of floats, or another is no array of numbers.
        NaNError: the first field holds a NaN or infinity.
    """
    if not len(indices):
        raise ArgumentError(message("batch", "at least one sample", "none"))
    samples = [sample(dataset, *pair) for pair in pairs_of(indices)]
    if isinstance(samples[0], list):
        samples = [tuple(sample) if isinstance(sample, list) else sample for sample in samples]
    return _stacked(samples, indices, _checked, first=not isinstance(samples[0], Mapping))


def default_collate(batch: Any) -> Any:
    """The samples in a list as one batch of tensors, field by field: what a loader does without a
    ``collate_fn``, and what a ``collate_fn`` may call itself.

    Numbers, arrays and tensors (...) become tensors (k, ...) of their dtype, Python's floats of
    float64; text stays in a list; tuples and dicts stay what they are, of batches.

    Raises:
        ArgumentError: no list, or an empty one.
        ShapeError: samples that differ in their fields or shapes.
        DTypeError: a field that is no array of numbers.

    >>> default_collate([(1, "a"), (2, "b")])
    (tensor([1, 2]), ['a', 'b'])
    """
    if not isinstance(batch, list | tuple) or not batch:
        raise ArgumentError(message("default_collate", "a list of samples", quoted(batch)))
    samples = [tuple(each) if isinstance(each, list) else each for each in batch]
    whole = _stacked(samples, np.arange(len(samples)), lambda array, *_: array, first=False)
    return mapped(whole, from_numpy)


def _checked(whole: NDArray[Any], indices: NDArray[np.int64], first: bool) -> NDArray[Any]:
    """A field of a loader's batch: what a network sees must be finite floats."""
    if not first:
        return as_targets("DataLoader", whole)
    check_samples("DataLoader", whole, indices)
    return whole


def _stacked(
    values: list[Any], indices: NDArray[np.int64], finish: Callable[..., Any], first: bool
) -> Any:
    """One field of all samples; ``first`` says that it is what a network sees. Each array is what
    ``finish(array, indices, first)`` makes of it."""
    like = values[0]
    if isinstance(like, str | bytes):
        return values
    if isinstance(like, tuple | Mapping):
        if not like:
            expected = "samples of at least one field"
            raise ShapeError(message("DataLoader", expected, f"{like!r} (sample {indices[0]})"))
        keys = like.keys() if isinstance(like, Mapping) else range(len(like))
        for index, value in zip(indices, values):
            same = isinstance(value, type(like)) and len(value) == len(like)
            if not same or (isinstance(like, Mapping) and value.keys() != like.keys()):
                expected = f"samples alike, as sample {indices[0]}, {_kind(like)}"
                got = f"sample {index}, {_kind(value)}"
                raise ShapeError(message("DataLoader", expected, got))
        parts = {
            key: _stacked([v[key] for v in values], indices, finish, first and key == 0)
            for key in keys
        }
        return parts if isinstance(like, Mapping) else tuple_like(like, parts.values())
    arrays = [as_array("DataLoader", value) for value in values]
    for index, array in zip(indices, arrays):
        if array.shape != arrays[0].shape or (first and array.dtype != arrays[0].dtype):
            alike = f"{arrays[0].shape} {arrays[0].dtype} (sample {indices[0]})"
            got = f"{array.shape} {array.dtype} (sample {index})"
            raise ShapeError(message("DataLoader", f"samples alike, as {alike}", got))
    return finish(np.stack(arrays), indices, first)


def _kind(sample: Any) -> str:
    """What a sample is, in one line."""
    if isinstance(sample, Mapping):
        return f"a dict of {quoted(list(sample))}"
    if isinstance(sample, tuple):
        return f"a tuple of {len(sample)} fields"
    return f"a {type(sample).__name__}"


def tuple_like(like: Any, fields: Iterable[Any]) -> Any:
    """A tuple of these fields, with the names that ``like`` has if it is a named one."""
    return type(like)(*fields) if hasattr(like, "_fields") else tuple(fields)


def mapped(fields: Any, function: Callable[[NDArray[Any]], Any]) -> Any:
    """The same batch with ``function(array)`` in place of each array."""
    if isinstance(fields, np.ndarray):
        return function(fields)
    if isinstance(fields, tuple):
        return tuple_like(fields, [mapped(field, function) for field in fields])
    if isinstance(fields, Mapping):
        return {key: mapped(field, function) for key, field in fields.items()}
    return fields


def as_array(op: str, value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if type(value).__module__.startswith("PIL."):
        fix = "Give the data set transform=transforms.ToTensor() of minires.vision."
        raise DTypeError(message(op, "numbers, arrays or Tensors", "a PIL image", fix=fix))
    try:
        return np.asarray(value)
    except Exception as error:  # rows of unequal length, or a broken __array__
        got = f"{quoted(value)} ({type(error).__name__})"
        raise DTypeError(message(op, "numbers, arrays or Tensors", got)) from error


def as_targets(op: str, y: NDArray[Any]) -> NDArray[Any]:
    """Labels as int64, floats and bools as they are."""
    if y.dtype.kind in "iu":
        return y.astype(np.int64)
    if y.dtype not in (np.float32, np.float64, np.bool_):
        raise DTypeError(message(op, "integer labels or float targets", y.dtype))
    return y


def check_samples(op: str, x: NDArray[Any], indices: NDArray[np.int64] | None = None) -> None:
    if x.dtype not in (np.float32, np.float64):
        fix = "Scale images to 0..1 first: x.astype('float32') / 255"
        raise DTypeError(message(op, "samples of float32 or float64", x.dtype, fix=fix))
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        sample = where[0] if indices is None else int(indices[where[0]])
        context = f"sample {sample}, position {where[1:]}"
        raise NaNError(message(op, "finite numbers", str(x[where]), context))

"""PyTorch's own sample inputs, given to minires: which calls it takes, what it makes of them.

PyTorch tests each of its operations on a list of sample inputs (``op_db`` in
``torch.testing._internal.common_methods_invocations``). Every operation that minires has under the
same name gets all of them, on both sides, and so does the backward pass, with the same upstream
gradients. A call is

- taken: values, shapes, dtypes and gradients are PyTorch's;
- refused: minires raises an error of its own kinds, or Python's for an argument it does not have;
- wrong: another value or gradient, or an error of another kind.

Prints a table of the operations, and why calls are refused; exits with an error if any is wrong.

    python benchmarks/pytorch_samples.py                  # all of them, in float64
    python benchmarks/pytorch_samples.py pad max_pool2d   # of some, with each reason
    python benchmarks/pytorch_samples.py --dtype int64    # in another dtype
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import minires as mr
from minires.errors import MiniresError
from minires.texttable import text_table

DTYPES = ("float64", "float32", "int64", "bool")
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}  # of values, relative to the largest or 1
REASONS = 3  # of refusal that the table of all operations shows for each
# Whose values are drawn, or whatever the memory holds: only shapes and dtypes are compared.
UNDETERMINED = {"dropout", "dropout2d", "empty", "empty_like", "randint"}
UNDETERMINED |= {"rand_like", "randn", "randn_like"}


@dataclass
class Counts:
    """What became of the sample inputs of one operation."""

    name: str
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # why: how often
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        return self.taken + self.refused.total() + self.wrong.total()


# **** both sides of an operation ****


def ours(name: str) -> Callable[..., Any] | None:
    """The function or method of minires that has PyTorch's name for an operation."""
    *path, last = name.split(".")
    if path == ["nn", "functional"]:
        return getattr(mr.nn.functional, last, None)
    if path:
        return None
    function = getattr(mr, last, None)
    if last == "where" or not callable(function) or isinstance(function, type):
        function = getattr(mr.Tensor, last, None)  # PyTorch samples the method ``x.where``
    if isinstance(function, property):
        return function.fget
    return function


def operations() -> list[tuple[Any, Callable[..., Any]]]:
    """PyTorch's descriptions of the operations of the same name, each with minires' function."""
    from torch.testing._internal.common_methods_invocations import op_db

    return [(info, function) for info in op_db if (function := ours(info.name)) is not None]


def samples(info: Any, dtype: str) -> Iterator[Any]:
    """The sample inputs of an operation in a dtype; for float64, of operations that PyTorch has for
    integers only (``one_hot``), those of integers."""
    known = info.supported_dtypes("cpu")
    wanted = getattr(torch, dtype)
    if dtype == "float64" and wanted not in known:
        wanted = torch.int64
    if wanted in known:
        recorded = wanted.is_floating_point and info.supports_autograd
        yield from info.sample_inputs("cpu", wanted, requires_grad=recorded)


def translated(value: Any, leaves: list[Any]) -> Any:
    """An argument of PyTorch's as minires has it; tensors that require grad join the leaves."""
    if isinstance(value, torch.Tensor):
        result = mr.from_numpy(value.detach().numpy()).detach()
        if value.requires_grad:
            leaves.append(result.requires_grad_())
        return result
    if isinstance(value, torch.dtype):
        return np.dtype(str(value).removeprefix("torch.").replace("bfloat16", "float16"))
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, torch.memory_format):
        return getattr(mr, str(value).removeprefix("torch."))
    if isinstance(value, list | tuple):
        return type(value)(translated(entry, leaves) for entry in value)
    if isinstance(value, dict):
        return {key: translated(entry, leaves) for key, entry in value.items()}
    if isinstance(value, slice):
        return slice(*(translated(end, leaves) for end in (value.start, value.stop, value.step)))
    return value


def tensors(value: Any) -> list[Any]:
    """The tensors in a result or in arguments, in order."""
    if isinstance(value, torch.Tensor | mr.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [found for entry in value for found in tensors(entry)]
    return tensors([*value.values()]) if isinstance(value, dict) else []


def outcome(result: Any, leaves: Sequence[Any], grad: Callable[..., Any]) -> list[Any]:
    """What a call gave, as arrays and plain values: results, and gradients for the leaves (zeros
    where none flows)."""
    found = [_array(t) for t in tensors(result)] or [result]
    draws = np.random.default_rng(0)
    upstream = [(t, draws.standard_normal(tuple(t.shape))) for t in tensors(result)]
    upstream = [(t, g) for t, g in upstream if t.requires_grad]
    gradients: Any = [None] * len(leaves)
    if upstream and leaves:
        gradients = grad([t for t, _ in upstream], leaves, [g for _, g in upstream])
    found += [
        np.zeros_like(_array(leaf)) if g is None else _array(g)
        for g, leaf in zip(gradients, leaves)
    ]
    return found


def _array(tensor: Any) -> Any:
    return tensor.detach().numpy()


def _their_grad(outputs: Any, leaves: Any, upstream: Any) -> Any:
    given = [torch.as_tensor(g, dtype=t.dtype) for g, t in zip(upstream, outputs)]
    return torch.autograd.grad(outputs, leaves, given, allow_unused=True)


def _our_grad(outputs: Any, leaves: Any, upstream: Any) -> Any:
    given = [mr.tensor(g, dtype=t.dtype) for g, t in zip(upstream, outputs)]
    return mr.grad(outputs, leaves, given, allow_unused=True)


# **** comparison ****


def difference(mine: list[Any], other: list[Any], exact: bool) -> str:
    """How two outcomes differ; nothing if they do not."""
    if len(mine) != len(other):
        return f"{len(mine)} results in place of {len(other)}"
    for index, (a, b) in enumerate(zip(mine, other)):
        if not isinstance(b, np.ndarray):
            if a != b and not (a != a and b != b):
                return f"result {index}: {a!r} in place of {b!r}"
            continue
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"result {index}: {a.dtype} {a.shape} in place of {b.dtype} {b.shape}"
        if not exact:
            continue
        largest = np.abs(b[np.isfinite(b)]).max(initial=1)
        tolerance = TOLERANCE.get(b.dtype.name, 0) * float(largest)
        if not np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
            return f"result {index}: other values"
    return ""


def run(info: Any, function: Callable[..., Any], sample: Any) -> tuple[str, str]:
    """What minires makes of one sample input, and why; an empty word if PyTorch refuses it."""
    given = (sample.input, tuple(sample.args), dict(sample.kwargs))
    exact = info.name.split(".")[-1] not in UNDETERMINED
    leaves: list[Any] = []
    mine: list[Any] = []
    name = info.name
    try:  # first, since theirs may write into the input
        x, args, options = translated(given, leaves)
        if name.endswith("_") and not name.startswith("__"):
            x = x.clone()
        mine = outcome(function(x, *args, **options), leaves, _our_grad)
        kind, why = "taken", ""
    except (MiniresError, TypeError, NotImplementedError) as error:
        kind, why = "refused", str(error)
    except Exception as error:  # whatever it is: the table says so
        kind, why = "wrong", f"{type(error).__name__}: {error}"
    theirs = [t for t in tensors(given) if t.requires_grad]
    try:
        other = outcome(info.op(given[0], *given[1], **given[2]), theirs, _their_grad)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return "", ""
    if info.name == "topk" and not theirs:  # equal numbers may come in any order
        mine, other = mine[:1], other[:1]
    if kind == "taken" and (differs := difference(mine, other, exact)):
        return "wrong", differs
    return kind, why


def reason(text: str) -> str:
    """A message without its numbers, so that messages of one kind are one."""
    text = re.sub(r"\(\s*(-?\d+(, ?-?\d+)*,?)?\s*\)", "(#)", text.partition("\n")[0])
    return re.sub(r"-?\b\d+(\.\d+)?(e-?\d+)?\b", "#", text)


def count(
    info: Any, function: Callable[..., Any], most: int | None = None, dtype: str = DTYPES[0]
) -> Counts:
    """The sample inputs of an operation through both sides: all, or evenly so many at most."""
    found = Counts(info.formatted_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = list(samples(info, dtype))
        step = 1 if most is None else max(-(-len(given) // most), 1)
        for sample in given[::step]:
            kind, why = run(info, function, sample)
            if kind == "taken":
                found.taken += 1
            elif kind:
                (found.refused if kind == "refused" else found.wrong)[reason(why)] += 1
    return found


def count_all(
    words: Sequence[str] = (), most: int | None = None, dtype: str = DTYPES[0]
) -> list[Counts]:
    """Of all operations, or of those whose name has one of the words, the counts."""
    return [
        count(info, function, most, dtype)
        for info, function in operations()
        if not words or any(word in info.formatted_name for word in words)
    ]


def table(counts: Sequence[Counts], reasons: int | None) -> str:
    """The operations, those that refuse most first, each with its most frequent reasons."""
    rows = []
    for c in sorted(counts, key=lambda c: (-c.refused.total(), c.name)):
        rows.append([c.name, *map(str, (c.tried, c.taken, c.refused.total(), c.wrong.total()))])
    total = [sum(int(row[i]) for row in rows) for i in range(1, 5)]
    rows.append(["together", *map(str, total)])
    text = text_table(["operation", "tried", "taken", "refused", "wrong"], rows, left=1)
    for c in sorted(counts, key=lambda c: (-c.refused.total(), c.name)):
        for kind in ("wrong", "refused"):
            for why, times in getattr(c, kind).most_common(reasons):
                text += f"\n{times:5} {kind}: {c.name}: {why}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("operations", nargs="*", help="words of names; all operations by default")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the inputs")
    given = parser.parse_args()
    counts = count_all(given.operations, dtype=given.dtype)
    print(table(counts, None if given.operations else REASONS))
    sys.exit(any(c.wrong for c in counts))


if __name__ == "__main__":
    main()

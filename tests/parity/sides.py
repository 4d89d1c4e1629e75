"""One line of PyTorch code, run by PyTorch and by minires, on the same numbers.

A case is a line such as ``F.conv2d(x, w, stride=2)`` with the shapes of ``x`` and ``w``. It is run
twice: once where ``torch``, ``F`` and ``nn`` mean PyTorch, and once where they mean minires, which
is what a user does who changes an import. Compared are the values and their dtypes, what requires
grad, the gradients, and the second derivatives: the gradients of the gradients with respect to
all inputs and to the upstream gradient, everything with random upstream gradients.

The tables of lines are in the test files beside this one. They are plain text, so that they can be
read and counted without PyTorch.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import minires as mr
from minires.errors import MiniresError

# Every input is rounded to float32, so that both precisions start from the same numbers. PyTorch
# always computes in float64; what minires computes in float32 is held against that.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


@dataclass(frozen=True)
class Way:
    """How minires runs a case: in which dtype, on which kernels, with or without fusion."""

    name: str
    dtype: str = "float64"
    backend: str = "auto"
    fused: bool = True


FLOAT64, FLOAT32 = Way("float64"), Way("float32", dtype="float32")
BOTH = (FLOAT64, FLOAT32)
# for what has kernels of its own: also on the references, and without putting work off
ALL = (*BOTH, Way("numpy", backend="numpy"), Way("unfused", dtype="float32", fused=False))


@dataclass(frozen=True, eq=False)
class Case:
    """A line of code for each side (mostly the same), and the arrays that it names."""

    line: str
    theirs: str
    inputs: dict[str, np.ndarray] = field(repr=False)
    bug: str = ""  # what is known to be wrong in minires: the case must fail
    words: str = ""  # of minires' refusal, where PyTorch does not refuse

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two cases one: their code and the shapes and kinds of their inputs."""
        shapes = ((name, a.shape, a.dtype.str) for name, a in self.inputs.items())
        return (self.line, *sorted(shapes))


# **** inputs ****


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def positive(*shape: int) -> np.ndarray:
    """Values from 0.5 to 2, for what divides or takes logarithms."""
    return _generator(f"positive {shape}").uniform(0.5, 2, shape)


def distinct(*shape: int) -> np.ndarray:
    """Values at least 0.1 apart and away from 0, in random order: no ties, no kinks nearby."""
    size = math.prod(shape)
    return (_generator(f"distinct {shape}").permutation(size) - size / 2 + 0.25).reshape(
        shape
    ) * 0.1


def ties(*shape: int) -> np.ndarray:
    """Few different values, so that many are equal; as floats."""
    return _generator(f"ties {shape}").integers(-1, 3, shape).astype(float)


def whole(*shape: int, low: int = 0, high: int = 5) -> np.ndarray:
    """Integers from ``low`` to ``high - 1``, as int64: labels and indices."""
    return _generator(f"whole {shape} {low} {high}").integers(low, high, shape)


def mask(*shape: int) -> np.ndarray:
    """Bools, some of each kind."""
    return np.resize([True, False, False, True, True], shape)


def lines(text: str, **inputs: Any) -> list[Case]:
    """One case per line of ``text``; what follows ``#`` says what is special about it.

    A line may have several statements, the last of which is the result. Where the two sides are
    spelled differently, the line is ``minires <=> PyTorch``. Inputs are shapes, which are filled
    with normal draws, or arrays; float arrays become leaves that require grad. A comment that
    begins with ``BUG:`` marks what minires is known to do wrong: that case must fail.
    """
    arrays = {}
    for name, given in inputs.items():
        array = _generator(name).standard_normal(given) if isinstance(given, tuple) else given
        arrays[name] = _rounded(array)
    cases = []
    for row in text.splitlines():
        code, _, comment = (part.strip() for part in re.sub(r"(^|\s)# ", "\0", row).partition("\0"))
        if code:
            ours, _, theirs = (part.strip() for part in code.partition("<=>"))
            bug = comment.removeprefix("BUG:").strip() if comment.startswith("BUG:") else ""
            cases.append(Case(ours, theirs or ours, arrays, bug))
    return cases


def _rounded(array: np.ndarray) -> np.ndarray:
    """A copy with values that float32 has too."""
    return array.astype("float32").astype(float) if array.dtype.kind == "f" else array.copy()


def refusals(words_of: dict[str, str], **inputs: Any) -> list[Case]:
    """Lines that PyTorch takes and minires refuses on purpose, with words of its message."""
    cases = []
    for text, words in words_of.items():
        for case in lines(text, **inputs):
            cases.append(replace(case, words=words))
    return cases


def each(cases: list[Case], ways: tuple[Way, ...] = ()) -> Any:
    """Parametrise a test by the rows of a table: by ``case``, and with ways also by ``ways``, which
    are the same for all rows (one test for all of them, since a test costs more than a run)."""
    rows = []
    for case in cases:
        marks = [pytest.mark.xfail(strict=True, reason=case.bug)] if case.bug else []
        values = (case, ways) if ways else (case,)
        rows.append(pytest.param(*values, id=case.line, marks=marks))
    return pytest.mark.parametrize(("case", "ways") if ways else ("case",), rows)


# **** the two sides ****


class Ours:
    """minires, as its user sees it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.names = {"torch": mr, "F": mr.nn.functional, "nn": mr.nn, "optim": mr.optim}

    def tensor(self, array: np.ndarray, dtype: Any = None) -> Any:
        floats = array.dtype.kind == "f"
        dtype = dtype or (self.dtype if floats else None)
        return mr.tensor(array, dtype=dtype, requires_grad=floats)

    def constant(self, array: np.ndarray) -> Any:
        return mr.tensor(array)

    def grad(self, outputs: Any, inputs: Any, upstream: Any, **options: Any) -> Any:
        return mr.grad(outputs, inputs, upstream, allow_unused=True, **options)

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, mr.Tensor)

    def array(self, tensor: Any) -> np.ndarray:
        return np.array(tensor.detach().numpy())  # a copy: later steps may write into it


class Theirs:
    """PyTorch, in float64."""

    dtype = "float64"

    def __init__(self) -> None:
        torch = self.torch = pytest.importorskip("torch")
        nn, optim = torch.nn, torch.optim
        self.names = {"torch": torch, "F": nn.functional, "nn": nn, "optim": optim}

    def tensor(self, array: np.ndarray, dtype: Any = None) -> Any:
        return self.torch.tensor(array, dtype=dtype, requires_grad=array.dtype.kind == "f")

    def constant(self, array: np.ndarray) -> Any:
        return self.torch.tensor(array)

    def grad(self, outputs: Any, inputs: Any, upstream: Any, **options: Any) -> Any:
        return self.torch.autograd.grad(outputs, inputs, upstream, allow_unused=True, **options)

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, self.torch.Tensor)

    def array(self, tensor: Any) -> np.ndarray:
        return np.array(tensor.numpy(force=True))


theirs = cache(Theirs)


@contextlib.contextmanager
def no_advice() -> Iterator[None]:
    """Without PyTorch's warnings, which are not the subject here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluate(line: str, names: dict[str, Any]) -> Any:
    """The value of the last statement of a line, after those before it."""
    *before, last = (part.strip() for part in line.split(";"))
    names = dict(names)
    for statement in before:
        exec(statement, names)
    return eval(last, names)


@contextlib.contextmanager
def run_in(way: Way) -> Iterator[None]:
    """Run minires in this way; an error says in which it arose."""
    fusion = contextlib.nullcontext() if way.fused else mr.no_fusion()
    try:
        with mr.backend(way.backend), fusion:
            yield
    except Exception as error:
        error.add_note(f"minires ran in the way {way.name!r}")
        raise


# **** what is compared ****


@dataclass
class Outcome:
    """All that one side gives."""

    facts: list[Any]  # of each result: dtype, shape, requires_grad; or the value if no tensor
    values: list[np.ndarray]
    gradients: list[np.ndarray]
    recorded: list[np.ndarray]  # the gradients once more, on a tape of their own
    second: list[np.ndarray]


def derivatives(side: Ours | Theirs, results: Sequence[Any], inputs: Sequence[Any]) -> Outcome:
    """Values, gradients and second derivatives of ``results`` for ``inputs``."""
    tensors = [value for value in results if side.is_tensor(value)]
    values = [side.array(value) for value in tensors]
    found = Outcome([_fact(side, value) for value in results], values, [], [], [])
    outputs = [value for value in tensors if value.requires_grad]
    if not outputs:
        return found
    upstream = _draws(side, "upstream", outputs)
    gradients = side.grad(outputs, inputs, upstream, retain_graph=True)
    found.gradients = _filled(side, gradients, inputs)
    recorded = side.grad(outputs, inputs, upstream, create_graph=True)
    found.recorded = _filled(side, recorded, inputs)

    variables = [*inputs, *upstream]
    again = _draws(side, "second", inputs)
    pairs = [(g, v) for g, v in zip(recorded, again) if g is not None and g.requires_grad]
    second: Sequence[Any] = [None] * len(variables)
    if pairs:
        second = side.grad([g for g, _ in pairs], variables, [v for _, v in pairs])
    found.second = _filled(side, second, variables)
    return found


def _fact(side: Ours | Theirs, value: Any) -> Any:
    if not side.is_tensor(value):
        return tuple(value) if isinstance(value, list | tuple) else value
    array = side.array(value)
    dtype = "float" if array.dtype.name == side.dtype else array.dtype.name
    return dtype, array.shape, value.requires_grad


def _draws(side: Ours | Theirs, name: str, like: Sequence[Any]) -> list[Any]:
    """Normal draws in these shapes, the same for both sides, as tensors that require grad."""
    draws = [_generator(f"{name} {i}").standard_normal(tuple(t.shape)) for i, t in enumerate(like)]
    return [side.tensor(np.asarray(draw), t.dtype) for draw, t in zip(draws, like)]


def _filled(
    side: Ours | Theirs, gradients: Sequence[Any], inputs: Sequence[Any]
) -> list[np.ndarray]:
    """Gradients as arrays, with zeros for an input that nothing depends on."""
    return [
        np.zeros(tuple(x.shape)) if g is None else side.array(g) for g, x in zip(gradients, inputs)
    ]


def results_of(value: Any) -> list[Any]:
    """The results of a line: those in a tuple or list of tensors, or the one that there is."""
    several = isinstance(value, tuple | list) and any(hasattr(v, "requires_grad") for v in value)
    return list(value) if several else [value]


def outcome(side: Ours | Theirs, line: str, inputs: dict[str, np.ndarray]) -> Outcome:
    """Run a line on one side, and differentiate it twice."""
    names = {name: side.tensor(array) for name, array in inputs.items()}
    results = results_of(evaluate(line, {**side.names, **names}))
    return derivatives(side, results, [v for v in names.values() if v.requires_grad])


@cache
def expected(case: Case) -> Outcome:
    """What PyTorch gives, computed once for all ways."""
    with no_advice():
        return outcome(theirs(), case.theirs, case.inputs)


def compare(case: Case, ways: Sequence[Way]) -> None:
    """Assert that minires, run in each of these ways, gives what PyTorch gives."""
    reference = expected(case)
    for way in ways:
        with run_in(way):
            agree(outcome(Ours(way.dtype), case.line, case.inputs), reference, way.dtype)


def agree(ours: Outcome, reference: Outcome, dtype: str) -> None:
    """Assert that all parts of two outcomes are the same, up to rounding."""
    assert ours.facts == reference.facts
    for part in ("values", "gradients", "recorded", "second"):
        mine, other = getattr(ours, part), getattr(reference, part)
        assert len(mine) == len(other), f"{part}: {len(mine)} and {len(other)}"
        for index, (a, b) in enumerate(zip(mine, other)):
            close(a, b, dtype, f"{part} {index}")


def close(mine: np.ndarray, other: np.ndarray, dtype: str, what: str) -> None:
    """Assert that two arrays agree, relative to their largest entry or 1."""
    assert mine.shape == other.shape, f"{what}: shapes {mine.shape} and {other.shape}"
    if other.dtype.kind != "f":
        assert np.array_equal(mine, other), what
        return
    finite = other[np.isfinite(other)]
    atol = TOLERANCE[dtype] * max(1.0, float(np.abs(finite).max(initial=0)))
    if finite.size == other.size and (np.abs(mine - other) <= atol).all():
        return  # at a fraction of the time
    np.testing.assert_allclose(mine, other, rtol=0, atol=atol, err_msg=what)


# **** wrong calls ****


def both_refuse(case: Case) -> None:
    """Assert that PyTorch raises, and that minires raises too: an error of its own kinds, Python's
    TypeError (as for an unknown argument), or one of PyTorch's kind (as for a missing key)."""
    with no_advice(), pytest.raises(Exception) as refused:  # noqa: PT011 - PyTorch has many kinds
        _call(theirs(), case.theirs, case.inputs)
    assert not isinstance(refused.value, NameError | AttributeError | SyntaxError), refused.value
    with pytest.raises((MiniresError, TypeError, refused.type)) as caught:
        _call(Ours("float64"), case.line, case.inputs)
    assert str(caught.value)


def only_ours_refuses(case: Case) -> None:
    """Assert that PyTorch takes a call, and minires refuses it with the words of the table."""
    with no_advice():
        _call(theirs(), case.theirs, case.inputs)
    with pytest.raises(MiniresError, match=re.escape(case.words)):
        _call(Ours("float64"), case.line, case.inputs)


def _call(side: Ours | Theirs, line: str, inputs: dict[str, np.ndarray]) -> None:
    result = evaluate(line, {**side.names, **{n: side.tensor(a) for n, a in inputs.items()}})
    if side.is_tensor(result):
        side.array(result)  # deferred work is done, and may fail, when someone looks

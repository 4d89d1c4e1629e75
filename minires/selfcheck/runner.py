"""Runs the cases of the catalogue on every backend."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..arguments import integer
from ..autograd import grad
from ..device import CPU, Device, available, backend, beside
from ..errors import ArgumentError, DeviceError, KernelMissing, MiniresError, message, unknown
from ..gradcheck import AdjointReport, check, check2, check_adjoint, check_module
from ..gradcheck.report import Report
from ..nn import Module
from ..tensor import Tensor
from .catalogue import names_of, select
from .catalogue.case import Case
from .results import Outcome, Result

# Second derivatives of a map with m outputs and n inputs have m·n² entries: probes see them all.
PROBES = 2
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Backend:
    """Where a case runs: the NumPy references, the Numba kernels, or a CUDA device."""

    name: str
    device: Device = CPU

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with backend("numpy" if self.name == "numpy" else "auto"), beside((self.device,)):
            yield


def backends(name: str | None = None, device: str | None = None) -> list[Backend]:
    """The backends there are, or those of them that are asked for.

    Args:
        name: "numpy" or "numba"; None for all.
        device: "cpu" or "cuda:0"; None for all.

    Raises:
        ArgumentError: an unknown backend or device, or two that exclude each other.
        DeviceError: a device that is not there.
    """
    if name not in (None, "numpy", "numba"):
        raise unknown("backend", name, ["numpy", "numba"])
    wanted = None if device is None else Device.parse(device)
    if wanted is not None and wanted.type == "cuda":
        if name is not None:
            raise ArgumentError(
                message("gradcheck", f"backend {name!r} on device 'cpu'", f"device {device!r}")
            )
        if wanted not in available():
            raise DeviceError(
                message(
                    "gradcheck",
                    "one of the devices " + ", ".join(map(str, available())),
                    repr(device),
                    fix="See minires info.",
                )
            )
    found = [Backend("numpy"), Backend("numba")]
    found += [Backend(str(d), d) for d in available() if d != CPU]
    return [b for b in found if name in (None, b.name) and wanted in (None, b.device)]


def examine(case: Case, where: Backend, seed: int = 0) -> Outcome:
    """All checks of one case on one backend."""
    try:
        with where.active():
            return Outcome(case, where.name, *_checks(case, where, seed))
    except KernelMissing as error:
        return Outcome(case, where.name, missing=str(error))
    except Exception as error:  # one broken kernel must not hide what is true of the others
        return Outcome(case, where.name, error=_in_words(error))


def _in_words(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MiniresError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({last.filename}:{last.lineno})"


def _checks(
    case: Case, where: Backend, seed: int
) -> tuple[Report, Report, tuple[AdjointReport, ...]]:
    subject = case.subject(seed, where.device)
    inputs = list(case.tensors(seed, where.device).values())
    if isinstance(subject, Module):
        first = check_module(subject, inputs, probes=case.probes, seed=seed)
        probes = case.probes or PROBES
        second = check_module(subject, inputs, second_order=True, probes=probes, seed=seed)
        return (*_renamed(case, first, second), ())
    names = list(case.inputs)
    first = check(subject, inputs, names=names, probes=case.probes, seed=seed)
    second = check2(subject, inputs, names=names, probes=PROBES, seed=seed)
    return (*_renamed(case, first, second), tuple(_adjoints(case, where, seed)))


def _renamed(case: Case, first: Report, second: Report) -> tuple[Report, Report]:
    """Reports that name the case, which says more than the function's own name."""
    return replace(first, function=str(case)), replace(second, function=f"second order of {case}")


def _adjoints(case: Case, where: Backend, seed: int) -> Iterator[AdjointReport]:
    subject: Any = case.subject(seed, where.device)
    for group in case.linear:
        leaves = case.tensors(seed, where.device, np.float64)

        def function(*given: Tensor, leaves: Any = leaves, group: Any = group) -> Tensor:
            return subject(*{**leaves, **dict(zip(group, given))}.values())

        function.__name__ = f"{case}, adjoint in {' and '.join(group)}"
        yield check_adjoint(function, [leaves[name] for name in group], seed=seed)


def warm_up(case: Case, where: Backend, seed: int = 0) -> None:
    """Run a case forward, backward and backward again, so that its kernels are compiled."""
    for dtype in (np.float32, np.float64):
        leaves = list(case.tensors(seed, where.device, dtype).values())
        subject = case.subject(seed, where.device)
        if isinstance(subject, Module):
            subject = subject.double() if dtype == np.float64 else subject
            leaves += list(subject.parameters())
        with contextlib.suppress(KernelMissing), where.active():
            y = subject(*leaves[: len(case.inputs)])
            found = grad(y, leaves, Tensor(y.data * 0 + 1), create_graph=True, allow_unused=True)
            gradients = [g for g in found if g is not None and g.requires_grad]
            if gradients:
                grad(gradients, leaves, [g.detach() for g in gradients], allow_unused=True)


class Progress(Protocol):
    """Who is told how far a run is."""

    def begin(self, cost: int) -> None:
        """Called once kernels are compiled, with the cost of all that is to come."""

    def step(self, name: str, cost: int) -> None:
        """Called before each step, with what it checks and what that costs."""


@dataclass(frozen=True)
class Plan:
    """What will run.

    Attributes:
        jobs: each case with the backend to run it on.
        searches: (operation, strategy of random shapes, backend).
        draws: random shapes for each search.
        seed: of values, probes and draws.
    """

    jobs: tuple[tuple[Case, Backend], ...]
    searches: tuple[tuple[str, Any, Backend], ...] = ()
    draws: int = 0
    seed: int = 0

    def run(self, progress: Progress | None = None) -> Result:
        """Compile the kernels, then check case by case."""
        start = time.perf_counter()
        for case, place in self.jobs:
            warm_up(case, place, self.seed)
        compiled = time.perf_counter()
        if progress is not None:
            costs = sum(case.cost for case, _ in self.jobs)
            progress.begin(costs + len(self.searches) * self.draws)
        outcomes = []
        for case, place in self.jobs:
            if progress is not None:
                progress.step(case.name, case.cost)
            outcomes.append(examine(case, place, self.seed))
        for name, strategy, place in self.searches:
            outcomes += _search(name, strategy, place, self.draws, self.seed, progress)
        seconds = time.perf_counter() - compiled
        return Result(tuple(outcomes), self.seed, seconds, compiled - start)


def plan(
    names: Sequence[str] = (),
    *,
    backend: str | None = None,
    device: str | None = None,
    draws: int = 0,
    seed: int = 0,
) -> Plan:
    """What to check, and where.

    Args:
        names: operations, layers and blocks; empty for all.
        backend: "numpy" or "numba"; None for both.
        device: "cpu" or "cuda:0"; None for every device there is.
        draws: random shapes for each operation that has a strategy, besides the fixed cases.
        seed: >= 0, of values, probes and draws.

    Raises:
        ArgumentError: unknown names, nothing to run, ``draws`` or ``seed`` below 0, random
            shapes without Hypothesis or for nothing that has a strategy.
        DeviceError: a device that is not there.
    """
    integer("gradcheck", "--n", draws, least=0, most=MOST_DRAWS)
    integer("gradcheck", "--seed", seed, least=0, most=2**64 - 1)
    cases, places = select(names), backends(backend, device)
    # an array expression is the same code on both CPU backends
    jobs = tuple(
        (case, place) for case in cases for place in places if case.kernels or place.name != "numba"
    )
    if not jobs:
        raise ArgumentError(
            message(
                "gradcheck",
                "something with kernels for backend 'numba'",
                ", ".join(names_of(cases)),
                "an array expression is the same on both CPU backends",
                "Use --backend numpy.",
            )
        )
    return Plan(jobs, _searches(jobs) if draws else (), draws, seed)


def _searches(jobs: Sequence[tuple[Case, Backend]]) -> tuple[tuple[str, Any, Backend], ...]:
    """(name, strategy, backend) for every planned operation that has random shapes."""
    try:
        from .catalogue import shapes  # not at the top: Hypothesis belongs to the tests
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ArgumentError(
            "gradcheck: expected Hypothesis for random shapes (--n), got none. "
            "Install it: pip install 'minires[test]'."
        ) from None
    places = dict.fromkeys((case.name, place) for case, place in jobs)
    found = tuple(
        (name, shapes.STRATEGIES[name], place)
        for name, place in places
        if name in shapes.STRATEGIES
    )
    if not found:
        raise ArgumentError(
            message(
                "gradcheck",
                "for random shapes (--n) an operation that has a strategy for them",
                ", ".join(dict.fromkeys(case.name for case, _ in jobs)),
                "operations with one: " + ", ".join(shapes.STRATEGIES),
            )
        )
    return found


def _search(
    name: str, strategy: Any, place: Backend, draws: int, seed: int, progress: Progress | None
) -> list[Outcome]:
    """The outcomes of ``draws`` random cases; of those that fail, the smallest."""
    from .catalogue.shapes import smallest

    outcomes: list[Outcome] = []
    failed = False

    def fails(case: Case) -> bool:
        nonlocal failed
        if progress is not None and len(outcomes) < draws and not failed:
            progress.step(name, 1)
        outcome = examine(case, place, seed)
        failed = failed or not outcome.ok
        if not failed:
            outcomes.append(outcome)
        return not outcome.ok

    case = smallest(strategy, fails, draws, seed)
    if case is not None:
        note = f"the smallest failing case of {draws} random ones, seed {seed}"
        outcomes.append(replace(examine(case, place, seed), note=note))
    return outcomes

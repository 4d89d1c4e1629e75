"""The check: what backward computes, against what the function does.

For f from R^n to R^m, backward gives the Jacobian row by row; :mod:`.numeric` gives it column by
column, without looking at any derivative. The upstream gradients are never ones: the sum of
normalised outputs does not depend on the inputs at all, so a check with ones passes a batch norm
whose input gradient is zero. Above a million entries, random probes take the place of rows and
columns; :func:`detection_bound` says what they can miss.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import random
from ..autograd import enable_grad, grad
from ..device import _backend, device_of
from ..errors import ArgumentError, DTypeError, GraphError, message, unknown
from ..nn import Module
from ..ops import concatenate
from ..tensor import Tensor, zeros_like
from .analytic import Array, Backward
from .compare import Comparison, compare_entries, compare_probes
from .demands import as_list, check_inputs, check_result, explained
from .numeric import EPS, REFERENCES, Ladder, Slope, typical
from .patterns import describe
from .point import Guard, Point, host, name_of
from .report import ArgumentResult, Report
from .rounding import Float32, Uncertainty

FULL = 1_000_000  # entries of a Jacobian up to which every one is compared
PROBES = 8
MARGIN = 64  # by how much two computations of one thing may differ more than one moves by an ulp


def check(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Tensor,
    *,
    names: Sequence[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    probes: int | None = None,
    reference: str | None = None,
    seed: int = 0,
) -> Report:
    """Compare the gradients of ``f`` with numerical derivatives.

    Args:
        f: takes the inputs, returns one tensor; the same values for the same inputs. Its result
            may also depend on an input through a closure. A Module goes to :func:`check_module`.
        inputs: leaves that require grad, float64 or float32. Those of float32 are checked in
            float64; then the float32 kernels are held against it, in units of rounding error.
        names: of the inputs, for the report. Default: the parameter names of ``f``.
        rtol, atol: an entry may differ by atol + rtol * |numeric|. Default: what the reference is
            good for (1e-9 for the complex step), with atol = rtol / 100 of the largest entry of
            the row or column, whichever is smaller.
        probes: compare this many random projections instead of every entry. Default: every
            entry of an argument up to a million of them, else 8 probes.
        reference: "complex step", "richardson" or "central"; default: the best one possible.
        seed: of upstream gradients and probes.

    Returns:
        A report; call ``.assert_ok()`` on it.

    Raises:
        DTypeError: inputs that are not float tensors, or a result that is no tensor.
        GraphError: inputs that do not require grad, or that the result does not depend on.
        NaNError: NaN or infinity at this point.
        ArgumentError: two calls of ``f`` differ; inputs whose entries share memory.

    >>> import minires as mr
    >>> from minires.gradcheck import check
    >>> x = mr.tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> print(check(mr.tanh, x))
    tanh on numba: ok
    x [2]: ok ..., 4 entries
      checked  4, kink-skipped 0  reference complex step
    """
    xs = as_list(inputs)
    if isinstance(f, Module):
        return check_module(
            f, xs, rtol=rtol, atol=atol, probes=probes, reference=reference, seed=seed
        )
    labels = labels_of(f, xs, names)
    check_inputs(labels, xs)
    checker = _Check(name_of(f), labels, probes, reference, rtol, atol, seed)
    held, guard = reached(f, xs)
    return checker.run(Point(f, xs, xs, held, guard))


def check2(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Tensor,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Report:
    """:func:`check` of the second derivatives: of (inputs, v) → all entries of vᵀJ.

    Takes the arguments of :func:`check`; ``v`` is drawn at random. First order is not assumed to
    be right: what is differentiated numerically is what backward computes.
    """
    xs = as_list(inputs)
    if isinstance(f, Module):
        return check_module(f, xs, second_order=True, seed=seed, **options)
    labels = labels_of(f, xs, names)
    check_inputs(labels, xs)
    function = name_of(f)
    held, guard = reached(f, xs)
    with guard():
        check_result(function, f(*xs), f(*xs))
        v = _upstream(f, xs, seed)
    point = Point(_second(f, len(xs)), [*xs, v], [*xs, v], held, guard)
    checker = _Check(f"second order of {function}", [*labels, "v"], seed=seed, **options)
    return checker.run(point, unused=True)


def check_module(
    module: Module,
    inputs: Sequence[Tensor] | Tensor,
    *,
    second_order: bool = False,
    seed: int = 0,
    **options: Any,
) -> Report:
    """Check a module's gradients with respect to its inputs and all its parameters.

    Buffers (the statistics of batch norm) and the state of the random generator are put back
    after every evaluation, so batch norm may train and dropout may drop: each evaluation sees
    the same statistics and the same mask. The module is afterwards as it was.

    Args:
        module: called with ``inputs``, returns one tensor; in the mode it is in.
        inputs: as for :func:`check`; inputs that are not differentiable (labels) are passed on.
        second_order: check the second derivatives instead.
        options: as for :func:`check`.

    Raises:
        As :func:`check`; GraphError also for a parameter that the result does not depend on.
    """
    if not isinstance(module, Module):
        got = type(module).__name__
        raise DTypeError(message("check_module", "a Module", got, fix="Use check for a function."))
    xs = as_list(inputs)
    wanted = [x for x in xs if not (isinstance(x, Tensor) and x.dtype.kind in "iub")]
    labels = labels_of(module.forward, xs, None)
    labels = [label for label, x in zip(labels, xs) if any(x is w for w in wanted)]
    learnt = {name: p for name, p in module.named_parameters() if p.requires_grad}
    frozen = [p for p in module.parameters() if not p.requires_grad]
    labels += list(learnt)
    varied = [*wanted, *learnt.values()]
    check_inputs(labels, varied)
    buffers = list(module.buffers())
    function = type(module).__name__
    state = random.get_state()

    @contextlib.contextmanager
    def as_before() -> Iterator[None]:
        random.set_state(state)
        try:
            with unchanged(buffers):
                yield
        finally:
            random.set_state(state)

    with as_before():
        check_result(function, module(*xs))
    checker = _Check(function, labels, seed=seed, **options)
    if not second_order:
        return checker.run(Point(module, xs, varied, [*buffers, *frozen], as_before))
    with as_before():
        v = _upstream(module, xs, seed)

    def f(*arguments: Tensor) -> Tensor:
        return module(*xs)

    checker.function = f"second order of {function}"
    checker.labels = [*labels, "v"]
    point = Point(
        _second(f, len(varied)), [*varied, v], [*varied, v], [*buffers, *frozen], as_before
    )
    return checker.run(point, unused=True)


def reached(f: Any, xs: Sequence[Tensor]) -> tuple[list[Tensor], Guard]:
    """What a function reads of modules that it reaches by itself, as a method, through a closure
    or by a global name: their tensors other than ``xs``, and a guard of their buffers."""
    found = [getattr(f, "__self__", None)]
    if inspect.isfunction(f):
        names = inspect.getclosurevars(f)
        found += [*names.nonlocals.values(), *names.globals.values()]
    modules = [m for m in found if isinstance(m, Module)]
    buffers = [b for m in modules for b in m.buffers()]
    held = {id(t): t for m in modules for t in m.parameters()} | {id(b): b for b in buffers}
    for x in xs:
        held.pop(id(x), None)
    return list(held.values()), lambda: unchanged(buffers)


@contextlib.contextmanager
def unchanged(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Put the buffers back afterwards."""
    copies = [b._array.copy() for b in buffers]
    versions = [b._version.count for b in buffers]
    try:
        yield
    finally:
        for buffer, copy, version in zip(buffers, copies, versions):
            buffer._array[...] = copy
            buffer._version.count = version


def labels_of(f: Any, xs: Sequence[Any], names: Sequence[str] | None = None) -> list[str]:
    """The names of the inputs in a report: those given, or else the parameters of ``f``."""
    if names is not None:
        if len(names) != len(xs):
            raise ArgumentError(message("check", f"{len(xs)} names", len(names)))
        return list(names)
    with contextlib.suppress(TypeError, ValueError):  # built-in functions have no signature
        parameters = list(inspect.signature(f).parameters.values())[: len(xs)]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(parameters) == len(xs) and all(p.kind in positional for p in parameters):
            return [p.name for p in parameters]
    return [f"input {i}" for i in range(len(xs))]


def _upstream(f: Callable[..., Tensor], xs: Sequence[Any], seed: int) -> Tensor:
    y = f(*xs)
    draws = np.random.default_rng(seed + 1).standard_normal(y.shape).astype(y.dtype)
    return Tensor(draws).to(y.device).requires_grad_()


def _second(f: Callable[..., Tensor], count: int) -> Callable[..., Tensor]:
    """(inputs, v) → the entries of vᵀJ, one after the other."""

    def product(*arguments: Tensor) -> Tensor:
        *points, upstream = arguments
        with enable_grad():
            found = grad(f(*points), points, upstream, create_graph=True, allow_unused=True)
        return concatenate(
            [(zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(found, points)]
        )

    return product


class _Check:
    """One check, from options to report."""

    def __init__(
        self,
        function: str,
        labels: list[str],
        probes: int | None = None,
        reference: str | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        seed: int = 0,
    ) -> None:
        if reference is not None and reference not in REFERENCES:
            raise unknown("reference", reference, REFERENCES)
        if probes is not None and (not isinstance(probes, int) or probes < 1):
            raise ArgumentError(message("check", "probes >= 1", probes))
        self.function, self.labels = function, labels
        self.probes, self.reference = probes, reference
        self.rtol, self.atol = rtol, atol
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ArgumentError(message("check", "seed an integer >= 0", repr(seed)))
        self.rng = np.random.default_rng(seed)
        self.notes: list[str] = []

    def run(self, point: Point, unused: bool = False) -> Report:
        """``unused``: the result need not depend on every tensor (its second derivative is 0)."""
        single = [x.dtype == np.float32 for x in point.varied]
        if any(single):
            whose = ", ".join(label for label, one in zip(self.labels, single) if one)
            self.notes.append(
                f"float32 ({whose}): differences have 3 digits there at best, so the derivatives "
                "are checked in float64, and the float32 kernels against those"
            )
        with point:
            with explained(any(single)):
                backward, again = Backward(point), Backward(point)
            y = backward.y
            check_result(self.function, y, again.y)
            value = host(y._array)
            where = "numpy" if _backend.get() == "numpy" else "numba"
            if device_of(y._array).type != "cpu":
                where = str(device_of(y._array))
            ladder = Ladder(point, value, self.reference, self.rng)
            if ladder.fault:
                backward.faults.append(ladder.fault)
            if ladder.reason and self.reference is None:
                self.notes.append(f"no complex step: {ladder.reason}")
            v = self.rng.standard_normal(y.numel())
            backward.inspect(v, again)
            full = [self.probes is None and y.numel() * x.numel() <= FULL for x in point.varied]
            uncertainty = Uncertainty(point, backward, ladder)
            comparisons = self._entries(point, backward, ladder, uncertainty, full, v)
            if not all(full):
                self._probes(point, backward, ladder, uncertainty, full, comparisons)
            self._influence(backward, comparisons, unused)
            results = self._results(value.shape, point, comparisons)
            if any(single):
                float32 = Float32(point, backward, comparisons, uncertainty, self.rng)
                results = [
                    replace(result, rounding=float32.error(index))
                    for index, result in enumerate(results)
                ]
                self.notes += float32.notes
            faults = [self._named(fault) for fault in backward.faults]
        return Report(self.function, tuple(results), tuple(faults), tuple(self.notes), where)

    def _entries(
        self,
        point: Point,
        backward: Backward,
        ladder: Ladder,
        uncertainty: Uncertainty,
        full: list[bool],
        v: Array,
    ) -> list[Comparison | None]:
        found: list[Comparison | None] = []
        analytic = backward.jacobians(full)
        dense = backward.products(v) if any(full) else []
        for index, jacobian in enumerate(analytic):
            if jacobian is None:
                found.append(None)
                continue
            slopes = ladder.columns(index)

            def judge(
                moved: float = 0.0,
                jacobian: Array = jacobian,
                slopes: list[Slope] = slopes,
                index: int = index,
            ) -> Comparison:
                comparison = compare_entries(jacobian, slopes, self.rtol, self.atol)
                comparison.add_dense(v, dense[index], moved)
                return comparison

            comparison = judge()
            wrong = comparison.wrong.any(axis=0)
            if wrong.any():  # is it rounding? as where large terms cancel
                noise = MARGIN * uncertainty.of(index, wrong)
                # and as in 1 - y², where the whole of y has gone (a saturated tanh, softmax)
                reach = max(1.0, float(np.abs(point.values[index]).max()))
                gone = 4 * EPS * reach * np.abs(host(backward.y._array)).reshape(-1)
                for k, slope in enumerate(slopes):
                    slope.noise = slope.noise + noise[k] + gone
                comparison = judge(MARGIN * uncertainty.of_dense(v))
            found.append(comparison)
            self._kinks(point, index, comparison)
        return found

    def _probes(
        self,
        point: Point,
        backward: Backward,
        ladder: Ladder,
        uncertainty: Uncertainty,
        full: list[bool],
        comparisons: list[Comparison | None],
    ) -> None:
        """Fill in the arguments that are too large: K upstream gradients, K directions each."""
        count = self.probes or PROBES
        upstreams = [self.rng.standard_normal(backward.y.numel()) for _ in range(count)]
        products = [backward.products(v) for v in upstreams]
        for index, value in enumerate(point.values):
            if full[index]:
                continue
            directions = [self.rng.standard_normal(value.shape) for _ in range(count)]
            scale = typical(value)
            slopes, ways = [], []
            for direction in directions:
                along: list[Array | None] = [None] * len(point.values)
                along[index] = direction * scale
                ways.append(along)
                slope = ladder.slope(along)
                slopes.append(slope)

            def judge(
                moved: Array | float = 0.0,
                index: int = index,
                slopes: list[Slope] = slopes,
                directions: list[Array] = directions,
                scale: float = scale,
            ) -> Comparison:
                mine = [p[index] for p in products]
                tolerances = (self.rtol, self.atol, moved)
                return compare_probes(mine, upstreams, directions, slopes, scale, *tolerances)

            comparison = judge()
            if comparison.wrong.any():
                for slope, along in zip(slopes, ways):
                    slope.noise = slope.noise + MARGIN * ladder.rounding(along)
                comparison = judge(MARGIN * uncertainty.of_products(index, upstreams))
            comparisons[index] = comparison

    def _kinks(self, point: Point, index: int, comparison: Comparison) -> None:
        shape, label = point.values[index].shape, self.labels[index]
        for column, names in list(comparison.kinks.items())[:3]:
            place = [int(i) for i in np.unravel_index(column, shape)]
            self.notes.append(f"{label}{place} sits on a switch of {' and '.join(names)}")
        if len(comparison.kinks) > 3:
            self.notes.append(f"and {len(comparison.kinks) - 3} more entries of {label}")

    def _influence(
        self, backward: Backward, comparisons: list[Comparison | None], unused: bool
    ) -> None:
        for label, reached, comparison in zip(self.labels, backward.reached, comparisons):
            if comparison is not None and not comparison.numeric.size:
                self.notes.append(f"nothing to compare for {label}: it or the result is empty")
            elif reached or comparison is None:
                continue
            elif not comparison.numeric_is_zero:
                what = "backward computes with it" if unused else "the result depends on it"
                self.notes.append(
                    f"no path on the tape leads back to {label}, though {what}: is there a "
                    "detach(), .data, .numpy() or no_grad() on the way?"
                )
            elif not unused:
                raise GraphError(
                    f"check: expected a result of {self.function} that depends on {label}, got "
                    f"one that does not. Leave {label} out of the inputs."
                )

    def _results(
        self, shape: tuple[int, ...], point: Point, comparisons: list[Comparison | None]
    ) -> list[ArgumentResult]:
        done = [c for c in comparisons if c is not None]
        jacobians = {
            label: (c.analytic, c.numeric) for label, c in zip(self.labels, done) if not c.probes
        }
        results = []
        for label, value, comparison in zip(self.labels, point.values, done):
            result = comparison.result(label, value.shape, shape)
            if result.failures and not comparison.probes:
                others = {name: pair for name, pair in jacobians.items() if name != label}
                pattern = describe(
                    comparison.analytic, comparison.numeric, comparison.wrong,
                    shape, value.shape, label, others,
                )  # fmt: skip
                result = replace(
                    result, pattern="; ".join(filter(None, (comparison.dense, pattern)))
                )
            results.append(result)
        return results

    def _named(self, fault: str) -> str:
        for index in reversed(range(len(self.labels))):
            fault = fault.replace(f"argument {index}", self.labels[index])
        return fault

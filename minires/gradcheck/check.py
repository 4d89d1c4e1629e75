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

from .. import arguments, random
from ..autograd import copied, enable_grad, grad
from ..creation import zeros_like
from ..device import assign, backend_name, device_of, writeable
from ..errors import ArgumentError, DTypeError, GraphError, message, quoted
from ..nn import Module
from ..ops import concatenate
from ..tensor import Tensor
from .analytic import Backward
from .compare import Comparison, compare_entries, compare_probes
from .demands import as_list, check_inputs, check_result, explained, seed_of
from .numeric import Ladder, known_reference, typical
from .patterns import describe
from .point import EPS, Array, Guard, Point, host
from .report import ArgumentResult, Report
from .rounding import Float32, Uncertainty

FULL = 1_000_000  # entries of a Jacobian up to which every one is compared
PROBES = 8
MOST_PROBES = 1_000_000
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
    options: dict[str, Any] = {
        "rtol": rtol, "atol": atol, "probes": probes, "reference": reference, "seed": seed
    }  # fmt: skip
    xs = as_list(inputs)
    if isinstance(f, Module):
        return check_module(f, xs, **options)
    labels = labels_of(f, xs, names)
    check_inputs(labels, xs)
    arguments.takes("check", "f", f, len(xs))
    checker = _Check(**options)
    held, guard = reached(f, xs)
    return checker.run(Point(f, xs, xs, held, guard, labels=labels))


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
    arguments.takes("check", "f", f, len(xs))
    held, guard = reached(f, xs)
    return _Check(seed=seed, **options).run_second(Point(f, xs, xs, held, guard, labels=labels))


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
    second_order = arguments.flag("check_module", "second_order", second_order)
    if not isinstance(module, Module):
        got = type(module).__name__
        raise DTypeError(message("check_module", "a Module", got, fix="Use check for a function."))
    xs = as_list(inputs)
    wanted = [x for x in xs if not (isinstance(x, Tensor) and x.dtype.kind in "iub")]
    arguments.taken("check_module", module, xs, {})
    labels = labels_of(module.forward, xs, None)
    labels = [label for label, x in zip(labels, xs) if any(x is w for w in wanted)]
    learnt = {name: p for name, p in module.named_parameters() if p.requires_grad}
    frozen = [p for p in module.parameters() if not p.requires_grad]
    labels += list(learnt)
    varied = [*wanted, *learnt.values()]
    check_inputs(labels, varied)
    buffers = list(module.buffers())
    state = random.get_state()

    @contextlib.contextmanager
    def as_before() -> Iterator[None]:
        with random.preserved(), unchanged(buffers):
            random.set_state(state)
            yield

    held = [*buffers, *frozen]
    name = type(module).__name__
    point = Point(module, xs, varied, held, as_before, name=name, labels=labels)
    checker = _Check(seed=seed, **options)
    return checker.run_second(point) if second_order else checker.run(point)


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
    """Put the buffers back afterwards; those in read-only memory stay by themselves."""
    buffers = [b for b in buffers if writeable(b._array)]
    copies = [copied(b._array) for b in buffers]
    versions = [b._version.count for b in buffers]
    try:
        yield
    finally:
        for buffer, copy, version in zip(buffers, copies, versions):
            assign(buffer._array, copy)
            buffer._version.restore(version)


def labels_of(f: Any, xs: Sequence[Any], names: Sequence[str] | None = None) -> list[str]:
    """The names of the inputs in a report: those given, or else the parameters of ``f``."""
    if names is not None:
        known = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
        if not known or len(names) != len(xs):
            raise ArgumentError(message("check", f"{len(xs)} names", quoted(names)))
        return list(names)
    # built-in functions have no signature; what is no function may raise anything
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        parameters = list(inspect.signature(f).parameters.values())[: len(xs)]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(parameters) == len(xs) and all(p.kind in positional for p in parameters):
            return [p.name for p in parameters]
    return [f"input {i}" for i in range(len(xs))]


class _Check:
    """One check, from a point and options to a report."""

    def __init__(
        self,
        probes: int | None = None,
        reference: str | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        seed: int = 0,
    ) -> None:
        known_reference(reference)
        if probes is not None:
            probes = arguments.integer("check", "probes", probes, 1, MOST_PROBES)
        rtol, atol = (
            None if tolerance is None else arguments.number("check", name, tolerance, least=0)
            for name, tolerance in (("rtol", rtol), ("atol", atol))
        )
        seed = seed_of("check", seed)
        self.probes, self.reference = probes, reference
        self.rtol, self.atol, self.seed = rtol, atol, seed
        self.rng = np.random.default_rng(seed)
        self.notes: list[str] = []

    def run_second(self, point: Point) -> Report:
        """Check the function (varied tensors, v) → the entries of vᵀJ, one after the other."""

        def call() -> Any:
            with point.guard():
                return point.f(*point.xs)

        y = call()
        check_result(point.name, y, call())
        draws = np.random.default_rng(self.seed + 1).standard_normal(y.shape).astype(y.dtype)
        v = Tensor(draws).to(y.device).requires_grad_()

        def product() -> Tensor:
            xs = point.varied
            with enable_grad():
                found = grad(point.f(*point.xs), xs, v, create_graph=True, allow_unused=True)
            return concatenate(
                [(zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(found, xs)]
            )

        name, labels = f"second order of {point.name}", [*point.labels, "v"]
        varied = [*point.varied, v]
        second = Point(product, [], varied, point.held, point.guard, name=name, labels=labels)
        return self.run(second, unused=True)

    def run(self, point: Point, unused: bool = False) -> Report:
        """``unused``: the result need not depend on every tensor (its second derivative is 0)."""
        self.point = point
        single = [x.dtype == np.float32 for x in point.varied]
        if any(single):
            whose = ", ".join(label for label, one in zip(point.labels, single) if one)
            self.notes.append(
                f"float32 ({whose}): differences have 3 digits there at best, so the derivatives "
                "are checked in float64, and the float32 kernels against those"
            )
        with point:
            with explained(any(single)):
                self.backward, again = Backward(point), Backward(point)
            y, faults = self.backward.y, self.backward.faults
            check_result(point.name, y, again.y)
            device = device_of(y._array)
            where = backend_name(y._array) if device.type == "cpu" else str(device)
            self.ladder = Ladder(point, host(y._array), self.reference, self.rng)
            if self.ladder.fault:
                faults.append(self.ladder.fault)
            if self.ladder.reason and self.reference is None:
                self.notes.append(f"no complex step: {self.ladder.reason}")
            if self.ladder.complex and device.type == "cuda":
                self.notes.append(
                    "complex step: taken on the CPU by the references, as a GPU's kernels have no "
                    f"complex numbers, and held against differences on {device}"
                )
            v = self.rng.standard_normal(y.numel())
            self.backward.inspect(v, again)
            self.uncertainty = Uncertainty(point, self.backward, self.ladder)
            comparisons = self._comparisons(v)
            self._influence(comparisons, unused)
            results = self._results(comparisons)
            if any(single):
                float32 = Float32(point, self.backward, comparisons, self.uncertainty, self.rng)
                results = [
                    replace(result, rounding=float32.error(index))
                    for index, result in enumerate(results)
                ]
                self.notes += float32.notes
        return Report(point.name, tuple(results), tuple(faults), tuple(self.notes), where)

    def _comparisons(self, v: Array) -> list[Comparison]:
        """One for each varied tensor: of every entry, or of probes where these are too many."""
        size = self.backward.y.numel()
        full = [self.probes is None and size * x.numel() <= FULL for x in self.point.varied]
        jacobians = self.backward.jacobians(full)
        dense = self.backward.products(v) if any(full) else []
        count = 0 if all(full) else self.probes or PROBES
        upstreams = [self.rng.standard_normal(size) for _ in range(count)]
        products = [self.backward.products(u) for u in upstreams]
        return [
            self._probes(index, upstreams, [p[index] for p in products])
            if jacobian is None
            else self._entries(index, jacobian, v, dense[index])
            for index, jacobian in enumerate(jacobians)
        ]

    def _entries(self, index: int, jacobian: Array, v: Array, product: Array) -> Comparison:
        """Every entry of one tensor's Jacobian, by backward row by row; ``product`` is vᵀJ by one
        backward pass."""
        slopes = self.ladder.columns(index)
        comparison = compare_entries(jacobian, slopes, self.rtol, self.atol)
        comparison.add_dense(v, product)
        wrong = comparison.wrong.any(axis=0)
        if wrong.any():  # is it rounding? as where large terms cancel
            noise = MARGIN * self.uncertainty.of(index, wrong)
            # and as in 1 - y², where the whole of y has gone (a saturated tanh, softmax)
            reach = max(1.0, float(np.abs(self.point.values[index]).max()))
            gone = 4 * EPS * reach * np.abs(host(self.backward.y._array)).reshape(-1)
            for k, slope in enumerate(slopes):
                slope.noise = slope.noise + noise[k] + gone
            comparison = compare_entries(jacobian, slopes, self.rtol, self.atol)
            comparison.add_dense(v, product, MARGIN * self.uncertainty.of_dense(v))
        self._kinks(index, comparison)
        return comparison

    def _probes(self, index: int, upstreams: list[Array], products: list[Array]) -> Comparison:
        """Random directions of one tensor, as many as there are upstream gradients; ``products``
        are the vᵀJ of these."""
        values = self.point.values
        scale = typical(values[index])
        directions = [self.rng.standard_normal(values[index].shape) for _ in upstreams]
        ways = [
            [direction * scale if i == index else None for i in range(len(values))]
            for direction in directions
        ]
        slopes = [self.ladder.slope(way) for way in ways]
        probes = products, upstreams, directions, slopes, scale, self.rtol, self.atol
        comparison = compare_probes(*probes)
        if comparison.wrong.any():
            for slope, way in zip(slopes, ways):
                slope.noise = slope.noise + MARGIN * self.ladder.rounding(way)
            moved = MARGIN * self.uncertainty.of_products(index, upstreams)
            comparison = compare_probes(*probes, moved)
        return comparison

    def _kinks(self, index: int, comparison: Comparison) -> None:
        shape, label = self.point.values[index].shape, self.point.labels[index]
        for column, names in list(comparison.kinks.items())[:3]:
            place = [int(i) for i in np.unravel_index(column, shape)]
            self.notes.append(f"{label}{place} sits on a switch of {' and '.join(names)}")
        if len(comparison.kinks) > 3:
            self.notes.append(f"and {len(comparison.kinks) - 3} more entries of {label}")

    def _influence(self, comparisons: list[Comparison], unused: bool) -> None:
        rows = zip(self.point.labels, self.backward.reached, comparisons)
        for label, reached, comparison in rows:
            if not comparison.numeric.size:
                self.notes.append(f"nothing to compare for {label}: it or the result is empty")
            elif reached:
                continue
            elif not comparison.numeric_is_zero:
                what = "backward computes with it" if unused else "the result depends on it"
                self.notes.append(
                    f"no path on the tape leads back to {label}, though {what}: is there a "
                    "detach(), .data, .numpy() or no_grad() on the way?"
                )
            elif not unused:
                raise GraphError(
                    f"check: expected a result of {self.point.name} that depends on {label}, got "
                    f"one that does not. Leave {label} out of the inputs."
                )

    def _results(self, comparisons: list[Comparison]) -> list[ArgumentResult]:
        shape, labels = self.backward.y.shape, self.point.labels
        jacobians = {
            label: (c.analytic, c.numeric) for label, c in zip(labels, comparisons) if not c.probes
        }
        results = []
        for label, value, comparison in zip(labels, self.point.values, comparisons):
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

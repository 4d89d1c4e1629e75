"""The check: every entry of the Jacobian by backward, against every entry by differences.

For f from R^n to R^m, backward gives the Jacobian row by row, differences give it column by
column, ``(f(x + h e_j) - f(x - h e_j)) / 2h``. The upstream gradients are never ones: the sum of
normalised outputs does not depend on the inputs at all, so a check with ones passes a batch norm
whose input gradient is zero. Here each row is asked for with an upstream gradient of random size
and sign in one entry, and then all rows once more by one dense random vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..autograd import enable_grad, grad, no_grad
from ..errors import ArgumentError, DTypeError, GraphError, NaNError, message
from ..ops import concatenate
from ..tensor import Tensor, zeros_like
from .report import ArgumentResult, Report

# Central differences in float64: truncation ~ h², rounding ~ eps / h; h = cbrt(eps) balances them.
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


def check(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Tensor,
    *,
    names: Sequence[str] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> Report:
    """Compare the gradients of ``f`` with central differences.

    Args:
        f: takes the inputs, returns one tensor; the same values for the same inputs.
        inputs: float64 leaves that require grad, of which ``f``'s result may also depend through
            a closure (a module's parameters). They are changed in place while the check runs,
            and restored.
        names: of the inputs, for the report.
        rtol, atol: an entry may differ by atol + rtol * |numeric|.
        seed: of the random upstream gradients.

    Returns:
        A report; call ``.assert_ok()`` on it.

    Raises:
        DTypeError: inputs that are not float64 tensors, or a result that is no tensor.
        GraphError: inputs that do not require grad.
        NaNError: ``f`` gives NaN or infinity at this point.
        ArgumentError: two calls of ``f`` differ.

    >>> import minires as mr
    >>> from minires.gradcheck import check
    >>> x = mr.tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> print(check(mr.tanh, x, names=["x"]))
    tanh: ok
    x (2,): ok, 4 entries
    """
    function = getattr(f, "__name__", type(f).__name__)
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    labels = list(names) if names is not None else [f"input {i}" for i in range(len(xs))]
    if len(labels) != len(xs):
        raise ArgumentError(message("check", f"{len(xs)} names", len(labels)))
    for label, x in zip(labels, xs):
        _check_input(label, x)
    y = _check_output(function, f, xs)
    numeric = [_numeric_jacobian(f, xs, x, y.numel()) for x in xs]
    analytic = _analytic_jacobians(y, xs, np.random.default_rng(seed))
    return Report(
        function,
        tuple(
            ArgumentResult.compare(label, x.shape, y.shape, a, n, rtol, atol)
            for label, x, a, n in zip(labels, xs, analytic, numeric)
        ),
    )


def check2(
    f: Callable[..., Tensor], inputs: Sequence[Tensor] | Tensor, *, seed: int = 0, **options: Any
) -> Report:
    """:func:`check` of the second derivatives: of (inputs, v) → all entries of vᵀJ.

    Takes the arguments of :func:`check`; ``v`` is drawn at random.
    """
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    y = f(*xs)
    draws = np.random.default_rng(seed + 1).standard_normal(y.shape)
    v = Tensor(draws.astype(np.float64), requires_grad=True)

    def product(*arguments: Tensor) -> Tensor:
        *points, upstream = arguments
        with enable_grad():
            found = grad(f(*points), points, upstream, create_graph=True, allow_unused=True)
        parts = [(zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(found, points)]
        return concatenate(parts)

    product.__name__ = f"second order of {getattr(f, '__name__', type(f).__name__)}"
    return check(product, [*xs, v], seed=seed, **options)


def _check_input(label: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.dtype != np.float64:
        got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise DTypeError(
            message(
                "check",
                f"{label} to be a float64 tensor",
                got,
                fix="Differences need its digits: use x.detach().double().requires_grad_().",
            )
        )
    if not x.is_leaf or not x.requires_grad:
        raise GraphError(
            f"check: expected {label} to be a leaf that requires grad. "
            "Use x.detach().requires_grad_()."
        )
    if not x.data.flags.writeable:
        raise ArgumentError(f"check: {label} looks at read-only memory. Use x.clone().")


def _check_output(function: str, f: Callable[..., Tensor], xs: list[Tensor]) -> Tensor:
    y, again = f(*xs), f(*xs)
    if not isinstance(y, Tensor):
        raise DTypeError(message("check", f"{function} to return one tensor", type(y).__name__))
    if y.dtype != np.float64:
        raise DTypeError(message("check", f"{function} to return float64", str(y.dtype)))
    if not np.isfinite(y.data).all():
        raise NaNError(f"check: {function} gives NaN or infinity at this point.")
    if not np.array_equal(y.data, again.data):
        raise ArgumentError(
            f"check: two calls of {function} with the same inputs differ. Is dropout active, or "
            "a random generator without a seed?"
        )
    return y


def _numeric_jacobian(
    f: Callable[..., Tensor], xs: list[Tensor], x: Tensor, size: int
) -> NDArray[np.float64]:
    """(output size, x size), one central difference per entry of x."""
    jacobian = np.empty((size, x.numel()))
    with no_grad():
        for column, place in enumerate(np.ndindex(x.shape)):
            value = x.data[place]
            h = STEP * max(1.0, abs(value))
            ends = []
            for sign in (1, -1):
                x.data[place] = value + sign * h
                ends.append(f(*xs).data.reshape(-1).copy())
            x.data[place] = value
            jacobian[:, column] = (ends[0] - ends[1]) / (2 * h)
    return jacobian


def _analytic_jacobians(
    y: Tensor, xs: list[Tensor], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """(output size, x size) for each x, one backward per output entry.

    A last backward with a dense random upstream gradient v must give vᵀJ; where it does not, the
    first row takes the difference, so that the comparison with the differences fails there.
    """
    jacobians = [np.zeros((y.numel(), x.numel())) for x in xs]
    if not y.requires_grad:
        return jacobians

    def products(v: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        found = grad(y, xs, Tensor(v.reshape(y.shape)), retain_graph=True, allow_unused=True)
        return [
            np.zeros(x.numel()) if g is None else g.data.reshape(-1).copy()
            for g, x in zip(found, xs)
        ]

    for row in range(y.numel()):
        v = np.zeros(y.numel())
        v[row] = rng.choice([-1, 1]) * rng.uniform(0.5, 2)
        for jacobian, product in zip(jacobians, products(v)):
            jacobian[row] = product / v[row]
    if y.numel():
        v = rng.standard_normal(y.numel())
        for jacobian, product in zip(jacobians, products(v)):
            expected = v @ jacobian
            wrong = np.abs(product - expected) > 1e-9 * (1 + np.abs(v) @ np.abs(jacobian))
            jacobian[0, wrong] += (product - expected)[wrong]
    return jacobians

"""The dot-product test of linear operations: <Ju, v> = <u, Jᵀv>, with no difference taken.

For a linear f, f(u) is Ju itself, and backward gives Jᵀv; the two numbers are sums of the same
products in another order, so they agree to rounding error (Claerbout 1992, Earth Soundings
Analysis, ch. 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import arguments
from ..autograd import grad
from ..errors import ArgumentError
from ..tensor import Tensor
from .demands import as_list, check_inputs, check_result, seed_of
from .point import host, name_of
from .report import Verdict

TOLERANCE = 1e-12


@dataclass(frozen=True, repr=False)
class AdjointReport(Verdict):
    """The outcome: ``forward`` = <Ju, v>, ``backward`` = <u, Jᵀv>, of the worst pair (u, v).

    Attributes:
        error: their difference over ‖Ju‖ ‖v‖.
    """

    function: str
    forward: float
    backward: float
    error: float
    pairs: int

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "backward is not the adjoint of forward"
        return (
            f"{self.function}: {verdict}: <Ju, v> = {self.forward:.15g}, "
            f"<u, Jᵀv> = {self.backward:.15g}, relative difference {self.error:.1e}"
        )


def check_adjoint(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Tensor,
    *,
    pairs: int = 3,
    seed: int = 0,
) -> AdjointReport:
    """The dot-product test of ``f``, linear in all ``inputs`` taken together, in float64.

    Args:
        f: takes the inputs, returns one tensor.
        inputs: leaves that require grad; only their shapes matter.
        pairs: how many random pairs (u, v).

    Raises:
        ArgumentError: ``f`` is not linear.
        DTypeError, GraphError, NaNError: as :func:`minires.gradcheck.check`.

    >>> import minires as mr
    >>> from minires.gradcheck import check_adjoint
    >>> x = mr.ones(2, 3, requires_grad=True)
    >>> check_adjoint(lambda x: x.sum(0), x).ok
    True
    """
    pairs = arguments.integer("check_adjoint", "pairs", pairs, 1, 10_000)
    seed = seed_of("check_adjoint", seed)
    xs = as_list(inputs)
    check_inputs([f"input {i}" for i in range(len(xs))], xs)
    arguments.takes("check_adjoint", "f", f, len(xs))
    function = name_of(f)
    rng = np.random.default_rng(seed)

    def draw() -> list[Tensor]:
        return [Tensor(rng.standard_normal(x.shape)).to(x.device).requires_grad_() for x in xs]

    _demand_linear(function, f, draw(), draw())
    worst: AdjointReport | None = None
    for _ in range(pairs):
        u = draw()
        y = f(*u)
        ju = host(y._array)
        v = rng.standard_normal(y.shape)
        found = grad(y, u, Tensor(v).to(y.device), allow_unused=True)
        forward = float((ju * v).sum())
        backward = float(
            sum((host(x._array) * host(g._array)).sum() for x, g in zip(u, found) if g is not None)
        )
        size = float(np.linalg.norm(ju) * np.linalg.norm(v)) or 1.0
        report = AdjointReport(function, forward, backward, abs(forward - backward) / size, pairs)
        if worst is None or not report.error <= worst.error:
            worst = report
    assert worst is not None  # there is one pair at least
    return worst


def _demand_linear(
    function: str, f: Callable[..., Tensor], one: list[Tensor], other: list[Tensor]
) -> None:
    sides = []
    for xs in (one, other, [a * 2 - b * 3 for a, b in zip(one, other)]):
        y = f(*xs)
        check_result(function, y)
        sides.append(host(y._array))
    expected = 2 * sides[0] - 3 * sides[1]
    size = float(np.abs(expected).max(initial=0.0))
    if not np.allclose(sides[2], expected, rtol=1e-10, atol=1e-10 * size):
        raise ArgumentError(
            f"check_adjoint: expected {function} to be linear in its inputs taken together, got "
            "f(2u - 3w) that is not 2 f(u) - 3 f(w). Close over all but one factor, leave out a "
            "constant such as a bias, or use check."
        )

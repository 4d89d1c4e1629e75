"""What a gradient check found, argument by argument."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import GradcheckError


@dataclass(frozen=True)
class ArgumentResult:
    """The comparison for one argument of a function.

    Attributes:
        name: of the argument.
        shape: its shape.
        entries: how many entries of the Jacobian were compared.
        failures: how many of them disagree.
        worst: the place of the worst one: (index in the output, index in the argument).
        analytic, numeric: the two values there.
        error: |analytic - numeric| / (atol + rtol * |numeric|) there; above 1 is a failure.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    failures: int
    worst: tuple[tuple[int, ...], tuple[int, ...]]
    analytic: float
    numeric: float
    error: float

    @staticmethod
    def compare(
        name: str,
        shape: tuple[int, ...],
        output: tuple[int, ...],
        analytic: NDArray[np.float64],
        numeric: NDArray[np.float64],
        rtol: float,
        atol: float,
    ) -> ArgumentResult:
        """Compare two Jacobians, (output size, argument size). NaN disagrees with everything."""
        errors = np.abs(analytic - numeric) / (atol + rtol * np.abs(numeric))
        errors = np.where(np.isnan(errors), np.inf, errors)
        if not errors.size:
            return ArgumentResult(name, shape, 0, 0, ((), ()), 0.0, 0.0, 0.0)
        row, column = np.unravel_index(int(errors.argmax()), errors.shape)
        place = (
            tuple(int(i) for i in np.unravel_index(row, output)) if output else (),
            tuple(int(i) for i in np.unravel_index(column, shape)) if shape else (),
        )
        return ArgumentResult(
            name,
            shape,
            errors.size,
            int((errors > 1).sum()),
            place,
            float(analytic[row, column]),
            float(numeric[row, column]),
            float(errors[row, column]),
        )

    def __str__(self) -> str:
        if not self.failures:
            return f"{self.name} {self.shape}: ok, {self.entries} entries"
        ratio = self.analytic / self.numeric if self.numeric else float("inf")
        output, argument = self.worst
        return (
            f"{self.name} {self.shape}: {self.failures} of {self.entries} entries disagree\n"
            f"  worst   ∂output{list(output)} / ∂{self.name}{list(argument)}  "
            f"analytic {self.analytic:.6g}  numeric {self.numeric:.6g}  ratio {ratio:.4g}"
        )


@dataclass(frozen=True)
class Report:
    """The outcome of a check; ``bool(report)`` says whether all is well."""

    function: str
    arguments: tuple[ArgumentResult, ...]

    @property
    def ok(self) -> bool:
        return all(argument.failures == 0 for argument in self.arguments)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"{self.function}: {'ok' if self.ok else 'gradients disagree'}"]
        # the worst offender first
        for argument in sorted(self.arguments, key=lambda a: -a.error):
            lines.append(str(argument))
        return "\n".join(lines)

    def assert_ok(self) -> None:
        """Raise if any entry disagrees.

        Raises:
            GradcheckError: with the worst offender, and the verdict on every argument.
        """
        if not self.ok:
            raise GradcheckError(str(self))

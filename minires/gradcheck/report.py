"""What a gradient check found, argument by argument."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from .. import markup
from ..errors import GradcheckError

MOST_SKIPPED = 0.05  # a check of which more than this share was skipped at kinks has failed


class Verdict:
    """The outcome of a check: ``bool(outcome)`` says whether all is well, ``str`` what is wrong."""

    @property
    def ok(self) -> bool:
        raise NotImplementedError

    def __bool__(self) -> bool:
        return self.ok

    def _repr_html_(self) -> str:
        """For notebooks: the verdict, a table, and what is wrong in words."""
        mark = "✓" if self.ok else "✗"
        head, *rest = str(self).split("\n")
        more = f"<pre>{escape(chr(10).join(rest))}</pre>" if rest else ""
        table = self.table_html()
        if table and more:
            more = markup.details("in words", more, is_open=not self.ok)
        return f"<div><b>{mark} {escape(head)}</b></div>{table}{more}"

    def table_html(self) -> str:
        """The numbers as a table or a picture; none where the text says it all."""
        return ""

    def __repr__(self) -> str:
        return str(self)

    def assert_ok(self) -> None:
        """Raise unless all is well.

        Raises:
            GradcheckError: with the text of the outcome.
        """
        __tracebackhide__ = True  # pytest shows the failure at the line that asks
        if not self.ok:
            raise GradcheckError(str(self))


@dataclass(frozen=True)
class ArgumentResult:
    """The comparison for one argument of a function.

    Attributes:
        name: of the argument.
        shape: its shape.
        entries: how many entries of the Jacobian were compared (or how many probes).
        failures: how many of them disagree.
        skipped: how many could not be judged: they sit on a kink, where no derivative exists to
            compare with, or differences did not converge.
        output: where the worst entry stands in the output; () for a probe.
        index: where it stands in the argument; () for a probe.
        analytic, numeric: the two values there.
        error: |analytic - numeric| there over what is allowed; above 1 is a failure.
        relative: the worst |analytic - numeric| in proportion: to |numeric| and 1 % of the
            largest entry in its row or column, and to what rounding does where terms cancel.
        reference: how the numerical derivative was taken, as in "complex step".
        pattern: what the failing entries have in common, in words; "" if nothing fails.
        rounding: the worst error of the float32 kernels over the accumulated rounding error of
            their sums, where the input was float32 (else None); above ``ROUNDING_LIMIT`` fails.
        probes: "" when every entry was compared, else what random probes can and cannot see.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    failures: int
    skipped: int
    output: tuple[int, ...]
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    relative: float
    reference: str
    pattern: str = ""
    rounding: float | None = None
    probes: str = ""

    @property
    def ok(self) -> bool:
        """Nothing disagrees, few entries were skipped, and float32 rounds as it should."""
        return not (self.failures or self.too_many_skipped or self.rounds_badly)

    @property
    def too_many_skipped(self) -> bool:
        return self.skipped > MOST_SKIPPED * (self.entries + self.skipped)

    @property
    def rounds_badly(self) -> bool:
        return self.rounding is not None and not self.rounding <= ROUNDING_LIMIT

    @property
    def ratio(self) -> float:
        """analytic / numeric at the worst entry."""
        if not self.numeric:
            return float("inf")
        return self.analytic / self.numeric + 0.0  # no -0

    def verdict(self) -> str:
        """This argument in one line."""
        what = "probes" if self.probes else "entries"
        if self.failures:
            text = f"{self.failures:,} of {self.entries:,} {what} disagree"
        elif self.too_many_skipped:
            total = self.entries + self.skipped
            text = f"only {self.entries:,} of {total:,} {what} could be checked"
        elif self.rounds_badly:
            text = f"float32 errs by {self.rounding:.1f} units of rounding"
        else:
            text = f"ok {self.relative:.1e}, {self.entries:,} {what}"
        return f"{self.name} {list(self.shape)}: {text}"

    def __str__(self) -> str:
        lines = [self.verdict()]
        if self.failures and self.probes:
            lines.append(
                f"  worst    vᵀJu  analytic {self.analytic:.6g}  numeric {self.numeric:.6g}  "
                f"ratio {self.ratio:.5g}"
            )
        elif self.failures:
            lines.append(
                f"  worst    ∂output{list(self.output)} / ∂{self.name}{list(self.index)}  "
                f"analytic {self.analytic:.6g}  numeric {self.numeric:.6g}  "
                f"ratio {self.ratio:.5g}"
            )
        if self.pattern:
            lines.append(f"  pattern  {self.pattern}")
        lines.append(
            f"  checked  {self.entries:,}, kink-skipped {self.skipped:,}  "
            f"reference {self.reference}"
            + (f"  float32 {self.rounding:.2f} units" if self.rounding is not None else "")
        )
        if self.probes:
            lines.append(f"  probes   {self.probes}")
        return "\n".join(lines)


# The float32 kernels may differ from the float64 reference by this many times
# sqrt(n) * eps * sum(|products|), n the number of products: rounding errors add up like a random
# walk, and a few of its standard deviations are allowed.
ROUNDING_LIMIT = 2.0


@dataclass(frozen=True, repr=False)
class Report(Verdict):
    """What :func:`minires.gradcheck.check` and its siblings found, argument by argument.

    Attributes:
        function: its name.
        arguments: one result for each.
        faults: what is wrong besides numbers, as in "backward writes into its upstream gradient".
        notes: what the reader should know, as in "input 0 is float32: checked in float64".
        backend: where the function ran: "numpy", "numba" or a CUDA device.
    """

    function: str
    arguments: tuple[ArgumentResult, ...]
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    backend: str = ""

    @property
    def ok(self) -> bool:
        return not self.faults and all(argument.ok for argument in self.arguments)

    def __str__(self) -> str:
        where = f" on {self.backend}" if self.backend else ""
        lines = [f"{self.function}{where}: {'ok' if self.ok else 'the gradient is wrong'}"]
        lines += [f"fault: {fault}" for fault in self.faults]
        # the worst offender first, then the verdicts on the others
        for argument in sorted(self.arguments, key=lambda a: (a.ok, 0 if a.ok else -a.error)):
            lines.append(str(argument))
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def table_html(self) -> str:
        heads = ["argument", "shape", "compared", "wrong", "skipped", "error", "reference", ""]
        rows = [
            [a.name, a.shape, f"{a.entries:,}", f"{a.failures:,}", f"{a.skipped:,}",
             f"{a.relative:.1e}", a.reference, "✓" if a.ok else "✗"]
            for a in self.arguments
        ]  # fmt: skip
        return markup.table(heads, rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "ok": self.ok}

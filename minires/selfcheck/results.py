"""What the checks found, case by case and as rows of the table."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .. import markup
from ..gradcheck import AdjointReport
from ..gradcheck.report import ArgumentResult, Report
from ..report.figures import to_bytes
from . import figures
from .catalogue.case import Case


@dataclass(frozen=True)
class Outcome:
    """What the checks of one case on one backend found.

    Attributes:
        first, second: first and second derivatives; None if the check itself ended in ``error``.
        adjoint: one report for each group of arguments in which the function is linear.
        error: the exception that ended the checks, in words.
        missing: why there is nothing to check: no kernel on this device.
        note: where the case comes from, if it was drawn.
    """

    case: Case
    backend: str
    first: Report | None = None
    second: Report | None = None
    adjoint: tuple[AdjointReport, ...] = ()
    error: str = ""
    missing: str = ""
    note: str = ""

    @property
    def reports(self) -> list[Report | AdjointReport]:
        found: list[Report | AdjointReport | None] = [self.first, self.second, *self.adjoint]
        return [report for report in found if report is not None]

    @property
    def faults(self) -> bool:
        """Whether something is wrong that is no argument's own."""
        reports = [report for report in (self.first, self.second) if report is not None]
        return bool(self.error) or any(report.faults for report in reports)

    @property
    def ok(self) -> bool:
        return not self.error and all(self.reports)

    def failure(self) -> str:
        """Everything that is wrong, in words; "" if nothing is."""
        texts = [
            str(report)
            for report in (self.first, *self.adjoint)
            if report is not None and not report
        ]
        if self.second is not None and not self.second:
            wrong = [a.name for a in self.second.arguments if not a.ok] + [*self.second.faults]
            follows = f"{self.second.function}: wrong too ({', '.join(wrong)})"
            texts.append(follows if self.first is not None and not self.first else str(self.second))
        if self.error:
            texts.append(f"{self.case} on {self.backend}: {self.error}")
        if texts and self.note:
            texts.insert(0, self.note)
        return "\n".join(texts)


@dataclass
class Row:
    """One line of the table: one argument of one operation on one backend, over its cases.

    Attributes:
        kind, name, argument, backend: whose line this is.
        cases: how many shapes and options were taken.
        entries: how many entries of Jacobians were compared; ``probes`` of them are random
            probes, each over a whole Jacobian.
        relative: the worst relative error.
        references: how the numerical derivatives were taken.
        skipped: entries on a kink.
        second: the worst relative error of second derivatives; None where there are none.
        second_ok: whether they agree.
        rounding: the worst error of float32 in units of accumulated rounding; None for float64.
        adjoint: the worst relative error of ⟨Ju, v⟩ = ⟨u, Jᵀv⟩; None where nothing is linear.
        ok: whether all is well.
        missing: whether the backend has no kernel.
    """

    kind: str
    name: str
    argument: str
    backend: str
    cases: int = 0
    entries: int = 0
    probes: int = 0
    relative: float = 0.0
    references: list[str] = field(default_factory=list)
    skipped: int = 0
    second: float | None = None
    second_ok: bool = True
    rounding: float | None = None
    adjoint: float | None = None
    ok: bool = True
    missing: bool = False

    def add_first(self, result: ArgumentResult) -> None:
        if result.probes:
            self.probes += result.entries
        self.entries += result.entries
        self.relative = _worst(self.relative, result.relative)
        self.skipped += result.skipped
        if result.reference not in self.references:
            self.references.append(result.reference)
        if result.rounding is not None:
            self.rounding = _worst(self.rounding, result.rounding)
        self.ok &= result.ok

    def add_second(self, result: ArgumentResult) -> None:
        self.second = _worst(self.second, result.relative)
        self.second_ok &= result.ok
        self.ok &= result.ok

    def add_adjoint(self, report: AdjointReport) -> None:
        self.adjoint = _worst(self.adjoint, report.error)
        self.ok &= report.ok

    def cells(self) -> dict[str, str]:
        """The numbers of the line, as tables show them; "" where there is nothing to say."""
        verdict = "no kernel" if self.missing else "ok" if self.ok else "FAIL"
        return {
            "entries": f"{self.entries:,}" + (" vᵀJu" if self.probes else "")
            if self.references
            else "",
            "error": brief(self.relative) if self.references else "",
            "reference": _weakest(self.references),
            "skipped": f"{self.skipped:,}" if self.references else "",
            "second": brief(self.second),
            "rounding": "" if self.rounding is None else f"{self.rounding:.2f}",
            "adjoint": brief(self.adjoint),
            "verdict": verdict,
        }


def _argument(case: Case, name: str) -> str:
    """The argument's line: in a whole network, one for the same parameter of all its blocks."""
    return re.sub(r"^layer\d+\.\d+\.", "layer*.", name) if case.probes else name


def brief(number: float | None) -> str:
    """``2e-16``; "0" for an exact zero, "" for None."""
    if number is None:
        return ""
    return f"{number:.0e}" if number else "0"


def _weakest(references: list[str]) -> str:
    """The last rung of the ladder that was needed, in a word."""
    ladder = {"central": "central", "richardson": "5-point", "complex": "complex"}
    found = (word for rung, word in ladder.items() for r in references if rung in r)
    return next(found, "")


def _worst(one: float | None, other: float) -> float:
    """The larger; NaN if one of them is NaN."""
    return other if one is None else float(np.maximum(one, other))


@dataclass(frozen=True)
class Result:
    """What the whole run found. Notebooks show it as its table and its figure.

    Attributes:
        outcomes: of each case on each backend.
        seed: of values, probes and random shapes.
        seconds, compile_seconds: how long the checks took, and compiling before them.
        pages: the reports that were written of it.
    """

    outcomes: tuple[Outcome, ...]
    seed: int
    seconds: float
    compile_seconds: float
    pages: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(outcome.ok for outcome in self.outcomes)

    def summary(self) -> str:
        """The whole run in one sentence."""
        firsts = [outcome.first for outcome in self.outcomes if outcome.first is not None]
        entries = sum(a.entries for report in firsts for a in report.arguments)
        skipped = sum(a.skipped for report in firsts for a in report.arguments)
        failed = sum(not outcome.ok for outcome in self.outcomes)
        missing = sum(bool(outcome.missing) for outcome in self.outcomes)
        backends = " and ".join(dict.fromkeys(outcome.backend for outcome in self.outcomes))
        count = len(self.outcomes)
        text = f"{failed} of {count} cases fail" if failed else f"All {count} cases hold"
        text += f" on {backends}: {entries:,} entries checked, {skipped:,} skipped at kinks"
        if missing:
            text += f", {missing} cases without a kernel"
        text += f", in {self.seconds:.1f} s"
        if self.compile_seconds >= 1:
            text += f" (kernels were ready after {self.compile_seconds:.1f} s)"
        return text + "."

    def __repr__(self) -> str:
        reports = [f"Report: {page}" for page in self.pages]
        return "\n".join([self.summary(), *self.first_failures(), *reports])

    def _repr_html_(self) -> str:
        rows = self.rows()
        heads = ["operation", "argument", "on", *Row("", "", "", "").cells()]
        cells = ([row.name, row.argument, row.backend, *row.cells().values()] for row in rows)
        wrong = "".join(f"<pre>{escape(text)}</pre>" for text in self.first_failures())
        svg = to_bytes(figures.errors(rows), "svg")
        links = (
            f'<a href="{escape(page.as_posix())}">{escape(str(page))}</a>' for page in self.pages
        )
        reports = "".join(f"<p>Report: {link}</p>" for link in links)
        table = markup.details("every argument", markup.table(heads, cells, left=3))
        drawn = markup.picture(svg, "the largest relative error of each argument")
        return f"<p>{escape(self.summary())}</p>{wrong}{drawn}{table}{reports}"

    def failures(self) -> list[str]:
        """A text for each case that fails."""
        return [outcome.failure() for outcome in self.outcomes if not outcome.ok]

    def first_failures(self) -> list[str]:
        """:func:`failures` for a terminal: of each operation on each backend the first, and the
        smallest random one; the others by name."""
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            if not outcome.ok:
                groups.setdefault((outcome.case.name, outcome.backend), []).append(outcome)
        texts = []
        for (name, place), (first, *others) in groups.items():
            texts.append(first.failure())
            if rest := [outcome.case.label for outcome in others if not outcome.note]:
                texts.append(f"{name} on {place} fails as well at: {'; '.join(rest)}")
            texts += [outcome.failure() for outcome in others if outcome.note]
        return texts

    def rows(self) -> list[Row]:
        """The table: by operation in the order of the catalogue, by argument, by backend."""
        rows: dict[tuple[str, str, str], Row] = {}

        def row(outcome: Outcome, argument: str) -> Row:
            case = outcome.case
            key = case.name, argument, outcome.backend
            return rows.setdefault(key, Row(case.kind, *key))

        for outcome in self.outcomes:
            own = {}
            for result in outcome.first.arguments if outcome.first is not None else ():
                own[result.name] = row(outcome, _argument(outcome.case, result.name))
                own[result.name].add_first(result)
            for result in outcome.second.arguments if outcome.second is not None else ():
                if result.name in own:
                    own[result.name].add_second(result)
                elif not result.ok:  # the upstream gradient has a line only where it fails
                    row(outcome, result.name).add_second(result)
            for group, report in zip(outcome.case.linear, outcome.adjoint):
                for name in group:
                    own[name].add_adjoint(report)
            for line in {id(line): line for line in own.values()}.values():
                line.cases += 1
            if not own or outcome.faults:  # no argument's own: shown at the first
                line = row(outcome, next(iter(outcome.case.inputs)))
                line.missing, line.ok = bool(outcome.missing), line.ok and outcome.ok
        places: dict[Any, int] = {}
        for level in (lambda r: r.name, lambda r: (r.name, r.argument), lambda r: r.backend):
            for line in rows.values():
                places.setdefault(level(line), len(places))
        return sorted(
            rows.values(),
            key=lambda r: (places[r.name], places[r.name, r.argument], places[r.backend]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "rows": [asdict(row) for row in self.rows()],
            "failures": self.failures(),
        }

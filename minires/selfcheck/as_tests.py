"""The catalogue as items of pytest: what ``pytest --minires-gradcheck`` adds to a run."""

from __future__ import annotations

from typing import Any

import pytest

from ..errors import GradcheckError
from .catalogue.case import Case
from .runner import Backend, examine, plan


def collect(session: pytest.Session) -> list[pytest.Item]:
    """One item for each operation, layer and block on each backend."""
    folder = GradcheckSuite.from_parent(session, name="minires", nodeid="minires")
    jobs: dict[tuple[str, Backend], list[Case]] = {}
    for case, place in plan().jobs:
        jobs.setdefault((case.name, place), []).append(case)
    items: list[Any] = [
        GradcheckItem.from_parent(
            folder, name=f"gradcheck[{name}-{place.name}]", cases=cases, place=place
        )
        for (name, place), cases in jobs.items()
    ]
    # what pytest says it collected is counted from such reports
    report = pytest.CollectReport(folder.nodeid, "passed", None, items)
    session.config.hook.pytest_collectreport(report=report)
    return items


class GradcheckSuite(pytest.Collector):
    """What the items hang from in the tree of tests."""

    def collect(self) -> list[pytest.Item]:
        return []


class GradcheckItem(pytest.Item):
    """The cases of one operation, layer or block on one backend."""

    def __init__(self, *, cases: list[Case], place: Backend, **options: Any) -> None:
        super().__init__(**options)
        self._cases, self._place = cases, place

    def runtest(self) -> None:
        failures = []
        for case in self._cases:
            outcome = examine(case, self._place)
            if outcome.missing:
                pytest.skip(outcome.missing)
            if not outcome.ok:
                failures.append(outcome.failure())
        if failures:
            raise GradcheckError("\n\n".join(failures))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, GradcheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"minires gradcheck: {self.name}"

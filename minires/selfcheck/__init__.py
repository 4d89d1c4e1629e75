"""``minires gradcheck``: minires holds itself to its own checker.

* :mod:`.catalogue` lists what is checked: every operation, layer and block, at shapes and options
  that break kernels;
* :func:`plan` and its :meth:`~Plan.run` check the catalogue on every backend, and
  :class:`Result` and :class:`Row` are the table of what was found;
* :mod:`.planted` turns the question around: wrong backward passes that the checker must find;
* :mod:`.page` and :mod:`.gallery` are the report, as a page or as data;
* :mod:`.as_tests` makes tests of the catalogue, for pytest.
"""

from .catalogue import CASES, NAMES, select
from .catalogue.case import Case
from .results import Outcome, Result, Row
from .runner import Backend, Plan, Progress, backends, examine, plan, warm_up

__all__ = [
    "CASES",
    "NAMES",
    "Backend",
    "Case",
    "Outcome",
    "Plan",
    "Progress",
    "Result",
    "Row",
    "backends",
    "examine",
    "plan",
    "select",
    "warm_up",
]

"""The suite of ``minires gradcheck``: every operation, layer and block on every backend."""

from .case import Case
from .catalogue import CASES, NAMES, select
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

"""The checker: numerical proof of analytic derivatives, of yours as of minires' own.

:func:`check` compares every entry of a function's Jacobian by backward with the same entry by
numbers, :func:`check2` does so for second derivatives, :func:`check_module` for a module and all
its parameters. :func:`check_adjoint` and :func:`taylor` are tests without differences, and
without tolerances. :mod:`minires.selfcheck` holds minires itself to this checker.
"""

from .adjoint import AdjointReport, check_adjoint
from .check import check, check2, check_module
from .compare import detection_bound
from .jacobians import analytic_jacobian, numeric_jacobian
from .report import ArgumentResult, Report
from .taylor import TaylorReport, taylor

__all__ = [
    "AdjointReport",
    "ArgumentResult",
    "Report",
    "TaylorReport",
    "analytic_jacobian",
    "check",
    "check2",
    "check_adjoint",
    "check_module",
    "detection_bound",
    "numeric_jacobian",
    "taylor",
]

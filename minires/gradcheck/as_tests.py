"""A gradient check as a test of your own; the fixture ``gradcheck`` is this function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..nn import Module
from ..tensor import Tensor
from .check import check, check2
from .report import Report


def assert_gradients(
    f: Callable[..., Tensor] | Module,
    inputs: Sequence[Tensor] | Tensor,
    *,
    second_order: bool = False,
    **options: Any,
) -> Report:
    """Fail the test that calls this unless the gradients of ``f`` are right.

    Args:
        f: a function of the inputs, or a module, whose parameters are then checked as well.
        inputs: as for :func:`minires.gradcheck.check`.
        second_order: check second derivatives too.
        options: of :func:`~minires.gradcheck.check` and its siblings.

    Returns:
        The report of the last check.

    Raises:
        GradcheckError: with the worst offender and the verdict on every argument.
    """
    __tracebackhide__ = True  # the failure is shown at the line of the test
    report = check(f, inputs, **options)
    if report and second_order:
        report = check2(f, inputs, **options)
    report.assert_ok()
    return report

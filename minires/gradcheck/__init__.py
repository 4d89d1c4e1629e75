"""Numerical proof of analytic derivatives."""

from .check import check, check2
from .report import ArgumentResult, Report

__all__ = ["ArgumentResult", "Report", "check", "check2"]

"""``cupy.RawModule`` and ``cupy.RawKernel``."""

from __future__ import annotations


class RawModule:
    """``cupy.RawModule``."""


class RawKernel:
    """``cupy.RawKernel``."""

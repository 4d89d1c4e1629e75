"""Capture: a function's kernels without its Python; see :func:`capture`."""

from .function import Captured, capture
from .state import MOST

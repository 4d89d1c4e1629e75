"""The maps of residual networks that the benchmarks share, and arrays of their sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

# name, images, channels, height = width
STAGES = (
    ("CIFAR stage 1", 128, 16, 32),
    ("CIFAR stage 2", 128, 32, 16),
    ("CIFAR stage 3", 128, 64, 8),
    ("ImageNet stage 1", 8, 64, 56),
    ("ImageNet stage 3", 8, 256, 14),
)


def stages(quick: bool) -> tuple[tuple[str, int, int, int], ...]:
    """All stages, or two of the small ones."""
    return (STAGES[2], STAGES[4]) if quick else STAGES


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Standard normal draws, float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def pair(like: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two outputs of the shape and dtype of ``like``: the kernel's and the reference's."""
    return np.empty_like(like), np.empty_like(like)


def nbytes(*arrays: np.ndarray[Any, Any]) -> int:
    """Bytes of all these arrays."""
    return sum(array.nbytes for array in arrays)

"""Resizing layers, around :func:`minires.ops.interpolate`."""

from __future__ import annotations

from typing import Any

from minires.nn import functional as F
from minires.nn.module import Module
from minires.tensor import Tensor


class Upsample(Module):
    """Resizes images ``(n, c, h, w)`` or sequences ``(n, c, l)``, to a size or by a factor.

    Args:
        size, scale_factor, mode, align_corners, recompute_scale_factor: see
            :func:`minires.ops.interpolate`, which checks them when the layer is called.
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        # PyTorch shows factors as floats
        self.scale_factor: Any = (
            tuple(map(_as_float, scale_factor))
            if isinstance(scale_factor, tuple | list)
            else _as_float(scale_factor)
        )
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        options = self.mode, self.align_corners, self.recompute_scale_factor
        return F.interpolate(x, self.size, self.scale_factor, *options)

    def extra_repr(self) -> str:
        how = f"size={self.size!r}" if self.scale_factor is None else ""
        return f"{how or f'scale_factor={self.scale_factor!r}'}, mode={self.mode!r}"


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


class UpsamplingNearest2d(Upsample):
    """:class:`Upsample` of images with ``mode="nearest"``."""

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
    ) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """:class:`Upsample` of images with ``mode="bilinear"`` and ``align_corners=True``."""

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
    ) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True)

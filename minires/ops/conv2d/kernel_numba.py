"""Convolution on the CPU: the entrance, which chooses between two ways to compute the same thing.

:mod:`.numba_direct` does every geometry; :mod:`.numba_winograd` has 3 x 3 kernels of stride 1, for
which it needs a quarter of the multiplications; not where :func:`minires.precise` asks for sums as
they are defined.
"""

from __future__ import annotations

from typing import Any

from ...kernels.epilogue import NOTHING, Epilogue
from . import numba_direct as direct
from . import numba_winograd as winograd
from .op import Conv2dGeometry


def conv2d_way(g: Conv2dGeometry, dtype: Any) -> str:
    """How forward and input gradient of a geometry are computed: "winograd" or "direct"."""
    return "direct" if g.direct or not winograd.suits(g, dtype) else "winograd"


def conv2d_fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b.

    Args:
        x: array (n, h_in, w_in, c_in), or an Operand.
        w: (c_out, c_in / groups, k_h, k_w), any strides; or PackedWeights, which have a bias.
        epilogue: its residual is an array like y.
    """
    way = winograd if conv2d_way(g, y.dtype) == "winograd" else direct
    way.conv2d_fwd(x, w, y, g, epilogue)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) from gy (n, h_out, w_out, c_out), an array or an Operand."""
    way = winograd if conv2d_way(g, gx.dtype) == "winograd" else direct
    way.conv2d_bwd_input(gy, w, gx, g)


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w) from gy and x, arrays or Operands."""
    way = direct if g.direct or not winograd.suits_weight(g, gw.dtype) else winograd
    way.conv2d_bwd_weight(gy, x, gw, g)

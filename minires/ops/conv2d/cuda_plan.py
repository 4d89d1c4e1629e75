"""The sizes of a convolution on a GPU, as its kernels take them.

Forward pass and input gradient are one computation, with other sizes and with weights in another
order: :class:`Sizes` describes both, and ``Conv`` in ``cuda_conv.cuh`` is the same as a struct.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...errors import ShapeError, message
from ...kernels.cuda.source import c_type
from ...kernels.cuda.struct import DIVISOR, divisor, record
from ...precision import float32_matmul_precision
from .op import Conv2dGeometry

LIMIT = 2**31 - 2**10  # entries of an array, so that offsets are ints, also a tile behind its end
REACH = 2**30  # rows and columns of a padded image
LINE = 128  # bytes: rows of packed weights are multiples of that

ENTRY = {"Fp32": "f4", "Fp64": "f8", "Tf32": "f4", "Bf16": "u2"}  # what tiles hold (mma.cuh)


class Sizes(NamedTuple):
    """One convolution: of output pixel (p, q), tap (r, s) is pixel (p s_h - p_h + r d_h,
    q s_w - p_w + s d_w) of x. Channels are those of one group.

    The output pixels are all of y, or a grid in it: (p, q) is row ``first_h + p step_h`` and column
    ``first_w + q step_w`` of an image (y_h, y_w).
    """

    images: int
    h_in: int
    w_in: int
    c_in: int
    h_out: int
    w_out: int
    c_out: int
    groups: int
    k_h: int
    k_w: int
    s_h: int
    s_w: int
    p_h: int
    p_w: int
    d_h: int
    d_w: int
    y_h: int
    y_w: int
    first_h: int = 0
    first_w: int = 0
    step_h: int = 1
    step_w: int = 1

    @property
    def padded(self) -> bool:
        """Whether some window reaches outside of x."""
        bottom = (self.h_out - 1) * self.s_h - self.p_h + (self.k_h - 1) * self.d_h
        right = (self.w_out - 1) * self.s_w - self.p_w + (self.k_w - 1) * self.d_w
        return self.p_h > 0 or self.p_w > 0 or bottom >= self.h_in or right >= self.w_in


_INTS = (
    *Sizes._fields[:16],
    *("pixels", "pitch", "padded", "y_begin", "y_image", "y_row", "y_pixel"),
)
CONV = np.dtype([*[(name, "i4") for name in _INTS], ("per_image", DIVISOR), ("per_row", DIVISOR)])


@functools.lru_cache(maxsize=1024)
def forward_sizes(g: Conv2dGeometry) -> Sizes:
    """The sizes of y = conv(x, w).

    Raises:
        ShapeError: an image that is too large for offsets of 32 bits.
    """
    rows = max(g.h_in + 2 * g.padding[0], g.w_in + 2 * g.padding[1], g.h_out, g.w_out)
    if rows >= REACH:
        expected, got = f"padded images of fewer than {REACH} rows and columns", f"{rows}"
        raise ShapeError(message("conv2d", f"{expected} on a GPU", got))
    return Sizes(
        g.n, g.h_in, g.w_in, g.c_in // g.groups, g.h_out, g.w_out, g.c_out // g.groups, g.groups,
        g.k_h, g.k_w, *g.stride, *g.padding, *g.dilation, g.h_out, g.w_out,
    )  # fmt: skip


def parts(z: Sizes) -> list[slice]:
    """The batch in parts whose arrays have offsets of 32 bits: slices of its images.

    Raises:
        ShapeError: a single image is too large for that.
    """
    image = max(z.h_in * z.w_in * z.c_in, z.y_h * z.y_w * z.c_out) * z.groups
    images = LIMIT // max(image, 1)
    if images == 0:
        raise ShapeError(
            message(
                "conv2d", f"images of at most {LIMIT} entries on a GPU", f"{image}",
                fix="Cut the image into tiles that overlap.",
            )
        )  # fmt: skip
    return [slice(i, min(i + images, z.images)) for i in range(0, z.images, images)]


def struct(z: Sizes, pitch: int) -> Any:
    """The sizes as the struct ``Conv``; ``pitch`` is that of the packed weights, in entries."""
    c = z.groups * z.c_out
    fields = {name: getattr(z, name) for name in _INTS if hasattr(z, name)}
    return record(
        CONV, **{
            **fields,
            "pixels": z.images * z.h_out * z.w_out,
            "pitch": pitch,
            "padded": int(z.padded),
            "y_begin": (z.first_h * z.y_w + z.first_w) * c,
            "y_image": z.y_h * z.y_w * c,
            "y_row": z.step_h * z.y_w * c,
            "y_pixel": z.step_w * c,
            "per_image": divisor(z.h_out * z.w_out),
            "per_row": divisor(z.w_out),
        },
    )  # fmt: skip


def pitch_of(taps: int, channels: int, math: str) -> int:
    """Entries from one row of packed weights to the next."""
    unit = LINE // np.dtype(ENTRY[math]).itemsize
    return -(-taps * channels // unit) * unit


def arithmetic(g: Conv2dGeometry, dtype: Any, channels: int) -> str:
    """How products are computed: the name of a struct in ``mma.cuh``.

    float64 as it is. float32 as :func:`minires.set_float32_matmul_precision` asks for: "highest"
    exactly, "high" in tf32, "medium" in bfloat16, and where the summed ``channels`` of a group do
    not come in fours in tf32 too; exactly where :func:`minires.precise` holds.

    Raises:
        KernelMissing: there are no kernels for this dtype.
    """
    if c_type(dtype) == "double":
        return "Fp64"
    precision = float32_matmul_precision()
    if g.direct or precision == "highest":
        return "Fp32"
    return "Bf16" if precision == "medium" and channels % 4 == 0 else "Tf32"


def operations(*arguments: Any) -> int:
    """Multiplications and additions of a launch of the convolution kernels, by its definition."""
    g = arguments[8]
    products = 2 * g["k_h"].item() * g["k_w"].item() * g["c_in"].item()
    return int(products * g["pixels"].item() * g["c_out"].item() * g["groups"].item())

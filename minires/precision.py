"""How a GPU multiplies float32: exactly, or rounded first, which its tensor cores do much faster.

===========  ============================================  ================  =====================
name         the factors of each product are rounded to    their bits        sums
===========  ============================================  ================  =====================
"highest"    nothing: they are float32                     8 + 24            float32, one rounding
                                                                             per product and sum
"high"       tf32                                          8 + 11            float32
"medium"     bfloat16                                      8 + 8             float32
===========  ============================================  ================  =====================

(Bits of the exponent, and of the significand with the leading one that is not stored.) The range is
that of float32 in all three; a product keeps some 7, 3 or 2 decimal digits. Arrays stay float32 in
memory; float64 is never rounded. A convolution over channels that do not come in fours, as those of
a colour image, is done in tf32 under "medium", too. Matrix products of less than 2^30 multiply-adds
are exact in any case; larger ones are done in tf32 under "medium", too.
"""

from __future__ import annotations

from .arguments import choice
from .mode import install, setting

# A listed setting: a captured function has a graph for each value of it.
_precision = setting("float32_matmul_precision", "highest")


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how convolutions and matrix products of float32 multiply on a GPU, in all threads.

    As ``torch.set_float32_matmul_precision``, and for convolutions too, which PyTorch asks
    ``torch.backends.cudnn.allow_tf32`` about. On the CPU it changes nothing: products are exact.
    It holds for what is launched from now on; a function that was captured is recorded anew.

    Args:
        precision: "highest", exact products (the default); "high", factors rounded to tf32;
            "medium", to bfloat16. Sums are float32 in all three.

    Raises:
        ArgumentError: another name.

    >>> import minires as mr
    >>> mr.set_float32_matmul_precision("high")
    >>> mr.get_float32_matmul_precision()
    'high'
    >>> mr.set_float32_matmul_precision("highest")
    """
    known = ("highest", "high", "medium")
    install(_precision, choice("float32 matmul precision", precision, known))


def get_float32_matmul_precision() -> str:
    """What :func:`set_float32_matmul_precision` chose: "highest", "high" or "medium".

    Kernels ask it when they are chosen. What is kept between launches and depends on it, such as
    packed weights that were rounded, is kept under a name with it.
    """
    return str(_precision.get().value)


float32_matmul_precision = get_float32_matmul_precision  # what kernels call it

"""Every differentiable operation. The hand-written ones have a folder each."""

from .avg_pool2d import adaptive_avg_pool2d, avg_pool2d
from .batch_norm import batch_norm
from .compare import allclose, isfinite, isnan, sign
from .conv2d import conv2d
from .convert import astype, clone
from .cross_entropy import cross_entropy
from .dropout import dropout
from .elementwise import abs_ as abs
from .elementwise import (
    add,
    clip,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    sigmoid,
    sqrt,
    sub,
    tanh,
    where,
)
from .layout import channels_last
from .matmul import linear, matmul
from .max_pool2d import max_pool2d
from .reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    softmax,
    std,
    sum,
    var,
)
from .relu import relu
from .shape import (
    broadcast_to,
    cat,
    chunk,
    concatenate,
    expand,
    flatten,
    pad,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)

__all__ = [  # the functions, not the modules that hold them
    name for name, value in globals().items() if callable(value) and not name.startswith("_")
]

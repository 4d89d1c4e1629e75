"""Every differentiable operation. The hand-written ones have a folder each."""

from .activation import erf, gelu, leaky_relu, sigmoid, silu, softplus, tanh
from .avg_pool2d import adaptive_avg_pool2d, avg_pool2d
from .batch_norm import batch_norm
from .compare import allclose, isfinite, isnan, sign
from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d
from .convert import astype, clone
from .cross_entropy import cross_entropy
from .dropout import dropout, dropout2d
from .elementwise import abs_ as abs
from .elementwise import (
    add,
    clamp,
    clip,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    sqrt,
    sub,
    where,
)
from .interpolate import interpolate
from .layout import channels_last, from_nhwc
from .like import square
from .lines import adaptive_avg_pool1d, avg_pool1d, conv1d, max_pool1d
from .losses import binary_cross_entropy_with_logits, mse_loss, nll_loss
from .matmul import linear, matmul
from .max_pool2d import max_pool2d
from .normalize import group_norm, layer_norm
from .pad import pad
from .reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    max,
    mean,
    min,
    std,
    sum,
    var,
)
from .relu import relu
from .remainder import remainder
from .select import norm, topk
from .shape import (
    broadcast_to,
    cat,
    chunk,
    concatenate,
    expand,
    flatten,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from .softmax import log_softmax, logsumexp, softmax

__all__ = [  # the functions, not the modules that hold them
    name for name, value in globals().items() if callable(value) and not name.startswith("_")
]

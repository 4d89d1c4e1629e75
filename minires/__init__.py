"""minires: residual networks from scratch, on NumPy, Numba and CuPy.

>>> import minires as mr
>>> from minires import nn
>>> from minires.models import BasicBlock
>>> x = mr.randn(4, 3, 6, 6, requires_grad=True)
>>> BasicBlock(3, 3)(x).sum().backward()
>>> x.grad.shape
(4, 3, 6, 6)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as _np

from .autograd import (
    Function,
    detect_anomaly,
    enable_grad,
    grad,
    is_grad_enabled,
    no_fusion,
    no_grad,
    set_grad_enabled,
)
from .derivatives import hessian, hvp, jacobian, jvp, vjp
from .device import Device, backend, synchronize
from .ops import *  # noqa: F403 - every operation is a public name, as in mr.conv2d
from .random import manual_seed
from .tensor import (
    Tensor,
    arange,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)

if TYPE_CHECKING:
    from . import data, gradcheck, models, nn, optim, study, train
    from .kernels.threads import get_num_threads, set_num_threads
    from .nn import summary

__version__ = "0.1.0"

float32 = _np.dtype("float32")
float64 = _np.dtype("float64")
int32 = _np.dtype("int32")
int64 = _np.dtype("int64")
uint8 = _np.dtype("uint8")
bool_ = _np.dtype("bool")

# What an array user does not need on `import minires` is imported when it is first named.
_LAZY = {
    "data": ".data",
    "gradcheck": ".gradcheck",
    "models": ".models",
    "nn": ".nn",
    "optim": ".optim",
    "study": ".study",
    "train": ".train",
    "get_num_threads": ".kernels.threads",
    "set_num_threads": ".kernels.threads",
    "summary": ".nn",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        import difflib

        near = difflib.get_close_matches(
            name, [known for known in __dir__() if known[0] != "_"], n=2, cutoff=0.75
        )
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise AttributeError(f"module 'minires' has no attribute {name!r}{hint}")
    module = importlib.import_module(_LAZY[name], __name__)
    return module if _LAZY[name] == f".{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

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

from . import starting  # first: Ctrl-C during the imports ends the command in one line

# isort: split
import importlib
import os as _os
from typing import TYPE_CHECKING, Any

import numpy as _np

from . import fusion as _fusion
from . import notebook as _notebook
from .anomaly import detect_anomaly
from .autograd import (
    Function,
    enable_grad,
    grad,
    inference_mode,
    is_grad_enabled,
    no_fusion,
    no_grad,
    precise,
    set_grad_enabled,
)
from .creation import (
    arange,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from .derivatives import hessian, hvp, jacobian, jvp, vjp
from .device import Device, backend, synchronize
from .device import Device as device
from .ops import *  # noqa: F403 - every operation is a public name, as in mr.conv2d
from .ops.layout import contiguous_format, preserve_format
from .ops.random import rand, rand_like, randint, randn, randn_like, randperm
from .precision import get_float32_matmul_precision, set_float32_matmul_precision
from .random import Generator, manual_seed
from .tensor import Tensor, from_dlpack, from_numpy, tensor
from .version import __version__

if TYPE_CHECKING:
    from . import (
        accelerator,
        cuda,
        data,
        distributed,
        gradcheck,
        interop,
        models,
        nn,
        optim,
        show,
        study,
        train,
        utils,
        vision,
    )
    from .captured import capture
    from .fusion.explain import explain
    from .interop import export_onnx, load, load_metadata, save
    from .kernels.numba.threads import get_num_threads, set_num_threads
    from .nn.graph_picture import draw
    from .nn.summary import summary
    from .profiler import profile

_notebook.shorten_tracebacks()

# A launcher sets one of these. Its processes are to end together from now on, not once they meet.
_LAUNCHED = {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMIX_RANK"}
if not _LAUNCHED.isdisjoint(_os.environ):
    from . import distributed

float32 = float = _np.dtype("float32")
float64 = double = _np.dtype("float64")
int8 = _np.dtype("int8")
int16 = _np.dtype("int16")
int32 = int = _np.dtype("int32")
int64 = long = _np.dtype("int64")
uint8 = _np.dtype("uint8")
bool_ = bool = _np.dtype("bool")

# What an array user does not need on `import minires` is imported when it is first named.
_LAZY = {
    "accelerator": ".accelerator",
    "cuda": ".cuda",
    "data": ".data",
    "distributed": ".distributed",
    "gradcheck": ".gradcheck",
    "interop": ".interop",
    "models": ".models",
    "nn": ".nn",
    "optim": ".optim",
    "show": ".show",
    "study": ".study",
    "train": ".train",
    "utils": ".utils",
    "vision": ".vision",
    "capture": ".captured",
    "explain": ".fusion.explain",
    "profile": ".profiler",
    "get_num_threads": ".kernels.numba.threads",
    "set_num_threads": ".kernels.numba.threads",
    "load": ".interop",
    "load_metadata": ".interop",
    "save": ".interop",
    "draw": ".nn.graph_picture",
    "export_onnx": ".interop",
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

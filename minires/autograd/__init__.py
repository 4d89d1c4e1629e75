"""Reverse-mode automatic differentiation: the tape, and the walk back over it.

A :class:`Function` computes on arrays in ``forward`` and on tensors in ``backward``. Applying one
to variables of which some require a gradient makes a :class:`Node`; its edges point to the nodes
(or leaves) that made the inputs. :func:`walk` goes over the nodes from the newest to the oldest,
which is a topological order because an input always exists before what is computed from it.

Because ``backward`` is written with tensor operations, a gradient is itself differentiable
(``create_graph=True``). This package knows no operation, and of a tensor only ``+`` and
``clone()``; :mod:`minires.tensor` builds the public class on :class:`Variable`.

In reading order: :mod:`.tape`, :mod:`.variable`, :mod:`.context`, :mod:`.function`, :mod:`.walk`;
then :mod:`.engine`, the one place where others change how results come to be, :mod:`.version`,
:mod:`.lazy`, :mod:`.inplace` and :mod:`.final_hooks`. :mod:`.modes` and :mod:`.place` are small
helpers.
"""

from .context import Context
from .engine import (
    Around,
    Eager,
    call,
    check,
    copied,
    current,
    host_read,
    in_complex_step,
    memo,
    no_fusion,
    switch,
)
from .function import Function
from .inplace import check_inplace, check_target, replace, written
from .lazy import Lazy
from .modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_precise,
    no_grad,
    precise,
    set_grad_enabled,
)
from .place import caller, show_place
from .variable import HookHandle, Variable
from .version import Version
from .walk import grad, walk

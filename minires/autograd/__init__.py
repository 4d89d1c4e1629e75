"""Reverse-mode automatic differentiation: the tape, and the walk back over it.

A :class:`Function` computes on arrays in ``forward`` and on tensors in ``backward``. Applying one
to variables of which some require a gradient makes a :class:`Node`; its edges point to the nodes
(or leaves) that made the inputs. :func:`backward` walks the nodes from the newest to the oldest,
which is a topological order because an input always exists before what is computed from it.

Because ``backward`` is written with tensor operations, a gradient is itself differentiable
(``create_graph=True``). Nothing here knows any operation, nor what a tensor can do beyond ``+``
and ``clone()``; :mod:`minires.tensor` builds the public class on :class:`Variable`.

In reading order: :mod:`.tape`, :mod:`.variable`, :mod:`.function`, :mod:`.inplace`, :mod:`.walk`;
:mod:`.modes`, :mod:`.place` and :mod:`.observe` are small helpers; :mod:`.recording` is what
:mod:`minires.captured` stands on.
"""

from .function import Context, Function
from .inplace import check_inplace, check_writeable, replace, written
from .modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_precise,
    no_fusion,
    no_grad,
    precise,
    set_grad_enabled,
)
from .observe import Observer, in_complex_step, observed_by, switch, tell, watch
from .pending import Pending, Sum, fusing, may_wait, unwatched
from .place import caller, show_place
from .recording import Recording, computed, copied, look
from .tape import derived
from .variable import HookHandle, Variable
from .walk import grad, walk

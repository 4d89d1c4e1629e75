"""The Jacobians of a block and of its two paths, by backward and by numbers.

With N the block up to the last addition, a residual block is ``y = relu(N(x))`` or, with
pre-activation, ``y = N(x)``, where ``N(x) = F(x) + S(x)``. So its Jacobian is::

    J_block = D (J_F + J_S),        D = diag(1[N(x) > 0])  or, without the ReLU, the identity

All matrices here are (m, n) for an input of n and an output of m entries *of the whole batch*:
batch norm in training mode lets every image act on every other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires.autograd import grad, no_grad
from minires.errors import ArgumentError, DTypeError, message
from minires.models import PreActBlock, PreActBottleneck, PreActPlainBlock
from minires.nn import Conv2d, Module
from minires.nn.batch_norm import _BatchNorm
from minires.tensor import Tensor

Array = NDArray[np.float64]
LIMIT = 1e-12  # relative, for what is true up to rounding only
PRE_ACTIVATION = (PreActBlock, PreActBottleneck, PreActPlainBlock)


@dataclass(frozen=True)
class Jacobians:
    """A block's Jacobian and those of its two paths at one input, taken by backward.

    Attributes:
        block: J_block, (m, n).
        residual: J_F, (m, n).
        skip: J_S, (m, n); zeros for a plain block.
        open: (m,), the diagonal of D: which entries the last ReLU lets pass; all where there
            is none.
        shape_in, shape_out: of x and y, batch first.
    """

    block: Array
    residual: Array
    skip: Array
    open: NDArray[np.bool_]
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]

    @property
    def expected(self) -> Array:
        """D (J_F + J_S), each entry added once."""
        return self.masked(self.residual + self.skip)

    def masked(self, jacobian: Array) -> Array:
        """D times a matrix: rows behind a closed ReLU are zero."""
        return np.where(self.open[:, None], jacobian, 0.0)

    def coupling(self, jacobian: Array) -> float:
        """How strongly images act on each other: the largest spectral norm of a block of the
        matrix that leads from one image of the batch to another; 0 if it is block-diagonal."""
        n = self.shape_in[0]
        m = len(jacobian) // n
        parts = jacobian.reshape(n, m, n, -1)
        return max(
            (
                float(np.linalg.norm(parts[i, :, j], 2))
                for i in range(n)
                for j in range(n)
                if i != j
            ),
            default=0.0,
        )


def frozen(block: Any) -> Any:
    """A copy in which parameters want no gradient: nothing that is done to it, or that batch norm
    counts in it, reaches the original."""
    twin = copy.deepcopy(block)
    for module in twin if isinstance(twin, list) else [twin]:
        module.requires_grad_(False)
    return twin


def calibrate(module: Module, x: Tensor) -> None:
    """Make the statistics of one batch those that batch norm uses in evaluation.

    Without it a network that was never trained normalises nothing there. The module is in
    training mode afterwards.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the weight of the new batch
    with no_grad():
        module.train()(x)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def is_residual(block: Module) -> bool:
    """Whether a block has a second path; plain twins have none."""
    return hasattr(block, "skip")


def has_final_relu(block: Module) -> bool:
    """Whether a ReLU follows the addition; pre-activation blocks have none there."""
    return not isinstance(block, PRE_ACTIVATION)


def shares_activation(block: Module) -> bool:
    """Whether both paths begin with the same batch norm and ReLU: a projection in a
    pre-activation block."""
    return isinstance(block, PRE_ACTIVATION) and isinstance(
        getattr(block, "downsample", None), Conv2d
    )


def paths(block: Module, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """F(x), S(x) (None for a plain block) and N(x), what the last ReLU sees.

    Raises:
        ArgumentError: the block has no method ``residual``.
    """
    if not hasattr(block, "residual"):
        raise ArgumentError(
            message(
                "identity path",
                "a block with the methods residual(x) and, unless plain, skip(x)",
                type(block).__name__,
                fix="See minires.models.BasicBlock.",
            )
        )
    residual = block.residual(x)
    if not is_residual(block):
        return residual, None, residual
    skip = block.skip(x)
    return residual, skip, residual + skip


def rows(y: Tensor, at: Sequence[Tensor], cotangents: Array | None = None) -> list[Array]:
    """``cotangents`` (k, m) times the Jacobian of ``y`` with respect to each tensor of ``at``,
    one backward each; without cotangents the Jacobian itself, row by row."""
    vs = np.eye(y.numel()) if cotangents is None else cotangents
    result = [np.zeros((len(vs), t.numel())) for t in at]
    if y.requires_grad:
        for i, v in enumerate(vs):
            gradients = grad(
                y, at, Tensor(v.reshape(y.shape).copy()), retain_graph=True, allow_unused=True
            )
            for matrix, g in zip(result, gradients):
                if g is not None:
                    matrix[i] = g.data.reshape(-1)
    return result


def parting(block: Module, f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)``, and the tensor at which the two paths part and their gradients are added.

    That is x itself, except for a projection in a pre-activation block: there both paths read
    relu(bn1(x)), and the output of bn1 is taken (the ReLU's mask of zeros and ones distributes
    over a sum without rounding; batch norm's backward, a sum of its own, does not).
    """
    if not shares_activation(block):
        return f(x), x
    seen: list[Tensor] = []
    with block.bn1.register_forward_hook(lambda module, args, out: seen.append(out)):
        y = f(x)
    return y, seen[0]


def times_read(y: Tensor, at: Tensor) -> int:
    """By how many operations on the tape behind ``y`` the tensor ``at`` is read."""
    target, count, seen, stack = at._edge(), int(y is at), set(), [y.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for edge in node.edges:
            if edge is target or (isinstance(edge, tuple) and edge == target):
                count += 1
            elif isinstance(edge, tuple):
                stack.append(edge[0])
    return count


def as_float64(x: Tensor) -> Tensor:
    """A fresh leaf with the values of ``x``.

    Raises:
        DTypeError: not a tensor of floats.
    """
    if not isinstance(x, Tensor) or x.dtype.kind != "f":
        got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise DTypeError(message("identity path", "x to be a floating-point tensor", got))
    return Tensor(x.detach().numpy().astype(np.float64), requires_grad=True)


def jacobians(block: Module, x: Tensor) -> Jacobians:
    """J_block, J_F and J_S at ``x``, in float64 and in the block's present mode.

    Args:
        block: with the methods ``residual`` and, unless plain, ``skip``; it is not changed.
        x: (n, c, h, w).

    >>> import minires as mr
    >>> from minires.identity import jacobians
    >>> from minires.models import BasicBlock
    >>> j = jacobians(BasicBlock(2, 2), mr.randn(3, 2, 4, 5))
    >>> j.block.shape, bool((j.block == j.expected).all())
    ((120, 120), True)
    """
    block, x = frozen(block).double(), as_float64(x)
    residual, skip, inner = paths(block, x)
    (j_residual,) = rows(residual, [x])
    (j_skip,) = [np.zeros_like(j_residual)] if skip is None else rows(skip, [x])
    y = block(x)
    (j_block,) = rows(y, [x])
    opened = inner.data.reshape(-1) > 0
    if not has_final_relu(block):
        opened = np.ones_like(opened)
    return Jacobians(j_block, j_residual, j_skip, opened, x.shape, y.shape)


def relative(value: Array, exact: Array) -> float:
    """The largest difference, over the largest entry of ``exact``."""
    return float(np.abs(value - exact).max() / (np.abs(exact).max() or 1.0))

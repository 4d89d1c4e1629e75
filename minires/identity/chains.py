"""Several blocks in a row: the product of their Jacobians, and its sum over paths.

With blocks 1 .. n, D_i the mask of block i's last ReLU (the identity without one), multiplying out

    J = D_n (J_Fn + J_Sn) ... D_1 (J_F1 + J_S1)

gives one summand for each of the 2^n ways through the network: at every block either F or the skip
(Veit et al. 2016, arXiv:1605.06431, Sec. 3). The number of F on a way is its length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires.autograd import grad
from minires.errors import ArgumentError, ShapeError, message
from minires.gradcheck.report import Verdict
from minires.identity.jacobians import (
    LIMIT,
    Array,
    Jacobians,
    as_float64,
    frozen,
    has_final_relu,
    jacobians,
    paths,
    relative,
    rows,
)
from minires.nn import Module
from minires.ops import cross_entropy
from minires.tensor import Tensor

MOST_BLOCKS = 8  # of which all 2^n paths are written out


def chain_jacobians(blocks: Sequence[Module], x: Tensor) -> list[Jacobians]:
    """:func:`jacobians` of each block, at the input that the blocks before it make of ``x``."""
    twins, x = frozen(list(blocks)), as_float64(x)
    found = []
    for twin in twins:
        twin.double()
        found.append(jacobians(twin, x))
        x = twin(x).detach()
    return found


def product(chain: Sequence[Jacobians]) -> Array:
    """J of the whole chain: the product of D_i (J_Fi + J_Si), the last block leftmost.

    Raises:
        ArgumentError: no block at all.
    """
    if not chain:
        raise ArgumentError(message("product", "at least one block", 0))
    result = chain[0].expected
    for j in chain[1:]:
        result = j.expected @ result
    return result


def paths_through(chain: Sequence[Jacobians]) -> dict[str, Array]:
    """The Jacobian of each of the 2^n paths, by the way it takes: "FSF" is through F in the first
    and third block and along the skip in the second. Their sum is :func:`product`.

    Raises:
        ArgumentError: no block, or more than 8: 256 matrices are enough.
    """
    if not 1 <= len(chain) <= MOST_BLOCKS:
        raise ArgumentError(
            message(
                "paths_through",
                f"1 to {MOST_BLOCKS} blocks",
                len(chain),
                fix="For more blocks path_lengths gives the sum over all paths of each length.",
            )
        )
    parts = [{"F": j.masked(j.residual), "S": j.masked(j.skip)} for j in chain]
    found = {}
    for way in itertools.product("FS", repeat=len(chain)):
        matrix = parts[0][way[0]]
        for part, letter in zip(parts[1:], way[1:]):
            matrix = part[letter] @ matrix
        found["".join(way)] = matrix
    return found


@dataclass(frozen=True)
class PathLengths:
    """A gradient, split by the number of residual branches it came through.

    Attributes:
        gradients: (n + 1, *x.shape); entry k is the sum over all paths of length k, of which there
            are n over k.
    """

    gradients: NDArray[Any]

    @property
    def total(self) -> NDArray[Any]:
        """The gradient itself: the sum over all lengths."""
        return self.gradients.sum(0)

    @property
    def norms(self) -> Array:
        """(n + 1,) Euclidean norms; of sums that may partly cancel, so they do not add up."""
        flat = self.gradients.reshape(len(self.gradients), -1).astype(np.float64)
        return np.sqrt(np.square(flat).sum(1))

    @property
    def counts(self) -> list[int]:
        """How many paths there are of each length."""
        n = len(self.gradients) - 1
        return [math.comb(n, k) for k in range(n + 1)]


def path_lengths(blocks: Sequence[Module], x: Tensor, gy: Tensor) -> PathLengths:
    """Split the gradient at the input of ``blocks`` by path length, exactly.

    Going back, ``g[k]`` is the sum over all paths that used k residual branches so far. Block i
    turns it into::

        g'[k] = S_iᵀ D_i g[k] + J_Fiᵀ D_i g[k-1]

    which is n (n + 1) / 2 backward passes through branches for n blocks, instead of 2^n paths.
    The masks D_i are those of the forward pass. The sum over k is the ordinary gradient, up to
    rounding: a strict test of both.

    Args:
        blocks: applied first to last, each with ``residual`` and ``skip``, in their present mode;
            they are not changed.
        x: the input of the first block, (n, c, h, w).
        gy: the gradient at the output of the last block, of that shape.

    Raises:
        ArgumentError: a block without ``residual``.
        ShapeError: ``gy`` has another shape than the output.

    >>> import minires as mr
    >>> from minires.identity import path_lengths
    >>> from minires.models import PreActBlock
    >>> blocks = [PreActBlock(2, 2).double() for _ in range(3)]
    >>> x = mr.randn(2, 2, 4, 4, dtype="float64")
    >>> split = path_lengths(blocks, x, mr.ones_like(x))
    >>> split.counts, bool((split.gradients[0] == 1).all())  # length 0: gy, as it came
    ([1, 3, 3, 1], True)
    """
    steps = _forward(blocks, x, gy)
    lengths = [gy.data]
    for step in reversed(steps):
        zero = [np.zeros(step.x.shape, step.x.dtype)]
        lengths = [step.masked(g) for g in lengths]
        along = [*(_back(step.skip, step.x, g) for g in lengths), *zero]
        through = [*zero, *(_back(step.residual, step.x, g) for g in lengths)]
        lengths = [a + b for a, b in zip(along, through)]
    return PathLengths(np.stack(lengths))


def sample_path_norms(
    blocks: Sequence[Module], x: Tensor, gy: Tensor, *, samples: int = 4, seed: int = 0
) -> Array:
    """The gradient norm of single paths, by length: (samples, n + 1).

    For each length k, ``samples`` times, k blocks are drawn; the gradient goes back through F only
    in these and along the skip only in the others (Veit et al. 2016, arXiv:1605.06431, Sec. 5).

    Args:
        blocks, x, gy: as for :func:`path_lengths`.
        samples: paths of each length.
        seed: of the draws.
    """
    steps, rng = _forward(blocks, x, gy), np.random.default_rng(seed)
    norms = np.zeros((samples, len(steps) + 1))
    for sample, k in np.ndindex(norms.shape):
        chosen = set(rng.permutation(len(steps))[:k].tolist())
        g = gy.data
        for i, step in reversed(list(enumerate(steps))):
            g = _back(step.residual if i in chosen else step.skip, step.x, step.masked(g))
        norms[sample, k] = np.sqrt(np.square(g, dtype=np.float64).sum())
    return norms


@dataclass(frozen=True)
class _Step:
    """A block's forward pass: its input, both paths, and the mask of its last ReLU or None."""

    x: Tensor
    residual: Tensor
    skip: Tensor | None
    mask: NDArray[np.bool_] | None

    def masked(self, g: NDArray[Any]) -> NDArray[Any]:
        return g if self.mask is None else np.where(self.mask, g, g.dtype.type(0))


def _forward(blocks: Sequence[Module], x: Tensor, gy: Tensor) -> list[_Step]:
    """One step for each block; ``gy`` must have the shape of the last one's output."""
    steps = []
    for block in frozen(list(blocks)):
        x = x.detach().requires_grad_()
        residual, skip, inner = paths(block, x)
        mask = inner.data > 0 if has_final_relu(block) else None
        steps.append(_Step(x, residual, skip, mask))
        x = inner if mask is None else inner.relu()
    if gy.shape != x.shape:
        raise ShapeError(message("path_lengths", f"gy of shape {x.shape}", gy.shape))
    return steps


def _back(y: Tensor | None, x: Tensor, g: NDArray[Any]) -> NDArray[Any]:
    """gᵀ ∂y/∂x; zeros where there is no path, as along the skip of a plain block."""
    if y is None or not y.requires_grad or not g.any():
        return np.zeros(x.shape, x.dtype)
    if y is x:
        return g
    gradient: NDArray[Any] = grad(y, x, Tensor(g), retain_graph=True)[0].data
    return gradient


def around_blocks(
    net: Module, images: Tensor, labels: Tensor
) -> tuple[list[Module], Tensor, Tensor, Tensor]:
    """Take the blocks out of a network: what :func:`path_lengths` needs, and what it must give.

    Args:
        net: blocks with a method ``residual`` in a row, with any layers before and behind them,
            as in ``minires.models``; it is not changed.
        images: (n, c, h, w).
        labels: (n,), for the cross entropy.

    Returns:
        The blocks in forward order; the input of the first; the loss's gradient at the output of
        the last; the loss's gradient at that input, by ordinary backward.

    Raises:
        ArgumentError: the network has no such blocks.
    """
    twin = frozen(net)
    blocks = [m for m in twin.modules() if hasattr(m, "residual")]
    if not blocks:
        raise ArgumentError(
            message("around_blocks", "a network of blocks with residual(x)", type(net).__name__)
        )
    seen: dict[str, Tensor] = {}

    def begin(module: Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        seen["x"] = args[0].detach().requires_grad_()
        return (seen["x"],)

    def end(module: Module, args: tuple[Any, ...], out: Tensor) -> None:
        seen["y"] = out

    with blocks[0].register_forward_pre_hook(begin), blocks[-1].register_forward_hook(end):
        loss = cross_entropy(twin(images), labels)
    gx, gy = grad(loss, [seen["x"], seen["y"]])
    originals = [m for m in net.modules() if hasattr(m, "residual")]
    return originals, seen["x"].detach(), gy, gx


@dataclass(frozen=True)
class ChainProof(Verdict):
    """What was found for several blocks in a row.

    Attributes:
        block: the class of the blocks.
        mode: "train" or "eval".
        depth: how many blocks.
        product: J by one backward through all blocks against the product of the blocks'
            Jacobians, over the largest entry of J; NaN where that was not computed.
        paths: the same against the sum over all 2^n paths; NaN likewise.
        split: the ordinary gradient against the sum of :func:`path_lengths`, over its largest
            entry.
        faults: what does not hold, in words.
    """

    block: str
    mode: str
    depth: int
    product: float
    paths: float
    split: float
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def name(self) -> str:
        return f"{self.depth} × {self.block}, {self.mode}"


def prove_chain(blocks: Sequence[Module], x: Tensor, *, explicit: bool | None = None) -> ChainProof:
    """Hold a chain of blocks to the product, to the sum over paths and to the split by length.

    Args:
        blocks: one after the other, in their present mode; they are not changed.
        x: the first one's input; checked in float64.
        explicit: whether to write out the product and all 2^n paths, as whole Jacobians. By
            default for up to 4 blocks.
    """
    twins, x = frozen(list(blocks)), as_float64(x)
    for twin in twins:
        twin.double()
    y = x
    for twin in twins:
        y = twin(y)
    gy = np.random.default_rng(0).standard_normal(y.shape)
    (ordinary,) = grad(y, x, Tensor(gy), retain_graph=True)
    errors = {"product": math.nan, "paths": math.nan}
    errors["split"] = relative(path_lengths(twins, x, Tensor(gy)).total, ordinary.data)
    if len(twins) <= 4 if explicit is None else explicit:
        (whole,) = rows(y, [x])
        chain = chain_jacobians(twins, x)
        errors["product"] = relative(product(chain), whole)
        errors["paths"] = relative(np.sum(list(paths_through(chain).values()), 0), whole)
    words = {
        "product": "backward through the chain is not the product of the blocks' Jacobians",
        "paths": "the Jacobians of all paths do not add up to that of the chain",
        "split": "the gradients by path length do not add up to the ordinary gradient",
    }
    return ChainProof(
        block=type(twins[0]).__name__,
        mode="train" if twins[0].training else "eval",
        depth=len(twins),
        **errors,
        faults=tuple(
            f"{words[what]}: off by {error:.1e}" for what, error in errors.items() if error > LIMIT
        ),
    )

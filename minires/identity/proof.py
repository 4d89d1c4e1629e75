"""The proof, block by block: J_block is D (J_F + J_S), and nothing else.

Two questions are kept apart. **Bookkeeping**: backward adds the gradients of the two paths once,
so the block's row is the floating-point sum of the two paths' rows, bit for bit. **Truth**: the
Jacobians are those of the function, to 1e-12 against the complex step, which knows no backward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from minires import random
from minires.errors import ShapeError, message
from minires.gradcheck.jacobians import numeric_jacobian
from minires.gradcheck.report import Verdict
from minires.identity.diagnosis import what_is_wrong
from minires.identity.jacobians import (
    LIMIT,
    Array,
    Jacobians,
    as_float64,
    calibrate,
    frozen,
    has_final_relu,
    is_residual,
    parting,
    paths,
    relative,
    rows,
    shares_activation,
    times_read,
)
from minires.models import (
    BasicBlock,
    Bottleneck,
    OptionA,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.models.network import he_init
from minires.nn import Conv2d, Module, Sequential
from minires.nn.batch_norm import _BatchNorm
from minires.ops import concatenate
from minires.tensor import Tensor

WIDTH = 4  # channels into an example block; each entry of a Jacobian costs its share of time
PROBES = 4  # dense upstream gradients of random sign, beside one for each entry of y
RESIDUAL: tuple[Any, ...] = (BasicBlock, Bottleneck, PreActBlock, PreActBottleneck)
PLAIN: tuple[Any, ...] = (PlainBlock, PreActPlainBlock)


@dataclass(frozen=True)
class Proof(Verdict):
    """What was found for one block in one mode.

    Attributes:
        block: the class's name.
        mode: "train" or "eval".
        shortcut: "A", "B" or "C"; "" for a plain block.
        stride: of the block.
        skip: what S is: "identity", "0/1 matrix" (option A), "projection" or "none"; "of its own"
            for another S of a block without ``downsample``.
        shape: of the input, batch first.
        entries: of J_block; all were compared.
        bitwise: whether J_block is fl(J_F + J_S) bit for bit where backward adds the two; it must
            be, unless F or S reads x in several places, which adds roundings of their own.
        disagreement: the largest entry of |J_block by the complex step - D (J_F + J_S) by
            backward|, over the largest entry of J_block.
        truth: the worst of J_block, J_F and J_S by backward against the complex step, each over
            its largest entry.
        coupling: the largest spectral norm of a part of J_F that leads from one image of the
            batch to another; 0 in evaluation, where images are independent.
        skip_coupling: the same for J_S.
        faults: what does not hold, in words.
    """

    block: str
    mode: str
    shortcut: str
    stride: int
    skip: str
    shape: tuple[int, ...]
    entries: int
    bitwise: bool
    disagreement: float
    truth: float
    coupling: float
    skip_coupling: float
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def name(self) -> str:
        """The case, as in "BasicBlock, shortcut A, stride 2, train"."""
        shortcut = f", shortcut {self.shortcut}" if self.shortcut else ""
        return f"{self.block}{shortcut}, stride {self.stride}, {self.mode}"

    def __str__(self) -> str:
        lines = [f"{self.name}: {'ok' if self.ok else 'the identity path is broken'}"]
        lines += [f"  {fault}" for fault in self.faults]
        lines.append(
            f"  {self.entries:,} entries, S: {self.skip}, bit for bit: "
            f"{'yes' if self.bitwise else 'no'}, disagreement {self.disagreement:.1e}, "
            f"backward against complex step {self.truth:.1e}"
        )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"name": self.name, **asdict(self), "ok": self.ok}


def prove(kinds: Sequence[Any] = (*RESIDUAL, *PLAIN), seed: int = 0) -> list[Proof]:
    """A proof for every block kind, shortcut and stride, in training and in evaluation.

    Backward runs on the backend that is set, the complex step on the NumPy references.

    >>> from minires import identity
    >>> from minires.models import PreActPlainBlock
    >>> proofs = identity.prove([PreActPlainBlock])
    >>> [(proof.stride, proof.mode, proof.ok) for proof in proofs]
    [(1, 'train', True), (1, 'eval', True), (2, 'train', True), (2, 'eval', True)]
    """
    proofs: list[Proof] = []
    for kind in kinds:
        for shortcut in ("",) if kind in PLAIN else "ABC":
            for stride, training in itertools.product((1, 2), (True, False)):
                # a seed for each case: B is the identity at stride 1, and would repeat A's numbers
                block, x = example(kind, shortcut, stride, training, seed=seed + len(proofs))
                proofs.append(replace(prove_block(block, x), shortcut=shortcut))
    return proofs


def worst(proofs: list[Proof]) -> list[Proof]:
    """For each block kind, the proof with the largest disagreement, in the order of ``proofs``;
    one that failed comes before all others."""
    found: dict[str, Proof] = {}
    for proof in proofs:
        best = found.setdefault(proof.block, proof)
        if (not proof.ok, proof.disagreement) > (not best.ok, best.disagreement):
            found[proof.block] = proof
    return list(found.values())


def example(
    kind: Any,
    shortcut: str = "A",
    stride: int = 1,
    training: bool = True,
    *,
    seed: int = 0,
) -> tuple[Module, Tensor]:
    """A small float64 block of this kind with random weights, and two images for it.

    Maps with h ≠ w, batch norm with γ of both signs and the statistics of these images; a stride
    of 2 doubles the channels. ``shortcut`` is not used for plain kinds.
    """
    channels = WIDTH * stride // kind.expansion
    options: dict[str, Any] = {"shortcut": shortcut} if kind not in PLAIN else {}
    with random.preserved():
        random.manual_seed(seed)
        block = kind(WIDTH, channels, stride, **options).double()
        he_init(block, "fan_in")
    rng = np.random.default_rng(seed)
    for module in block.modules():
        if isinstance(module, _BatchNorm):
            c = module.num_features
            _set(module.weight, rng.uniform(0.5, 1.5, c) * rng.choice([-1, 1], c))
            _set(module.bias, rng.normal(0, 0.2, c))
    x = Tensor(rng.standard_normal((2, WIDTH, 3, 2)), requires_grad=True)
    calibrate(block, x.detach())
    return block.train(training), x


def _set(tensor: Tensor | None, value: Any) -> None:
    if tensor is not None:
        tensor.data[...] = value
        tensor.bump_version()


def prove_block(block: Module, x: Tensor) -> Proof:
    """Hold one block, in its present mode and on the whole batch ``x``, to J_block = D (J_F + J_S).

    In this order: the value is relu(F(x) + S(x)); J_block is fl(J_F + J_S) bit for bit; all three
    agree with the complex step; S is what it should be, and does not mix images. Where all of
    this holds, the block is changed and looked at again: F silenced leaves J_S, the skip removed
    leaves J_F, and the skip times ½ gives J_F + J_S / 2, all bit for bit.

    Args:
        block: with the methods ``residual`` and, unless plain, ``skip``; it is not changed. A
            ReLU is expected behind the addition of every block, except those of
            ``minires.models`` with pre-activation and their subclasses. The last part needs the
            skip to be made by an attribute ``downsample``, a module or None.
        x: (n, c, h, w); checked in float64.

    Raises:
        ArgumentError: ``block`` has no ``residual``, or no complex step can be taken through it.
        ShapeError: the block's result has another shape than F(x).
    """
    return _Case(frozen(block).double(), as_float64(x)).proof()


class _Case:
    """One block at one input, and what has been found about it so far.

    ``at`` is the tensor at which the two paths part (see :func:`parting`): the statement about
    bits is one about the gradients there.
    """

    def __init__(self, block: Module, x: Tensor) -> None:
        self.block, self.x, self.faults = block, x, list[str]()
        inner = paths(block, x)[2]
        self.y, self.at = parting(block, block, x)
        self.f, self.f_at = parting(block, block.residual, x)
        if self.y.shape != inner.shape:
            raise ShapeError(message("identity path", f"y of shape {inner.shape}", self.y.shape))
        self.value = inner.relu() if has_final_relu(block) else inner
        opened = inner.data.reshape(-1) > 0
        self.open = opened if has_final_relu(block) else np.ones_like(opened)
        j_block, j_block_at = self._rows(self.y, self.at)
        j_f, j_f_at = self._rows(self.f, self.f_at)
        j_s, j_s_at = np.zeros_like(j_f), np.zeros_like(j_f_at)
        if is_residual(block):
            self.s, self.s_at = parting(block, block.skip, x)
            j_s, j_s_at = self._rows(self.s, self.s_at)
        # A branch that reads x in several places has gradients of its own to add there, and the
        # engine adds all of them one after the other: the sum is then rounded in another order.
        self.exact = times_read(self.f, self.f_at) <= 1 and (
            not is_residual(block) or times_read(self.s, self.s_at) <= 1
        )
        shapes = x.shape, self.y.shape
        self.j = Jacobians(j_block, j_f, j_s, self.open, *shapes)
        self.j_at = Jacobians(j_block_at, j_f_at, j_s_at, self.open, *shapes)

    def _rows(self, y: Tensor, at: Tensor) -> tuple[Array, Array]:
        """The Jacobians for x and for ``at``, of one backward per row."""
        if at is self.x:
            (j,) = rows(y, [at])
            return j, j
        j, j_at = rows(y, [self.x, at])
        return j, j_at

    def proof(self) -> Proof:
        block, j = self.block, self.j
        value_agrees = np.array_equal(self.y.data, self.value.data)
        if not value_agrees:
            formula = "F(x) + S(x)" if is_residual(block) else "F(x)"
            formula = f"relu({formula})" if has_final_relu(block) else formula
            off = np.abs(self.y.data - self.value.data).max()
            self.faults.append(f"the value is not {formula}: off by up to {off:.3g}")
        bitwise = self._adds_once(np.array_equal)
        if not (bitwise or (not self.exact and self._adds_once(_close))):
            self.faults.append(what_is_wrong(self.j_at, self.y.data, self.f.data, value_agrees))
        if not j.residual.any():
            self.faults.append("J_F is 0 at this x (every ReLU of F is closed): nothing is proved")
        disagreement, truth = self._against_complex_step()
        kind = self._what_skip_is()
        if not self.faults and hasattr(block, "downsample"):
            self._changed()
        return Proof(
            block=type(block).__name__,
            mode="train" if block.training else "eval",
            shortcut="",
            stride=_stride(block),
            skip=kind,
            shape=self.x.shape,
            entries=j.block.size,
            bitwise=bitwise,
            disagreement=disagreement,
            truth=truth,
            coupling=j.coupling(j.residual),
            skip_coupling=j.coupling(j.skip),
            faults=tuple(self.faults),
        )

    def _adds_once(self, same: Callable[[Array, Array], bool]) -> bool:
        """J_block == fl(J_F + J_S), for one upstream gradient per entry of y and for dense ones.

        Where the paths part behind a batch norm, the sum must also be what goes back through it.
        """
        j = self.j_at
        if not same(j.block, j.expected):
            return False
        if self.at is not self.x and not same(self.j.block, rows(self.at, [self.x], j.block)[0]):
            return False
        vs = np.random.default_rng(0).standard_normal((PROBES, len(self.open)))
        (total,) = rows(self.y, [self.at], vs)
        vs = np.where(self.open, vs, 0.0)
        (parts,) = rows(self.f, [self.f_at], vs)
        if is_residual(self.block):
            parts = parts + rows(self.s, [self.s_at], vs)[0]
        return same(total, parts)

    def _against_complex_step(self) -> tuple[float, float]:
        """Disagreement and truth, as in :class:`Proof`."""
        block, j, n = self.block, self.j, self.x.shape[0]
        functions = [block, block.residual]
        if is_residual(block):
            functions.append(block.skip)

        def all_at_once(x: Tensor) -> Tensor:
            return concatenate([f(x).reshape(n, -1) for f in functions], 1)

        numeric = numeric_jacobian(all_at_once, [self.x], self.x, "complex step")
        parts = np.split(numeric.reshape(n, -1, self.x.numel()), len(functions), axis=1)
        exact = [part.reshape(-1, self.x.numel()) for part in parts]
        errors = {}
        for name, by_backward, by_step in zip(
            ("J_block", "J_F", "J_S"), (j.block, j.residual, j.skip), exact
        ):
            errors[name] = relative(by_backward, by_step)
            if not errors[name] <= LIMIT:
                self.faults.append(
                    f"{name} by backward is not the derivative: off by {errors[name]:.1e} of its "
                    "largest entry from the complex step"
                )
        disagreement = relative(j.expected, exact[0])
        if not disagreement <= LIMIT:
            self.faults.append(
                f"J_block by the complex step is not D (J_F + J_S): off by {disagreement:.1e} of "
                "its largest entry"
            )
        return disagreement, max(errors.values())

    def _what_skip_is(self) -> str:
        """The kind of S, after holding its Jacobian to that."""
        block, j = self.block, self.j
        module = getattr(block, "downsample", None)
        kind, exact = "projection", None
        if not is_residual(block):
            kind = "none"
        elif not hasattr(block, "downsample"):  # a block of somebody's own may skip as it likes
            kind = "identity" if np.array_equal(j.skip, np.eye(*j.skip.shape)) else "of its own"
        elif module is None:
            kind, exact = "identity", np.eye(*j.skip.shape)
        elif isinstance(module, OptionA):
            kind, exact = "0/1 matrix", option_a_matrix(j.shape_in, j.shape_out, module.stride)
        if exact is not None and not np.array_equal(j.skip, exact):
            self.faults.append(f"J_S is not the {kind}")
        if exact is not None and j.coupling(j.skip):
            self.faults.append("S leads from one image of the batch to another")
        if not block.training and (j.coupling(j.residual) or j.coupling(j.skip)):
            self.faults.append("in evaluation one image of the batch acts on another")
        return kind

    def _changed(self) -> None:
        """Silence F; remove the skip; halve it."""
        layer, silent = silenced(self.block)
        every = np.eye(len(self.open))
        dense = np.random.default_rng(1).standard_normal((PROBES, len(self.open)))
        self._hold(silent, f"with {layer}.weight = 0", "S", 0.0, 1.0, every)
        self._hold(scaled_skip(self.block, 0.0), "with the skip removed", "F", 1.0, 0.0, dense)
        self._hold(scaled_skip(self.block, 0.5), "with half the skip", "F + S/2", 1.0, 0.5, dense)

    def _hold(self, block: Module, how: str, formula: str, a: float, b: float, vs: Array) -> None:
        """A changed block's Jacobian must be D (a J_F + b J_S), with the J of the original, seen
        through the upstream gradients ``vs``; a and b are 0 or powers of two, so nothing is
        rounded but the one sum."""
        y, at = parting(block, block, self.x)
        (j,) = rows(y, [at], vs)
        if has_final_relu(block):
            vs = np.where(paths(block, self.x)[2].data.reshape(-1) > 0, vs, 0.0)
        expected = np.zeros_like(j)
        for factor, path, path_at in ((a, self.f, self.f_at), (b, self.s, self.s_at)):
            if factor:
                expected += factor * rows(path, [path_at], vs)[0]
        if not (np.array_equal if self.exact else _close)(j, expected):
            off = np.abs(j - expected).max()
            self.faults.append(f"{how} J_block is not that of {formula}: off by up to {off:.3g}")


def _close(value: Array, exact: Array) -> bool:
    return relative(value, exact) <= LIMIT


def _stride(block: Module) -> int:
    """Of the convolutions from input to addition, one of which may have a stride."""
    layers = [m for name, m in block.named_modules() if _in_branch(name)]
    return max((m.stride[0] for m in layers if isinstance(m, Conv2d)), default=1)


def _in_branch(name: str) -> bool:
    """Whether a layer is one of those from input to addition; ``se`` only scales their result."""
    return not name.startswith(("downsample", "se."))


def option_a_matrix(shape_in: tuple[int, ...], shape_out: tuple[int, ...], stride: int) -> Array:
    """The matrix of shortcut A: a 1 for each pixel and channel that is kept, and rows of zeros
    for the channels that are added.

    Written from the definition, without the engine: out[n, c, i, j] is in[n, c, s i, s j].
    """
    index_in = np.arange(np.prod(shape_in)).reshape(shape_in)
    index_out = np.arange(np.prod(shape_out)).reshape(shape_out)
    result = np.zeros((index_out.size, index_in.size))
    kept = index_in[:, :, ::stride, ::stride]
    result[index_out[:, : shape_in[1]].reshape(-1), kept.reshape(-1)] = 1
    return result


def silenced(block: Module) -> tuple[str, Module]:
    """The name of the last layer of F with a weight, and a copy of the block with that weight 0.

    It is batch norm's γ where F ends in batch norm; with pre-activation F ends in a convolution,
    and all of its weights are set to 0. Either way F no longer depends on x.
    """
    twin = frozen(block)
    layers = [
        (name, m)
        for name, m in twin.named_modules()
        if _in_branch(name) and isinstance(m, _BatchNorm | Conv2d)
    ]
    name, layer = layers[-1]
    _set(layer.weight, 0.0)
    return name, twin


class _Scale(Module):
    """Multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def scaled_skip(block: Module, factor: float) -> Module:
    """A copy of a residual block whose skip is multiplied by λ = ``factor`` (He et al. 2016,
    arXiv:1603.05027, Eq. 6); 0 removes it.

    >>> import minires as mr
    >>> from minires.identity import scaled_skip
    >>> from minires.models import BasicBlock
    >>> x = mr.ones(1, 2, 3, 3)
    >>> bool((scaled_skip(BasicBlock(2, 2), 0.5).skip(x) == x / 2).all())
    True
    """
    twin = frozen(block)
    if shares_activation(twin):
        weight = twin.downsample.weight
        _set(weight, factor * weight.data)
    elif twin.downsample is None:
        twin.downsample = _Scale(factor)
    else:
        twin.downsample = Sequential(twin.downsample, _Scale(factor))
    return twin

"""What one case of the catalogue is: a function or a module, and the inputs to take it at."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import random
from ...autograd import no_grad
from ...device import CPU, Device
from ...nn import GroupNorm, LayerNorm, Module
from ...nn.batch_norm import _BatchNorm
from ...tensor import Tensor

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], NDArray[np.float64]]


@dataclass(frozen=True)
class Layout:
    """How an argument lies in memory, as a view of a leaf that fills its own memory.

    Attributes:
        leaf: the shape of the leaf for a wanted shape.
        view: takes the leaf and the wanted shape, gives the view.
    """

    leaf: Callable[[Shape], Shape]
    view: Callable[[Tensor, Shape], Tensor]


def _reversed(x: Tensor, _: Shape) -> Tensor:
    return x[tuple(slice(None, None, -1) for _ in x.shape)]


# Kernels are right about strides or wrong for users who slice; a leaf cannot have all of them
# (stride 0 would give one entry several places), but what a function sees of a leaf can.
LAYOUTS = {
    "contiguous": Layout(lambda s: s, lambda x, _: x),
    "channels last": Layout(
        lambda s: (s[0], *s[2:], s[1]), lambda x, _: x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))
    ),
    "every second": Layout(lambda s: (*s[:-1], 2 * s[-1]), lambda x, _: x[..., ::2]),
    "reversed": Layout(lambda s: s, _reversed),
    "transposed": Layout(lambda s: (*s[:-2], s[-1], s[-2]), lambda x, _: x.transpose(-1, -2)),
    "broadcast": Layout(lambda s: (1, *s[1:]), lambda x, s: x.expand(s)),
}


@dataclass(frozen=True)
class Values:
    """The shape of one argument, the distribution of its entries, and its memory layout."""

    shape: Shape
    draw: Draw
    layout: str = "contiguous"

    def leaf(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return self.draw(rng, LAYOUTS[self.layout].leaf(self.shape))

    def view(self, leaf: Tensor) -> Tensor:
        return LAYOUTS[self.layout].view(leaf, self.shape)


def _draw_apart(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    size = int(np.prod(shape))
    return np.asarray((rng.permutation(size) - size // 2 + 0.5).reshape(shape) / 8)


def normal(*shape: int, layout: str = "contiguous") -> Values:
    """Standard normal entries."""
    return Values(shape, lambda rng, size: rng.standard_normal(size), layout)


def apart(*shape: int, layout: str = "contiguous") -> Values:
    """Entries at least 1/8 from each other and 1/16 from 0: no ties, and no kink nearby."""
    return Values(shape, _draw_apart, layout)


def positive(*shape: int, layout: str = "contiguous") -> Values:
    """Entries between 0.5 and 2."""
    return Values(shape, lambda rng, size: rng.uniform(0.5, 2, size), layout)


Groups = tuple[tuple[str, ...], ...]


def each(*names: str) -> Groups:
    """Linear in each of these arguments while the others are held fixed."""
    return tuple((name,) for name in names)


def together(*names: str) -> Groups:
    """Linear in these arguments taken as one vector."""
    return (names,)


@dataclass(frozen=True)
class Case:
    """A function or a module at one set of shapes and options.

    Attributes:
        kind: "operation", "layer" or "block".
        name: what is checked, as users call it.
        label: what is special about this case.
        inputs: the arguments by name.
        function: takes the arguments as tensors, in the order of ``inputs``; or
        module: makes the module that does.
        linear: groups of arguments in each of which the function is linear.
        kernels: whether hand-written kernels are on the path; an array expression has one
            implementation for all CPU backends.
        probes: random probes for each argument instead of every entry of its Jacobian.
    """

    kind: str
    name: str
    label: str
    inputs: Mapping[str, Values] = field(repr=False)
    function: Callable[..., Tensor] | None = field(default=None, repr=False)
    module: Callable[[], Module] | None = field(default=None, repr=False)
    linear: Groups = ()
    kernels: bool = True
    probes: int | None = None

    @property
    def cost(self) -> int:
        """Roughly how long its checks take, an operation's being 1, for the time left."""
        if self.probes:
            return 40
        return {"operation": 1, "layer": 2, "block": 15}[self.kind]

    def __str__(self) -> str:
        return f"{self.name}, {self.label}" if self.label else self.name

    def tensors(
        self, seed: int, device: Device = CPU, dtype: Any = np.float32
    ) -> dict[str, Tensor]:
        """A leaf for each argument; the values depend on the seed and the case only."""
        rng = np.random.default_rng([seed, zlib.crc32(str(self).encode())])
        return {
            name: Tensor(values.leaf(rng).astype(np.float32).astype(dtype))
            .to(device)
            .detach()
            .requires_grad_()
            for name, values in self.inputs.items()
        }

    def subject(self, seed: int, device: Device = CPU) -> Callable[..., Tensor] | Module:
        """What is checked: a function of the leaves, or the module."""
        if self.module is None:
            return self._of_leaves
        with random.preserved():
            random.manual_seed(seed)
            module = self.module()
        randomize(module, np.random.default_rng([seed, 1]))
        return module.to(device) if device != CPU else module

    @property
    def _of_leaves(self) -> Callable[..., Tensor]:
        def function(*leaves: Tensor) -> Tensor:
            assert self.function is not None
            views = (values.view(leaf) for values, leaf in zip(self.inputs.values(), leaves))
            return self.function(*views)

        function.__name__ = str(self)
        return function


def randomize(module: Module, rng: np.random.Generator) -> None:
    """Give normalisations weights, biases and statistics that are not those they start with.

    With weight 1, bias 0, mean 0 and variance 1 half of what can go wrong does not show.
    """
    with no_grad():
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                size: Shape = (part.num_features,)
            elif isinstance(part, GroupNorm | LayerNorm) and part.weight is not None:
                size = part.weight.shape
            else:
                continue
            for target, values in (
                (part.weight, rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size)),
                (part.bias, rng.normal(0, 0.5, size)),
                (getattr(part, "running_mean", None), rng.normal(0, 0.5, size)),
                (getattr(part, "running_var", None), rng.uniform(0.5, 2, size)),
            ):
                if target is not None:
                    target.copy_(Tensor(values.astype(target.dtype)))

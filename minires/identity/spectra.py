"""The singular values of deep stacks, plain and residual: what each layer more does to a gradient.

A gradient that goes back through a stack is multiplied by the stack's Jacobian J. Directions whose
singular value is small are lost on the way, those whose value is large explode; a network learns
well from the gradient only where they stay within a few powers of ten of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minires import random
from minires.autograd import grad
from minires.errors import ArgumentError, message
from minires.identity.jacobians import Array, as_float64, calibrate, frozen
from minires.models import BasicBlock, PlainBlock, PreActBlock, PreActPlainBlock
from minires.models.network import he_init
from minires.nn import Module, Sequential
from minires.tensor import Tensor

DEPTHS = (8, 16, 24, 32, 40, 48, 56)
BATCH = 128  # images that batch norm's statistics come from


@dataclass(frozen=True)
class Spectra:
    """Singular values against depth.

    Attributes:
        depths: numbers of blocks.
        plain, residual: (len(depths), n), largest first; geometric means over the images. Below
            eps times the largest one they are rounding errors.
        shape: of one image, (c, h, w), with n = c h w.
        images: how many images the means are over.
        kinds: the classes of the blocks, plain and residual.
        seed: of the weights and images.
    """

    depths: tuple[int, ...]
    plain: Array
    residual: Array
    shape: tuple[int, int, int]
    images: int
    kinds: tuple[str, str]
    seed: int


def stack_jacobians(stack: Module, x: Tensor) -> Array:
    """∂y/∂x of each image by itself, (images, m, n), of a module in evaluation mode.

    Images are then independent, so one backward pass of m copies of an image gives all m rows.

    Raises:
        ArgumentError: the module is in training mode, where batch norm couples the images.
    """
    if any(module.training for module in stack.modules()):
        raise ArgumentError(
            message(
                "stack_jacobians",
                "a module in evaluation mode",
                "one in training mode",
                fix="Call .eval(), or use jacobians() for the whole batch.",
            )
        )
    twin, found = frozen(stack).double(), []
    for image in as_float64(x).detach().data:
        y = twin(Tensor(image[None]))
        m = y.numel()
        copies = Tensor(np.repeat(image[None], m, 0), requires_grad=True)
        every = Tensor(np.eye(m).reshape(m, *y.shape[1:]))
        (g,) = grad(twin(copies), copies, every)
        found.append(g.data.reshape(m, -1))
    return np.stack(found)


def singular_values(
    depths: Sequence[int] = DEPTHS,
    *,
    shape: tuple[int, int, int] = (8, 4, 4),
    images: int = 4,
    pre_activation: bool = True,
    seed: int = 0,
) -> Spectra:
    """Singular values of the Jacobian of n blocks in a row, from the input of the first to the
    output of the last, at initialisation (He et al. 2015, arXiv:1502.01852, fan-in).

    The plain and the residual stack of one depth have the same weights. Batch norm uses the
    statistics of 128 random images, as fixed numbers: so each image has a Jacobian of its own,
    and it is the one of training on a large batch. Blocks whose last operation is a ReLU get
    images that came out of one, as they would in a network.

    Args:
        depths: numbers of blocks.
        shape: (c, h, w) of every block's input and output.
        images: how many of the images to average over.
        pre_activation: blocks without a ReLU behind the addition, so that J is the product of
            J_Fi + I; otherwise those of the first paper, where each closed ReLU is a row of zeros.
    """
    kinds = (PreActPlainBlock, PreActBlock) if pre_activation else (PlainBlock, BasicBlock)
    x = Tensor(np.random.default_rng(seed).standard_normal((BATCH, *shape)))
    x = x if pre_activation else x.relu()
    found: list[list[Array]] = [[], []]
    for kind, spectra in zip(kinds, found):
        for depth in depths:
            with random.preserved():
                random.manual_seed(seed)
                stack = Sequential(*(kind(shape[0], shape[0]) for _ in range(depth))).double()
                he_init(stack, "fan_in")
            calibrate(stack, x)
            values = np.linalg.svd(stack_jacobians(stack.eval(), x[:images]), compute_uv=False)
            with np.errstate(divide="ignore"):  # a singular value of 0 has the logarithm -inf
                spectra.append(np.exp(np.log(values).mean(0)))
    plain, residual = (np.stack(spectra) for spectra in found)
    names = kinds[0].__name__, kinds[1].__name__
    return Spectra(tuple(depths), plain, residual, shape, images, names, seed)

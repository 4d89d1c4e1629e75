"""The families for small images, and plain twins.

A 3x3 stem, three stages of n blocks with 16, 32 and 64 channels on maps of full, half and quarter
size, global average pooling and one linear layer: 6n+2 layers with weights (He et al. 2015,
arXiv:1512.03385, Sec. 4.2), 9n+2 with bottlenecks (He et al. 2016, arXiv:1603.05027, Sec. 3). The
plain twin has the same layers without the additions, and a Wide ResNet (arXiv:1605.07146) has
k times the channels in every stage.
"""

from __future__ import annotations

from typing import Unpack

from minires import arguments
from minires.errors import ArgumentError, message, quoted
from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.models.network import MOST_BLOCKS, Variations, _Network
from minires.models.variants import Block
from minires.nn import Conv2d


class CifarNet(_Network):
    """A network for small images; made by :func:`cifar_resnet` and its siblings.

    ``forward`` takes images ``(n, in_channels, h, w)`` and returns logits ``(n, num_classes)``.

    Args:
        block: one of the classes in :mod:`minires.models.blocks`. With a pre-activation block the
            stem has no batch norm and ReLU, and one pair follows the last block instead.
        blocks: in each of the three stages.
        width: the factor k of the stages' channels, 16 k, 32 k and 64 k.
        variations: what any network can be told, see :class:`~minires.models.network.Variations`.

    Attributes:
        depth: layers with weights from input to output, shortcuts aside: the number in a name.
        image_shape: (c, h, w) of the images that it was designed for.

    Raises:
        ArgumentError: an option out of range, or one that these blocks do not have.
        ShapeError: at the call: not images of ``in_channels``.
    """

    image_size = 32
    default_shortcut = "A"
    fan = "fan_in"

    def __init__(
        self,
        block: type[Block],
        blocks: int,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        width: int = 1,
        **variations: Unpack[Variations],
    ) -> None:
        width = arguments.integer("CifarNet", "width", width, 1)
        stem = Conv2d(in_channels, 16, 3, padding=1, bias=False)
        stages = [(blocks, 16 * 2**i * width, 1 if i == 0 else 2, 1) for i in range(3)]
        super().__init__(block, stem, None, stages, num_classes, **variations)


def blocks_per_stage(depth: int, step: int = 6, rest: int = 2) -> int:
    """The n of ``depth = 6n + 2``, or with other numbers of layers in and around the blocks.

    Raises:
        ArgumentError: ``depth`` is not of that form; names the nearest depths that are.
    """
    form = f"{step}n+{rest}"
    whole = arguments.as_integer(depth)
    if whole is None:
        raise ArgumentError(message("depth", f"an integer of the form {form}", quoted(depth)))
    depth, least, most = whole, step + rest, step * (MOST_BLOCKS // 3) + rest
    if depth > most:
        raise ArgumentError(message("depth", f"{form} of at most {most:,}", quoted(depth)))
    if depth >= least and (depth - rest) % step == 0:
        return (depth - rest) // step
    below = rest + step * ((depth - rest) // step)
    near = f"Nearest: {below} and {below + step}." if below >= least else f"Nearest: {least}."
    some = ", ".join(str(rest + step * n) for n in (1, 2, 3))
    raise ArgumentError(
        message("depth", f"{form} with n >= 1 ({some}, ...)", quoted(depth), fix=near)
    )


def cifar_resnet(
    depth: int,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    pre_activation: bool = False,
    bottleneck: bool = False,
    **variations: Unpack[Variations],
) -> CifarNet:
    """A residual network for small images; 269,722 parameters at depth 20.

    Args:
        depth: 6n+2 or, with bottlenecks, 9n+2. The papers have 20, 32, 44, 56, 110 and 1202
            (arXiv:1512.03385), and 164 and 1001 with bottlenecks (arXiv:1603.05027).
        in_channels: 3 for colour images, 1 for grey ones.
        pre_activation: the blocks of arXiv:1603.05027 (v2) instead.
        bottleneck: blocks of three convolutions.
        variations: see :class:`~minires.models.network.Variations`. ``shortcut`` is "A" by
            default, as in the first paper's experiments; "B" adds 2,752 parameters at every depth,
            and is what the networks with bottlenecks have there.

    Raises:
        ArgumentError: a depth of another form, or an unknown shortcut.
    """
    kinds: dict[tuple[bool, bool], type[Block]] = {
        (False, False): BasicBlock,
        (False, True): Bottleneck,
        (True, False): PreActBlock,
        (True, True): PreActBottleneck,
    }
    pre_activation = arguments.flag("cifar_resnet", "pre_activation", pre_activation)
    bottleneck = arguments.flag("cifar_resnet", "bottleneck", bottleneck)
    blocks = blocks_per_stage(depth, 9 if bottleneck else 6)
    block = kinds[pre_activation, bottleneck]
    return CifarNet(block, blocks, num_classes, in_channels=in_channels, **variations)


def cifar_plain(
    depth: int, *, num_classes: int = 10, in_channels: int = 3, pre_activation: bool = False
) -> CifarNet:
    """The plain twin of :func:`cifar_resnet` with shortcut A: the same network without additions.

    Parameter names and shapes, and for one seed the initial values, are identical.

    Raises:
        ArgumentError: a depth not of the form 6n+2.
    """
    v2 = arguments.flag("cifar_plain", "pre_activation", pre_activation)
    block = PreActPlainBlock if v2 else PlainBlock
    return CifarNet(block, blocks_per_stage(depth), num_classes, in_channels=in_channels)


def cifar_wide_resnet(
    depth: int = 28,
    width: int = 10,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    **variations: Unpack[Variations],
) -> CifarNet:
    """WRN-depth-width (Zagoruyko & Komodakis 2016, arXiv:1605.07146): v2 blocks of two 3x3
    convolutions with ``width`` times the channels; WRN-28-10 has 36,479,194 parameters.

    Args:
        depth: 6n+4: three projections count, other than in :func:`cifar_resnet`, and the linear
            layer does not. The attribute ``depth`` of the network is 6n+2.
        width: the paper's widening factor k; 1 is no wider than a ResNet.
        variations: see :class:`~minires.models.network.Variations`. ``shortcut`` is "B" by
            default; the paper trains with ``dropout=0.3`` and without.

    Raises:
        ArgumentError: a depth not of the form 6n+4, or another option out of range.
    """
    given: Variations = {"shortcut": "B", **variations}
    blocks = blocks_per_stage(depth, rest=4)
    return CifarNet(PreActBlock, blocks, num_classes, in_channels=in_channels, width=width, **given)

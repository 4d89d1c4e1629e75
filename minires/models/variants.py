"""What later papers added to the blocks, behind the blocks themselves.

:mod:`minires.models.blocks` writes each block out as its paper has it. Every option of a block
ends here: :class:`Layers` makes the convolutions and norms of F as the options ask, and
:class:`Block` and :class:`ResidualBlock` are the bases of all blocks. With no option given, the
layers are those of the papers, ``dropout`` and ``se`` are None, and no block is ever left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, Unpack

from minires import arguments, random
from minires.errors import ArgumentError, message
from minires.models.norms import Norm, check_norm, in_one_line, make_norm
from minires.models.shortcuts import check_shapes, make_shortcut
from minires.nn import BatchNorm2d, Conv2d, Dropout, Module, ReLU, init
from minires.nn import functional as F
from minires.tensor import Tensor


class BranchOptions(TypedDict, total=False):
    """Options of F, which every block has.

    Attributes:
        stride_in: of a bottleneck, the convolution with the stride: ``"3x3"`` as in torchvision
            and fb.resnet.torch (called v1.5), ``"1x1"`` as in the paper (v1).
        groups: of a bottleneck, in how many groups the 3x3 convolution falls (Xie et al. 2017,
            arXiv:1611.05431, Fig. 3c: ResNeXt's cardinality).
        width_per_group: of a bottleneck, the channels of a group at ``channels=64``: the 3x3
            convolution has ``groups * width_per_group * channels / 64`` of them.
        dilation: distance of the taps of the 3x3 convolutions.
        bias: whether convolutions have one; with a norm behind it, it has no use.
        norm_layer: called with a number of channels, makes each normalisation.
        dropout: probability of zeroing an entry in front of the last convolution (Zagoruyko &
            Komodakis 2016, arXiv:1605.07146, Sec. 2.4).
        reduction: ends F with a :class:`SqueezeExcitation` of this reduction ratio.
    """

    stride_in: str
    groups: int
    width_per_group: int
    dilation: int
    bias: bool
    norm_layer: Norm
    dropout: float
    reduction: int | None


class BlockOptions(BranchOptions, total=False):
    """Options of a residual block: those of F, and of the addition ``b F(x) + S(x)``.

    Attributes:
        shortcut: "A", "B" (the default) or "C", see :mod:`minires.models.shortcuts`.
        survival: the probability p of b = 1 in training, drawn once for each batch; else b = 0,
            and F is not computed. In evaluation b = p (stochastic depth, Huang et al. 2016,
            arXiv:1603.09382, Eq. 2 and 5). 1 by default.
    """

    shortcut: str
    survival: float


class SqueezeExcitation(Module):
    """``x * sigmoid(W2 relu(W1 mean(x)))``: each channel scaled by a number between 0 and 1 that
    depends on the means of all channels (Hu et al. 2018, arXiv:1709.01507, Eq. 2 to 4).

    ``x (n, channels, h, w)`` to the same shape. W1 and W2, 1x1 convolutions with bias, lead to
    ``channels / reduction`` channels and back.

    Raises:
        ArgumentError: ``reduction`` is no integer, below 1 or above ``channels``.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        name = "SqueezeExcitation"
        channels = arguments.integer(name, "channels", channels, 1)
        reduction = arguments.integer(
            name, "reduction", reduction, 1, channels, "It divides the channels."
        )
        self.fc1 = Conv2d(channels, channels // reduction, 1)
        self.relu = ReLU()
        self.fc2 = Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = F.adaptive_avg_pool2d(x, 1)  # (n, channels, 1, 1)
        return x * F.sigmoid(self.fc2(self.relu(self.fc1(means))))  # (n, channels, h, w)


# ------------------------------------------------------------------------------- making the layers


class Layers:
    """Makes the layers of a block's F, as the options ask; checks the options first.

    Attributes:
        width: channels of a bottleneck's 3x3 convolution; ``channels``, unless ``groups`` and
            ``width_per_group`` say otherwise.
        c_out: channels of F(x), ``channels * expansion``.
        strides: of a bottleneck's first 1x1 convolution and of its 3x3 convolution.

    Raises:
        ArgumentError: an option out of range, or one that this kind of F does not have.
    """

    def __init__(
        self,
        block: type[Block],
        in_channels: int,
        channels: int,
        stride: int,
        *,
        stride_in: str = "3x3",
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
        bias: bool = False,
        norm_layer: Norm = BatchNorm2d,
        dropout: float = 0.0,
        reduction: int | None = None,
    ) -> None:
        name = block.__name__
        arguments.choice("stride_in", stride_in, ("1x1", "3x3"))
        check_norm(name, norm_layer)
        self._dropout = arguments.number(name, "dropout", dropout, least=0, most=1)
        in_channels = arguments.integer(name, "in_channels", in_channels, 1)
        channels = arguments.integer(name, "channels", channels, 1)
        stride = arguments.integer(name, "stride", stride, 1)
        self._dilation = arguments.integer(name, "dilation", dilation, 1)
        self._groups = arguments.integer(name, "groups", groups, 1)
        width_per_group = arguments.integer(name, "width_per_group", width_per_group, 1)
        if len(block.kernels) == 2 and (self._groups, width_per_group) != (1, 64):
            raise ArgumentError(
                message(
                    name,
                    "groups 1 and width_per_group 64, as two 3x3 convolutions have no inner width",
                    f"{self._groups} and {width_per_group}",
                    fix="Use Bottleneck.",
                )
            )
        self._name, self._bias, self._reduction = name, bias, reduction
        self._norm_layer = norm_layer
        _, self.width, *_, self.c_out = block.widths(
            in_channels, channels, self._groups, width_per_group
        )
        self.strides = (stride, 1) if stride_in == "1x1" else (1, stride)

    def conv1x1(self, c_in: int, c_out: int, stride: int = 1) -> Conv2d:
        return Conv2d(c_in, c_out, 1, stride, bias=self._bias)

    def conv3x3(self, c_in: int, c_out: int, stride: int = 1) -> Conv2d:
        """A convolution that keeps the size of maps, but for the stride."""
        return Conv2d(
            c_in,
            c_out,
            3,
            stride,
            padding=self._dilation,
            dilation=self._dilation,
            groups=self._groups,
            bias=self._bias,
        )

    def norm(self, channels: int) -> Module:
        return make_norm(self._name, self._norm_layer, int(channels))

    def dropout(self) -> Dropout | None:
        return Dropout(self._dropout) if self._dropout else None

    def squeeze_excitation(self) -> SqueezeExcitation | None:
        return None if self._reduction is None else SqueezeExcitation(self.c_out, self._reduction)


class ResidualLayers(Layers):
    """The :class:`Layers` of a residual block: F's, and what the addition needs.

    Raises:
        ArgumentError: an option out of range.
    """

    def __init__(
        self,
        block: type[Block],
        in_channels: int,
        channels: int,
        stride: int,
        *,
        shortcut: str = "B",
        survival: float = 1.0,
        **branch: Unpack[BranchOptions],
    ) -> None:
        super().__init__(block, in_channels, channels, stride, **branch)
        self._sizes = in_channels, self.c_out, stride
        self._shortcut, self._survival = shortcut, survival
        self._shortcut_norm = None if block.pre_activation else self._norm_layer

    def survival(self) -> float:
        return arguments.number(self._name, "survival", self._survival, least=0, most=1)

    def shortcut(self) -> Module | None:
        """S; with pre-activation a projection has no norm, as the activated x has one."""
        return make_shortcut(self._shortcut, *self._sizes, self._shortcut_norm, self._bias)


# -------------------------------------------------------------------------------- bases of blocks


class Block(Module):
    """Base of all blocks: F(x), of convolutions ``conv1``, ``conv2``, ... and their norms.

    Each convolution has a norm ``bn1``, ``bn2``, ...: behind it or, with pre-activation, in front
    of it.

    Attributes:
        kernels: sizes of the convolutions.
        expansion: how many times ``channels`` F(x) has.
        pre_activation: whether norm and ReLU come before the convolutions (v2) or after (v1).
        dropout: in front of the last convolution, or None.
        se: the squeeze and excitation at the end of F, or None.
    """

    kernels: ClassVar[tuple[int, ...]] = (3, 3)
    expansion: ClassVar[int] = 1
    pre_activation: ClassVar[bool] = False
    dropout: Dropout | None
    se: SqueezeExcitation | None

    @classmethod
    def widths(
        cls, in_channels: int, channels: int, groups: int = 1, width_per_group: int = 64
    ) -> list[int]:
        """Channels in front of the first convolution, between all of them, and behind the last."""
        numbers = (in_channels, channels, groups, width_per_group)
        in_channels, channels, groups, width = arguments.sizes(cls.__name__, "widths:", numbers, 1)
        inner = channels * width // 64 * groups
        return [in_channels, *[inner] * (len(cls.kernels) - 1), channels * cls.expansion]

    @classmethod
    def weights(
        cls, in_channels: int, channels: int, groups: int = 1, width_per_group: int = 64
    ) -> int:
        """How many entries the weights of the convolutions have, before any is made."""
        widths = cls.widths(in_channels, channels, groups, width_per_group)
        return sum(
            c_in * c_out * kernel**2 // (int(groups) if kernel == 3 else 1)
            for kernel, c_in, c_out in zip(cls.kernels, widths, widths[1:])
        )

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""
        raise NotImplementedError(f"{type(self).__name__} does not define residual()")

    def zero_residual(self) -> None:
        """Set the last weight of F to 0, so that F(x) = 0: the block begins as its shortcut."""
        last = f"{'conv' if self.pre_activation else 'bn'}{len(self.kernels)}"
        init.zeros_(getattr(self, last).weight)


class ResidualBlock(Block):
    """Base of the blocks that add: F(x) + S(x).

    Attributes:
        downsample: the module S, or None for the identity.
        survival: the probability that F takes part in a training step (stochastic depth).
    """

    downsample: Module | None
    survival: float

    def skip(self, x: Tensor) -> Tensor:
        """S(x), what is added to F(x): x itself, or x brought to the shape of F(x)."""
        return x if self.downsample is None else self.downsample(x)


class PreActResidualBlock(ResidualBlock):
    """Base of the residual blocks of He et al. 2016.

    A projection reads the activated input, as in the authors' code
    (github.com/KaimingHe/resnet-1k-layers); the identity and shortcut A carry x as it is.
    """

    pre_activation = True

    def preactivate(self, x: Tensor) -> Tensor:
        """relu(BN1 x), what the first convolution of F sees."""
        raise NotImplementedError(f"{type(self).__name__} does not define preactivate()")

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        raise NotImplementedError(f"{type(self).__name__} does not define branch()")

    def skip(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, Conv2d):
            x = self.preactivate(x)
        return x if self.downsample is None else self.downsample(x)


def check_block(name: str, block: Any) -> None:
    """Refuse what is no class of blocks.

    Raises:
        ArgumentError: beginning with ``name``.
    """
    if not isinstance(block, type) or not issubclass(block, Block):
        expected = "a class of blocks from minires.models, such as BasicBlock"
        raise ArgumentError(message(name, expected, in_one_line(block)))


# ----------------------------------------------------------------------------- in forward


def maybe(layer: Module | None, x: Tensor) -> Tensor:
    """``layer(x)``; where an option left the layer out, x."""
    return x if layer is None else layer(x)


def paths(block: ResidualBlock, x: Tensor, b: float = 1) -> tuple[Tensor, Tensor]:
    """b F(x) and S(x), the two summands of a residual block.

    A projection in a pre-activation block reads relu(BN1 x), as F does. That activation is
    computed once: twice, BN1 would count the batch twice.
    """
    residual: Callable[[Tensor], Tensor] = block.residual
    skip: Callable[[Tensor], Tensor] = block.skip
    if isinstance(block, PreActResidualBlock) and isinstance(block.downsample, Conv2d):
        residual, skip, x = block.branch, block.downsample, block.preactivate(x)
    f = residual(x)
    return (f if b == 1 else f * b), skip(x)


def stochastic_sum(block: ResidualBlock, x: Tensor) -> Tensor:
    """b F(x) + S(x), with the b of stochastic depth, see :class:`BlockOptions`.

    The draw decides what is computed, so it is made on the host, on every device; a function that
    draws so cannot be captured, which would not draw again.
    """
    if block.training and random.generator().random() >= block.survival:
        return block.skip(x)  # b = 0
    f, s = paths(block, x, b=1 if block.training else block.survival)
    check_shapes(f, s)
    return f + s

"""Building blocks of residual networks, and their plain twins.

A residual block computes ``y = relu(F(x) + x)`` (He et al. 2015, arXiv:1512.03385, Eq. 1 and 2)
and a plain block ``y = relu(F(x))``, with the same F. In every block here F can be called on its
own as ``block.residual(x)``, and the other path as ``block.skip(x)``. The pre-activation blocks
move batch norm and ReLU in front of the convolutions, which leaves ``y = F(x) + x`` with nothing
behind the addition (He et al. 2016, arXiv:1603.05027, Eq. 3 and Fig. 4e).

Where a block changes shape, the paper offers three shortcuts (Sec. 3.3 and 4.1):

- ``"A"``: the identity, subsampled by the stride and padded with zero channels; no parameters.
- ``"B"``: a projection (1x1 convolution, batch norm) where shapes change, the identity elsewhere.
- ``"C"``: a projection in every block.

All take ``x (n, in_channels, h, w)`` and return
``(n, channels * expansion, ceil(h / stride), ceil(w / stride))``. Their variants are options, see
:class:`BranchOptions`, that any block may combine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, Unpack

from minires import arguments, random
from minires.errors import ArgumentError, MiniresError, ShapeError, message, quoted
from minires.nn import BatchNorm2d, Conv2d, Dropout, Module, ReLU, Sequential, init
from minires.nn import functional as F
from minires.tensor import Tensor, given

Norm = Callable[[int], Module]  # makes the normalisation of so many channels


class BranchOptions(TypedDict, total=False):
    """What F can be told, beside channels and stride.

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


def check_norm(name: str, norm_layer: Any) -> None:
    """Refuse what cannot make norms: a number, a name, or a norm that is made already.

    Raises:
        ArgumentError: beginning with ``name``.
    """
    if not callable(norm_layer) or isinstance(norm_layer, Module):
        raise ArgumentError(
            message(
                name,
                "norm_layer a class or function that makes the norm of so many channels",
                _given(norm_layer),
                fix="Such as nn.BatchNorm2d itself, or lambda c: nn.GroupNorm(8, c).",
            )
        )


def norm_of(name: str, norm_layer: Norm, channels: int) -> Module:
    """What ``norm_layer`` makes for so many channels.

    Raises:
        ArgumentError: it makes no module, or cannot be called with a number.
    """
    expected = f"a module from norm_layer({channels})"
    try:
        norm = norm_layer(channels)
    except MiniresError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ArgumentError(message(name, expected, got)) from error
    if not isinstance(norm, Module):
        raise ArgumentError(message(name, expected, quoted(norm)))
    return norm


def _given(value: Any) -> str:
    """A wrong argument in one line, which the text of a module is not."""
    if isinstance(value, Module):
        return f"a {type(value).__name__} that is made already"
    return value.__name__ if isinstance(value, type) else quoted(value)


class OptionA(Module):
    """Shortcut A: ``x[:, :, ::stride, ::stride]`` followed by channels of zeros; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        name = "shortcut A"
        in_channels = arguments.integer(name, "in_channels", in_channels, 1)
        out_channels = arguments.integer(name, "out_channels", out_channels, 1)
        if out_channels < in_channels:
            raise ArgumentError(
                message(
                    name,
                    "at least as many channels out as in",
                    f"{in_channels} in and {out_channels} out",
                    fix='Use shortcut="B", a projection.',
                )
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = arguments.integer(name, "stride", stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = given("shortcut A", x)[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


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
        means = F.adaptive_avg_pool2d(x, 1)
        return x * F.sigmoid(self.fc2(self.relu(self.fc1(means))))


def make_shortcut(
    option: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    norm_layer: Norm | None = BatchNorm2d,
    bias: bool = False,
) -> Module | None:
    """The module on the shortcut path, or None where the shortcut is the identity.

    A projection ends with a norm, unless ``norm_layer`` is None.

    Raises:
        ArgumentError: ``option`` is not "A", "B" or "C".
    """
    arguments.choice("shortcut", option, ("A", "B", "C"))
    same_shape = in_channels == out_channels and stride == 1
    if same_shape and option != "C":
        return None
    if option == "A":
        return OptionA(in_channels, out_channels, stride)
    projection = Conv2d(in_channels, out_channels, 1, stride, bias=bias)
    return (
        projection
        if norm_layer is None
        else Sequential(projection, norm_of("shortcut", norm_layer, out_channels))
    )


def add(residual: Tensor, shortcut: Tensor) -> Tensor:
    """``F(x) + shortcut`` of two equal shapes.

    Raises:
        ShapeError: the shapes differ. Plain ``+`` would stretch a 1x1 map without a word.
    """
    if residual.shape != shortcut.shape:
        raise ShapeError(
            f"residual add: F(x) is {residual.shape}, shortcut is {shortcut.shape}. "
            'Where a block changes size or channels, use shortcut="A", "B" or "C".'
        )
    return residual + shortcut


class _Branch(Module):
    """F: the convolutions of a block and their norms; the base of all blocks.

    Each convolution ``conv1``, ``conv2``, ... has a norm ``bn1``, ``bn2``, ...: behind it or, with
    pre-activation, in front of it. For :class:`BranchOptions` see there.

    Raises:
        ArgumentError: an option out of range, or one that this kind of F does not have.
    """

    kernels: ClassVar[tuple[int, ...]] = (3, 3)
    expansion: ClassVar[int] = 1
    pre_activation: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
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
        super().__init__()
        name = type(self).__name__
        arguments.choice("stride_in", stride_in, ("1x1", "3x3"))
        check_norm(name, norm_layer)
        dropout = arguments.number(name, "dropout", dropout, least=0, most=1)
        in_channels = arguments.integer(name, "in_channels", in_channels, 1)
        channels = arguments.integer(name, "channels", channels, 1)
        stride = arguments.integer(name, "stride", stride, 1)
        dilation = arguments.integer(name, "dilation", dilation, 1)
        groups = arguments.integer(name, "groups", groups, 1)
        width_per_group = arguments.integer(name, "width_per_group", width_per_group, 1)
        if len(self.kernels) == 2 and (groups, width_per_group) != (1, 64):
            raise ArgumentError(
                message(
                    name,
                    "groups 1 and width_per_group 64, as two 3x3 convolutions have no inner width",
                    f"{groups} and {width_per_group}",
                    fix="Use Bottleneck.",
                )
            )
        strided = 0 if stride_in == "1x1" else self.kernels.index(3)
        widths = self.widths(in_channels, channels, groups, width_per_group)
        for i, kernel in enumerate(self.kernels):
            c_in, c_out = widths[i : i + 2]
            spread = dilation if kernel == 3 else 1
            conv = Conv2d(
                c_in,
                c_out,
                kernel,
                stride if i == strided else 1,
                padding=spread * (kernel // 2),
                dilation=spread,
                groups=groups if kernel == 3 else 1,
                bias=bias,
            )
            if self.pre_activation:
                self.add_module(f"bn{i + 1}", norm_of(name, norm_layer, c_in))
                self.add_module(f"conv{i + 1}", conv)
            else:
                self.add_module(f"conv{i + 1}", conv)
                self.add_module(f"bn{i + 1}", norm_of(name, norm_layer, c_out))
        self.relu = ReLU()
        self.dropout = Dropout(dropout) if dropout else None
        self.se = None if reduction is None else SqueezeExcitation(c_out, reduction)

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

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.se is None else self.se(x)


class _Residual(_Branch):
    """``b F(x) + S(x)``, what follows it is the block's: the base of all but the plain blocks.

    Args:
        shortcut: "A", "B" or "C"; makes ``downsample``, the module S, or None for the identity.
        survival: the probability p of b = 1 in training, drawn once for each batch; else b = 0,
            and F is not computed. In evaluation b = p (stochastic depth, Huang et al. 2016,
            arXiv:1603.09382, Eq. 2 and 5).

    Raises:
        ArgumentError: an option out of range.
    """

    downsample: Module | None

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: str = "B",
        survival: float = 1.0,
        **branch: Unpack[BranchOptions],
    ) -> None:
        super().__init__(in_channels, channels, stride, **branch)
        self.survival = arguments.number(type(self).__name__, "survival", survival, least=0, most=1)
        out_channels = channels * self.expansion
        norm = None if self.pre_activation else branch.get("norm_layer", BatchNorm2d)
        bias = branch.get("bias", False)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride, norm, bias)

    def skip(self, x: Tensor) -> Tensor:
        """S(x), what is added to F(x): x itself, or x brought to the shape of F(x)."""
        return x if self.downsample is None else self.downsample(x)

    def _sum(self, f: Callable[[Tensor], Tensor], s: Callable[[Tensor], Tensor], x: Tensor) -> Any:
        """b f(x) + s(x)."""
        if self.survival == 1:
            return add(f(x), s(x))
        if not self.training:
            return add(f(x) * self.survival, s(x))
        return add(f(x), s(x)) if random.generator().random() < self.survival else s(x)


Block = type[_Branch]


def check_block(name: str, block: Any) -> None:
    """Refuse what is no class of blocks.

    Raises:
        ArgumentError: beginning with ``name``.
    """
    if not isinstance(block, type) or not issubclass(block, _Branch):
        expected = "a class of blocks from minires.models, such as BasicBlock"
        raise ArgumentError(message(name, expected, _given(block)))


# ------------------------------------------------------------------ v1: activation after addition


class _BasicBranch(_Branch):
    """F = BN2 W2 relu(BN1 W1 x), of two 3x3 convolutions."""

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self._scaled(self.bn2(self.conv2(self._dropped(x))))


class _BottleneckBranch(_Branch):
    """F = BN3 W3 relu(BN2 W2 relu(BN1 W1 x)), of 1x1, 3x3 and 1x1 convolutions."""

    kernels = (1, 3, 1)
    expansion = 4

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self._scaled(self.bn3(self.conv3(self._dropped(x))))


class _ActivationAfter(_Residual):
    """``relu(F(x) + S(x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self._sum(self.residual, self.skip, x))


class PlainBlock(_BasicBranch):
    """``relu(F(x))``: a :class:`BasicBlock` with shortcut A whose addition was taken out.

    Parameter names, their shapes and, for one seed, their initial values are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x))


class BasicBlock(_BasicBranch, _ActivationAfter):
    """``relu(F(x) + x)``, F of two 3x3 convolutions (arXiv:1512.03385, Eq. 1 and Fig. 5 left).

    With ``reduction=16`` the block of SE-ResNet (arXiv:1709.01507, Fig. 3).
    """


class Bottleneck(_BottleneckBranch, _ActivationAfter):
    """``relu(F(x) + x)``, F of 1x1, 3x3 and 1x1 convolutions (arXiv:1512.03385, Fig. 5 right).

    With ``groups=32, width_per_group=4`` the block of ResNeXt 32x4d (arXiv:1611.05431, Fig. 3c),
    with ``width_per_group=128`` that of a Wide ResNet-50-2 (arXiv:1605.07146, Sec. 3).
    """


# ------------------------------------------------------------------ v2: activation before the convs


class _PreActivation(_Branch):
    """F that begins with batch norm and ReLU."""

    pre_activation = True

    def preactivate(self, x: Tensor) -> Tensor:
        """What the first convolution of F sees."""
        return self.relu(self.bn1(x))

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        raise NotImplementedError(f"{type(self).__name__} does not define branch()")

    def residual(self, x: Tensor) -> Tensor:
        return self.branch(self.preactivate(x))


class _PreActBasicBranch(_PreActivation):
    """F = W2 relu(BN2 W1 relu(BN1 x)), of two 3x3 convolutions."""

    def branch(self, activated: Tensor) -> Tensor:
        x = self.relu(self.bn2(self.conv1(activated)))
        return self._scaled(self.conv2(self._dropped(x)))


class _PreActBottleneckBranch(_PreActivation):
    """F = W3 relu(BN3 W2 relu(BN2 W1 relu(BN1 x))), of 1x1, 3x3 and 1x1 convolutions."""

    kernels = (1, 3, 1)
    expansion = 4

    def branch(self, activated: Tensor) -> Tensor:
        x = self.relu(self.bn2(self.conv1(activated)))
        x = self.relu(self.bn3(self.conv2(x)))
        return self._scaled(self.conv3(self._dropped(x)))


class _ActivationBefore(_PreActivation, _Residual):
    """``F(x) + x``. A projection reads the activated input, as in the authors' code
    (github.com/KaimingHe/resnet-1k-layers); the identity and shortcut A carry x as it is."""

    def skip(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, Conv2d):
            return self.downsample(self.preactivate(x))
        return super().skip(x)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, Conv2d):
            # Both paths share one activation: twice, bn1 would count the batch twice.
            return self._sum(self.branch, self.downsample, self.preactivate(x))
        return self._sum(self.residual, self.skip, x)


class PreActPlainBlock(_PreActBasicBranch):
    """``F(x)``: a :class:`PreActBlock` with shortcut A whose addition was taken out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)


class PreActBlock(_PreActBasicBranch, _ActivationBefore):
    """``F(x) + x``, F of two 3x3 convolutions with pre-activation (arXiv:1603.05027, Fig. 4e).

    With many channels and ``dropout`` the block of Wide ResNets for small images
    (arXiv:1605.07146, Fig. 1d).
    """


class PreActBottleneck(_PreActBottleneckBranch, _ActivationBefore):
    """``F(x) + x``, F of 1x1, 3x3 and 1x1 convolutions with pre-activation (arXiv:1603.05027)."""

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
``(n, channels * expansion, ceil(h / stride), ceil(w / stride))``.
"""

from __future__ import annotations

from typing import ClassVar

from minires.errors import ArgumentError, ShapeError, message, unknown
from minires.nn import BatchNorm2d, Conv2d, Module, ReLU, Sequential
from minires.nn import functional as F
from minires.tensor import Tensor


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    """A 3x3 convolution that keeps the size at stride 1; no bias, since batch norm follows."""
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    """A 1x1 convolution without bias."""
    return Conv2d(in_channels, out_channels, 1, stride, bias=False)


class OptionA(Module):
    """Shortcut A: ``x[:, :, ::stride, ::stride]`` followed by channels of zeros; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ArgumentError(
                message(
                    "shortcut A",
                    "at least as many channels out as in",
                    f"{in_channels} in and {out_channels} out",
                    fix='Use shortcut="B", a projection.',
                )
            )
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def make_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int, batch_norm: bool = True
) -> Module | None:
    """The module on the shortcut path, or None where the shortcut is the identity.

    Raises:
        ArgumentError: ``option`` is not "A", "B" or "C".
    """
    if option not in ("A", "B", "C"):
        raise unknown("shortcut", option, ["A", "B", "C"])
    same_shape = in_channels == out_channels and stride == 1
    if same_shape and option != "C":
        return None
    if option == "A":
        return OptionA(in_channels, out_channels, stride)
    projection = conv1x1(in_channels, out_channels, stride)
    return Sequential(projection, BatchNorm2d(out_channels)) if batch_norm else projection


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


class _Skip(Module):
    """The second path of a residual block, from input to addition."""

    downsample: Module | None

    def skip(self, x: Tensor) -> Tensor:
        """What is added to F(x): x itself, or x brought to the shape of F(x)."""
        return x if self.downsample is None else self.downsample(x)


# ------------------------------------------------------------------ v1: activation after addition


class _BasicBranch(Module):
    """F of two 3x3 convolutions."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = BatchNorm2d(channels)
        self.relu = ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = BatchNorm2d(channels)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class PlainBlock(_BasicBranch):
    """``relu(F(x))``: a :class:`BasicBlock` with shortcut A whose addition was taken out.

    Parameter names, their shapes and, for one seed, their initial values are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x))


class BasicBlock(_BasicBranch, _Skip):
    """``relu(F(x) + x)``, F of two 3x3 convolutions (arXiv:1512.03385, Fig. 5 left)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, shortcut: str = "B"
    ) -> None:
        super().__init__(in_channels, channels, stride)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(add(self.residual(x), self.skip(x)))


class Bottleneck(_Skip):
    """``relu(F(x) + x)``, F of 1x1, 3x3 and 1x1 convolutions (arXiv:1512.03385, Fig. 5 right).

    ``stride_in`` says which convolution has the stride: ``"3x3"`` as in torchvision and
    fb.resnet.torch (called v1.5), ``"1x1"`` as in the paper (v1).
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: str = "B",
        stride_in: str = "3x3",
    ) -> None:
        super().__init__()
        if stride_in not in ("1x1", "3x3"):
            raise unknown("stride_in", stride_in, ["1x1", "3x3"])
        stride1, stride2 = (stride, 1) if stride_in == "1x1" else (1, stride)
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels, stride1)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride2)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = BatchNorm2d(out_channels)
        self.relu = ReLU()
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(add(self.residual(x), self.skip(x)))


# ------------------------------------------------------------------ v2: activation before the convs


class _PreAct(Module):
    """F that begins with batch norm and ReLU."""

    bn1: BatchNorm2d
    relu: ReLU

    def preactivate(self, x: Tensor) -> Tensor:
        """What the first convolution of F sees."""
        return self.relu(self.bn1(x))

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        raise NotImplementedError

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""
        return self.branch(self.preactivate(x))


class _PreActBasicBranch(_PreAct):
    """F of two 3x3 convolutions, each behind batch norm and ReLU."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(in_channels)
        self.relu = ReLU()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)

    def branch(self, activated: Tensor) -> Tensor:
        x = self.conv1(activated)
        return self.conv2(self.relu(self.bn2(x)))


class PreActPlainBlock(_PreActBasicBranch):
    """``F(x)``: a :class:`PreActBlock` with shortcut A whose addition was taken out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)


class _PreActSkip(_PreAct, _Skip):
    """``F(x) + x``. A projection reads the activated input, as in the authors' code
    (github.com/KaimingHe/resnet-1k-layers); the identity and shortcut A carry x as it is."""

    def skip(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, Conv2d):
            return self.downsample(self.preactivate(x))
        return super().skip(x)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, Conv2d):
            # Both paths share one activation: twice, bn1 would count the batch twice.
            activated = self.preactivate(x)
            return add(self.branch(activated), self.downsample(activated))
        return add(self.residual(x), self.skip(x))


class PreActBlock(_PreActBasicBranch, _PreActSkip):
    """``F(x) + x``, F of two 3x3 convolutions with pre-activation (arXiv:1603.05027, Fig. 4e)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, shortcut: str = "B"
    ) -> None:
        super().__init__(in_channels, channels, stride)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride, batch_norm=False)


class PreActBottleneck(_PreActSkip):
    """``F(x) + x``, F of 1x1, 3x3 and 1x1 convolutions with pre-activation; stride in the 3x3."""

    expansion: ClassVar[int] = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, shortcut: str = "B"
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.bn1 = BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, channels)
        self.bn2 = BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn3 = BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.relu = ReLU()
        self.downsample = make_shortcut(
            shortcut, in_channels, out_channels, stride, batch_norm=False
        )

    def branch(self, activated: Tensor) -> Tensor:
        x = self.conv1(activated)
        x = self.conv2(self.relu(self.bn2(x)))
        return self.conv3(self.relu(self.bn3(x)))

"""S, the second path of a residual block ``relu(F(x) + S(x))``.

S is the identity wherever F(x) has the shape of x. Where a block changes shape, the paper offers
three shortcuts (He et al. 2015, arXiv:1512.03385, Sec. 3.3 and 4.1):

- ``"A"``: the identity, subsampled by the stride and padded with zero channels; no parameters.
- ``"B"``: a projection (1x1 convolution, batch norm) where shapes change, the identity elsewhere.
- ``"C"``: a projection in every block.
"""

from __future__ import annotations

from minires import arguments
from minires.errors import ArgumentError, ShapeError, message
from minires.models.norms import Norm, make_norm
from minires.nn import BatchNorm2d, Conv2d, Module, Sequential
from minires.nn import functional as F
from minires.tensor import Tensor, given


class OptionA(Module):
    """Shortcut A: ``x[:, :, ::stride, ::stride]`` followed by channels of zeros; no parameters.

    ``x (n, in_channels, h, w)`` to ``(n, out_channels, ceil(h / stride), ceil(w / stride))``.

    Raises:
        ArgumentError: a number that is no integer or below 1, or fewer channels out than in.
    """

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


def make_shortcut(
    option: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    norm_layer: Norm | None = BatchNorm2d,
    bias: bool = False,
) -> Module | None:
    """The module S, or None where S is the identity.

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
    if norm_layer is None:
        return projection
    return Sequential(projection, make_norm("shortcut", norm_layer, out_channels))


def check_shapes(residual: Tensor, shortcut: Tensor) -> None:
    """Refuse to add F(x) and S(x) of two shapes: ``+`` would stretch a 1x1 map without a word.

    Raises:
        ShapeError: the shapes differ.
    """
    if residual.shape != shortcut.shape:
        raise ShapeError(
            f"residual add: F(x) is {residual.shape}, shortcut is {shortcut.shape}. "
            'Where a block changes size or channels, use shortcut="A", "B" or "C".'
        )

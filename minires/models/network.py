"""What the networks of the zoo share: a stem, stages of blocks, a pool and one linear layer.

The families differ in stem, widths and blocks: see :mod:`minires.models.resnet` and
:mod:`minires.models.cifar`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypedDict

from minires import arguments
from minires.errors import ArgumentError, ShapeError, message, quoted, unknown
from minires.models.norms import Norm, check_norm, make_norm
from minires.models.variants import Block, BranchOptions, check_block
from minires.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Linear,
    Module,
    ReLU,
    Sequential,
    init,
)
from minires.nn import functional as F
from minires.tensor import Tensor, given

MOST_BLOCKS = 10_000  # twice as many as ever were trained (10,000 layers, arXiv:1806.05393)
Stage = tuple[int, int, int, int]  # blocks, channels, stride of the first block, dilation


class Variations(TypedDict, total=False):
    """Options of every network.

    Attributes:
        shortcut: "A", "B" or "C", see :mod:`minires.models.shortcuts`.
        zero_init_residual: start every block as its shortcut, with 0 as weight of the last layer
            of F (Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1: "zero γ").
        norm_layer: called with a number of channels, makes each normalisation; None for
            :class:`~minires.nn.BatchNorm2d`.
        dropout: probability of zeroing an entry inside F, see
            :class:`~minires.models.variants.BranchOptions`.
        reduction: ends every F with squeeze and excitation of this ratio; 16 makes an SE-ResNet
            (Hu et al. 2018, arXiv:1709.01507).
        survival: stochastic depth: block l of L takes part in a training step with probability
            ``1 - l / L * (1 - survival)`` (Huang et al. 2016, arXiv:1603.09382, Eq. 4; the paper
            has 0.5).
    """

    shortcut: str
    zero_init_residual: bool
    norm_layer: Norm | None
    dropout: float
    reduction: int | None
    survival: float


class _Network(Module):
    """``fc(mean(stages(stem(x))))``.

    Args:
        stem: the first convolution.
        pool: what follows it, if anything.
        stages: for each stage (blocks, channels, stride, dilation). The stride is that of the
            stage's first block, which still has the dilation of the stage before (Yu et al. 2017,
            arXiv:1705.09914: dilation in place of a stride).
        options: of every block.

    Attributes:
        depth: layers with weights from input to output, shortcuts aside: the number in a name.
        image_shape: (c, h, w) of the images that it was designed for; other sizes work.
    """

    image_size: ClassVar[int]
    default_shortcut: ClassVar[str]
    fan: ClassVar[str]  # "fan_in" or "fan_out", by which initial weights are scaled, see he_init

    def __init__(
        self,
        block: type[Block],
        stem: Conv2d,
        pool: Module | None,
        stages: Sequence[Stage],
        num_classes: int,
        *,
        shortcut: str | None = None,
        zero_init_residual: bool = False,
        norm_layer: Norm | None = None,
        survival: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        _refuse_trained_weights(options)
        own = type(self).__name__
        check_block(own, block)
        norm_layer = BatchNorm2d if norm_layer is None else norm_layer
        check_norm(own, norm_layer)
        survival = arguments.number(own, "survival", survival, least=0, most=1)
        zero_init_residual = arguments.flag(own, "zero_init_residual", zero_init_residual)
        num_classes = arguments.integer(own, "num_classes", num_classes, 1)
        _refuse_unknown(own, options)
        stages = _checked_stages(own, stages)
        _check_memory(own, block, stem.out_channels, stages, num_classes, options)
        residual = hasattr(block, "skip")
        if not residual and (shortcut is not None or survival != 1):
            given = f"shortcut={quoted(shortcut)}, survival={survival}"
            raise ArgumentError(
                message(block.__name__, "no options of shortcuts in a plain network", given)
            )
        if residual:
            options["shortcut"] = self.default_shortcut if shortcut is None else shortcut
        total = sum(blocks for blocks, *_ in stages)
        self.depth = 2 + len(block.kernels) * total
        self.image_shape = (stem.in_channels, self.image_size, self.image_size)
        self.pre_activation = block.pre_activation
        widest = max(channels for blocks, channels, *_ in stages if blocks) * block.expansion
        self.conv1 = stem
        self.bn1 = make_norm(own, norm_layer, widest if self.pre_activation else stem.out_channels)
        self.relu = ReLU()
        self.maxpool = pool
        make_block: Callable[..., Block] = block
        c_in, made, last_dilation = stem.out_channels, 0, 1
        for i, (blocks, channels, stride, dilation) in enumerate(stages):
            stage = []
            for _ in range(blocks):
                made += 1
                if residual:
                    options["survival"] = 1 - made / total * (1 - survival)
                own_options = {"dilation": last_dilation, "norm_layer": norm_layer, **options}
                stage.append(make_block(c_in, channels, stride, **own_options))
                c_in, stride, last_dilation = channels * block.expansion, 1, dilation
            self.add_module(f"layer{i + 1}", Sequential(*stage))
        self.stages = len(stages)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(c_in, num_classes)
        he_init(self, self.fan)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, block):
                    module.zero_residual()

    def features(self, x: Tensor) -> Tensor:
        """The last maps, ``(n, channels, h', w')``, which are then pooled and classified."""
        if len(given(type(self).__name__, x).shape) != 4 or x.shape[1] != self.conv1.in_channels:
            raise ShapeError(_wrong_images(self, x.shape))
        x = self.conv1(x)
        if not self.pre_activation:
            x = self.relu(self.bn1(x))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.relu(self.bn1(x)) if self.pre_activation else x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.flatten(self.avgpool(self.features(x)), 1))


def _refuse_trained_weights(options: dict[str, Any]) -> None:
    """Refuse torchvision's options for downloads, with the way that there is instead."""
    for name in ("pretrained", "weights", "progress"):
        if name in options:
            raise ArgumentError(
                message(
                    "models",
                    "options of a network",
                    f"{name}={quoted(options[name])}",
                    "no trained weights come with minires",
                    "Load PyTorch's: net.load_state_dict(minires.load('resnet18.pth')).",
                )
            )


def _refuse_unknown(own: str, options: dict[str, Any]) -> None:
    """Refuse an option that no block has, naming those that a network of this class takes."""
    for option in options:
        if option not in BranchOptions.__annotations__:
            known = BranchOptions.__annotations__ | Variations.__annotations__
            raise unknown(f"option of {own}", option, known)


def _checked_stages(own: str, stages: Sequence[Stage]) -> list[Stage]:
    """The stages with their numbers of blocks as plain integers, 1 to MOST_BLOCKS in all."""
    layers = arguments.sizes(own, "layers", [blocks for blocks, *_ in stages])
    if not 1 <= sum(layers) <= MOST_BLOCKS:
        expected = f"layers of 1 to {MOST_BLOCKS:,} blocks in all"
        raise ArgumentError(message(own, expected, f"{sum(layers):,}", f"layers {layers}"))
    return [(n, c, stride, dilation) for n, (_, c, stride, dilation) in zip(layers, stages)]


def _check_memory(
    own: str,
    block: type[Block],
    c_in: int,
    stages: Sequence[Stage],
    num_classes: int,
    options: dict[str, Any],
) -> None:
    """Refuse a network whose weights no memory holds, before the first of them is made."""
    groups, width = (
        arguments.integer(own, name, options.get(name, usual), 1)
        for name, usual in (("groups", 1), ("width_per_group", 64))
    )
    entries = 0
    for blocks, channels, *_ in stages:
        c_out = channels * block.expansion
        if blocks:
            first, other = (block.weights(c, channels, groups, width) for c in (c_in, c_out))
            entries += first + (blocks - 1) * other
            c_in = c_out
    entries += c_in * num_classes
    arguments.check_memory(own, 4 * entries, f"{entries:,} float32 weights")


def _wrong_images(net: _Network, shape: tuple[int, ...]) -> str:
    """The message for images of another shape, with the way out that the shape suggests."""
    c = net.conv1.in_channels
    if len(shape) == 4 and shape[-1] == c:
        fix = "x looks like (n, h, w, c): use x.permute(0, 3, 1, 2)."
    elif len(shape) == 3:
        fix = "For one image, add a batch dimension: x.unsqueeze(0)."
    else:
        fix = "Pass in_channels= for images with other channels."
    kind = type(net).__name__
    return message(kind, f"images of shape (n, {c}, h, w)", f"shape {shape}", fix=fix)


def he_init(model: Module, mode: str) -> None:
    """Draw every convolution weight from N(0, 2 / fan), as arXiv:1512.03385 Sec. 3.4 prescribes.

    The source (arXiv:1502.01852) gives fan-in in Eq. 10 and fan-out in Eq. 14 and finds either
    sufficient. Linear layers keep PyTorch's default, and batch norm starts as the identity.
    """
    for module in model.modules():
        if isinstance(module, Conv2d):
            init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")

"""ResNet-50 as courses build it with Keras: for 64x64 images, with biases and probabilities."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from minires import arguments
from minires.errors import ArgumentError, message, quoted
from minires.models.blocks import Bottleneck
from minires.models.resnet import STAGES
from minires.nn import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Softmax,
    init,
)

# Keras' defaults: epsilon is added to the variance as here; its momentum 0.99 is the weight of the
# old statistics, which makes 0.01 that of the new batch.
_norm = functools.partial(BatchNorm2d, eps=1e-3, momentum=0.01)


def keras_resnet50(
    input_shape: Sequence[int] = (3, 64, 64), classes: int = 6, *, softmax: bool = True
) -> Sequential:
    """The ResNet-50 of Keras courses (arXiv:1512.03385 v1), 23,546,886 parameters by default.

    It differs from :func:`~minires.models.resnet50`: every convolution has a bias; the stem is
    zero padding of 3 and a 7x7 convolution without padding, which is ``padding=3`` here;
    the 3x3 max pool has no padding; the first 1x1 convolution of a block has the stride; windows
    of 2x2 are averaged at the end, not whole maps; the result is probabilities; batch norm has
    Keras' constants; weights are Glorot's uniform ones (2010, Eq. 16) and biases 0. What the
    courses call a convolutional block is a :class:`~minires.models.Bottleneck` with a projection,
    and an identity block one without.

    Args:
        input_shape: (channels, height, width) of one image; (h, w, c) in Keras.
        classes: outputs.
        softmax: False returns logits, which is what ``cross_entropy`` wants in training.

    Returns:
        A network from ``(n, *input_shape)`` to ``(n, classes)``. Keras counts 23,600,006
        parameters: batch norm's running means and variances are among them there.

    Raises:
        ArgumentError: an ``input_shape`` that is not (channels, height, width), or images below
            37x37, of which nothing is left at the end.

    >>> net = keras_resnet50(input_shape=(3, 64, 64), classes=6)
    >>> sum(p.numel() for p in net.parameters() if p.requires_grad)
    23546886
    """
    c, h, w = _image_shape(input_shape)
    classes = arguments.integer("keras_resnet50", "classes", classes, 1)
    softmax = arguments.flag("keras_resnet50", "softmax", softmax)
    features = 512 * Bottleneck.expansion * _pooled(h) * _pooled(w)
    arguments.check_memory(
        "keras_resnet50", 4 * features * classes, f"{features:,} features for fc"
    )
    layers: dict[str, Module] = {
        "conv1": Conv2d(c, 64, 7, stride=2, padding=3),
        "bn1": _norm(64),
        "relu": ReLU(),
        "maxpool": MaxPool2d(3, stride=2),
    }
    c_in = 64
    for i, blocks in enumerate(STAGES[50]):
        stage = Sequential()
        for j in range(blocks):
            stride = 2 if i > 0 and j == 0 else 1
            stage.append(
                Bottleneck(c_in, 64 * 2**i, stride, stride_in="1x1", bias=True, norm_layer=_norm)
            )
            c_in = 64 * 2**i * Bottleneck.expansion
        layers[f"layer{i + 1}"] = stage
    layers |= {
        "avgpool": AvgPool2d(2),
        "flatten": Flatten(),
        "fc": Linear(features, classes),
    }
    if softmax:
        layers["softmax"] = Softmax(dim=1)
    net = Sequential(layers)
    for module in net.modules():
        if isinstance(module, Conv2d | Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
    net.image_shape = (c, h, w)
    return net


def _pooled(size: int) -> int:
    """Rows or columns of the last maps, behind the last pool, for images of this size."""
    size = (size - 1) // 2 + 1  # 7x7, stride 2, padded by 3
    size = (size - 3) // 2 + 1  # max pool
    for _ in range(3):
        size = (size + 1) // 2
    return size // 2


def _image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """``input_shape`` as three integers (c, h, w) that leave at least one pixel at the end."""
    given = input_shape if isinstance(input_shape, Sequence) else ()
    whole = [arguments.as_integer(n) for n in given]
    shape = [n for n in whole if n is not None and 1 <= n <= arguments.MOST]
    if len(shape) == len(given) == 3:
        c, h, w = shape
        if min(_pooled(h), _pooled(w)) >= 1:
            return c, h, w
        fix = "This network needs 37x37 pixels."
        if w <= 4 < h:
            fix = f"Keras' channels come last; here they come first: ({w}, {c}, {h})."
    else:
        fix = "Such as (3, 64, 64)."
    expected = "input_shape (channels, height, width)"
    raise ArgumentError(message("keras_resnet50", expected, quoted(input_shape), fix=fix))

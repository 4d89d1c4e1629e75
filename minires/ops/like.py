"""Methods that take a shape or a kind from another tensor, and second names that PyTorch has."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError, message
from ..tensor import Tensor, tensor_method
from .checks import given
from .convert import astype
from .shape import expand, reshape, transpose


@tensor_method("expand_as")
def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """:func:`expand` to the shape of ``other``."""
    return expand(x, given("expand_as", other).shape)


@tensor_method("view_as", "reshape_as")
def view_as(x: Tensor, other: Tensor) -> Tensor:
    """:func:`reshape` to the shape of ``other``."""
    return reshape(x, given("view_as", other).shape)


@tensor_method("type_as")
def type_as(x: Tensor, other: Tensor) -> Tensor:
    """:func:`astype` to the dtype of ``other``."""
    return astype(x, given("type_as", other).dtype)


@tensor_method("type")
def type_to(x: Tensor, dtype: Any) -> Tensor:
    """:func:`astype`, by PyTorch's name."""
    return astype(x, dtype)


@tensor_method("t")
def t(x: Tensor) -> Tensor:
    """A matrix with rows and columns exchanged; a vector or a scalar as it is. A view.

    Raises:
        ShapeError: more than two dimensions.
    """
    if x.ndim > 2:
        fix = "Use .permute() or .transpose()."
        raise ShapeError(message("t", "at most 2 dimensions", f"shape {x.shape}", fix=fix))
    return transpose(x, 0, 1) if x.ndim == 2 else x


@tensor_method("square")
def square(x: Tensor) -> Tensor:
    """``x * x``; of bools in int64."""
    if given("square", x).dtype == np.bool_:
        x = astype(x, np.int64)
    return x * x


tensor_method("nelement")(Tensor.numel)
tensor_method("ndimension")(Tensor.dim)
Tensor.is_cuda = property(lambda x: x.device.type == "cuda")  # type: ignore[attr-defined]

"""Derivatives of functions: products with the Jacobian and the Hessian, and these as a whole.

Each takes a function of tensors and the point at which to differentiate it. The results do not
depend on, nor touch, any ``.grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arguments import check_memory, flag, listed, takes
from .autograd import enable_grad, grad
from .creation import zeros_like
from .device import move
from .errors import DTypeError, ShapeError, message, quoted
from .ops import reshape, stack
from .ops.checks import given
from .tensor import Tensor

Inputs = Tensor | Sequence[Tensor]


def _fresh(inputs: Inputs, create_graph: bool) -> tuple[list[Tensor], bool]:
    """The inputs as starting points: aliases that can be differentiated for, and whether one."""
    single = isinstance(inputs, Tensor)
    many = [inputs] if isinstance(inputs, Tensor) else listed("derivative", "tensors", inputs)
    flag("derivative", "create_graph", create_graph)
    if not many:
        raise ShapeError(message("derivative", "at least one input", "none"))
    result = []
    for value in many:
        if not isinstance(value, Tensor):
            raise DTypeError(message("derivative", "tensors as inputs", type(value).__name__))
        keep = create_graph and value.requires_grad
        result.append(value.reshape(value.shape) if keep else value.detach().requires_grad_())
    return result, single


def _value(name: str, f: Callable[..., Any], inputs: list[Tensor]) -> Tensor:
    if not callable(f):
        raise DTypeError(message(name, "a function of tensors", quoted(f)))
    takes(name, "f", f, len(inputs))
    value = f(*inputs)
    if not isinstance(value, Tensor):
        raise DTypeError(message(name, "a function that returns one tensor", type(value).__name__))
    return value


def _vectors(name: str, v: Any, like: list[Tensor]) -> list[Tensor]:
    vectors = [v] if isinstance(v, Tensor) else listed(name, "v a tensor for each input", v)
    for vector in vectors:
        given(name, vector)
    if [t.shape for t in vectors] != [t.shape for t in like]:
        raise ShapeError(
            message(name, f"v of shapes {[t.shape for t in like]}", [t.shape for t in vectors[:9]])
        )
    return vectors


def _gradients(y: Tensor, xs: list[Tensor], gy: Any, create_graph: bool) -> list[Tensor]:
    """Gradients for every input; zeros for one that y does not depend on."""
    if not y.requires_grad:
        return [zeros_like(x) for x in xs]
    found = grad(y, xs, gy, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return [zeros_like(x) if g is None else g for g, x in zip(found, xs)]


def vjp(
    f: Callable[..., Tensor], inputs: Inputs, v: Tensor | None = None, *, create_graph: bool = False
) -> tuple[Tensor, Any]:
    """``f(*inputs)`` and vᵀJ, the product of ``v`` (f's shape) with the Jacobian.

    >>> import minires as mr
    >>> y, g = mr.vjp(lambda x: x * x, mr.tensor([1.0, 2.0]), mr.tensor([1.0, 10.0]))
    >>> g.tolist()
    [2.0, 40.0]
    """
    with enable_grad():
        xs, single = _fresh(inputs, create_graph)
        y = _value("vjp", f, xs)
        result = _gradients(y, xs, v, create_graph)
    return (y if create_graph else y.detach()), result[0] if single else tuple(result)


def jvp(
    f: Callable[..., Tensor], inputs: Inputs, v: Any, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """``f(*inputs)`` and Jv, the derivative along the direction ``v`` (the inputs' shapes).

    Computed backward twice: uᵀJ is linear in u, and its derivative along v is Jv.

    >>> import minires as mr
    >>> y, d = mr.jvp(lambda x: (x * x).sum(), mr.tensor([1.0, 2.0]), mr.tensor([1.0, 10.0]))
    >>> d.item()
    42.0
    """
    with enable_grad():
        xs, _ = _fresh(inputs, create_graph)
        vectors = _vectors("jvp", v, xs)
        y = _value("jvp", f, xs)
        u = zeros_like(y).requires_grad_()
        rows = _gradients(y, xs, u, True)
        linear = [(row, vector) for row, vector in zip(rows, vectors) if row.requires_grad]
        if linear:
            (result,) = grad(
                [row for row, _ in linear],
                u,
                [vector for _, vector in linear],
                create_graph=create_graph,
                allow_unused=True,
            )
        else:
            result = None
    return (y if create_graph else y.detach()), zeros_like(y) if result is None else result


def jacobian(f: Callable[..., Tensor], inputs: Inputs, *, create_graph: bool = False) -> Any:
    """∂f / ∂inputs, of shape f's shape + the input's shape (a tuple for several inputs).

    >>> import minires as mr
    >>> mr.jacobian(lambda x: x * x, mr.tensor([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    with enable_grad():
        xs, single = _fresh(inputs, create_graph)
        y = _value("jacobian", f, xs)
        for x in xs:
            check_memory("jacobian", y.numel() * x.nbytes, f"f(x) {y.shape} by x {x.shape}")
        flat = y.reshape(-1)
        rows = []
        for index in range(flat.numel()):
            gy = np.zeros(y.numel(), y.dtype)
            gy[index] = 1
            rows.append(_gradients(flat, xs, Tensor(move(gy, y.device)), create_graph))
    result = []
    for i, x in enumerate(xs):
        if rows:
            result.append(reshape(stack([row[i] for row in rows]), *y.shape, *x.shape))
        else:
            result.append(Tensor(np.zeros((*y.shape, *x.shape), x.dtype)))
    return result[0] if single else tuple(result)


def hvp(f: Callable[..., Tensor], inputs: Inputs, v: Any) -> tuple[Tensor, Any]:
    """``f(*inputs)`` (a scalar) and Hv, the product of its Hessian with ``v``.

    >>> import minires as mr
    >>> mr.hvp(lambda x: (x**3).sum(), mr.tensor([1.0, 2.0]), mr.tensor([1.0, 1.0]))[1].tolist()
    [6.0, 12.0]
    """
    with enable_grad():
        xs, single = _fresh(inputs, False)
        vectors = _vectors("hvp", v, xs)
        y = _value("hvp", f, xs)
        if y.numel() != 1:
            raise ShapeError(message("hvp", "a function with a scalar result", y.shape))
        gradients = _gradients(y, xs, None, True)
        linear = [(g, vector) for g, vector in zip(gradients, vectors) if g.requires_grad]
        found: Sequence[Any] = [None] * len(xs)
        if linear:
            found = grad([g for g, _ in linear], xs, [v for _, v in linear], allow_unused=True)
        result = [zeros_like(x) if h is None else h for h, x in zip(found, xs)]
    return y.detach(), result[0] if single else tuple(result)


def hessian(f: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The second derivatives of a scalar function of one tensor, of shape x.shape + x.shape.

    >>> import minires as mr
    >>> mr.hessian(lambda x: (x**3).sum(), mr.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """

    def gradient(point: Tensor) -> Tensor:
        y = _value("hessian", f, [point])
        if y.numel() != 1:
            raise ShapeError(message("hessian", "a function with a scalar result", y.shape))
        return _gradients(y, [point], None, True)[0]

    return jacobian(gradient, given("hessian", x))

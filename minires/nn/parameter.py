"""Parameters, and those whose shape the first batch tells: what lazy layers have until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from minires import arguments, markup
from minires.autograd import Variable, Version
from minires.creation import zeros
from minires.device import CPU, Device, beside, device_of, move
from minires.errors import UninitializedError, message
from minires.tensor import Tensor, as_dtype


class Parameter(Tensor):
    """A tensor that a module trains: assigned to an attribute of a module, it is registered.

    Shares memory with ``data`` where ``data`` is a tensor or a NumPy array.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, arguments.flag("Parameter", "requires_grad", requires_grad))


class Uninitialized(Tensor):
    """A tensor without values: it has a dtype and a device, and no shape yet.

    Behind it is an array that nobody is shown, with 0 for each size that is not known yet. Whoever
    asks for the array, its shape or its values gets an error that says what to do.
    """

    __slots__ = ()
    _becomes: type[Tensor] = Tensor  # the class that it has when its shape is known

    @property
    def _array(self) -> Any:
        raise UninitializedError(
            message(
                type(self).__name__,
                "values",
                "none yet, since a lazy layer has not seen an input",
                fix="Call the network once, on a batch or on zeros of its shape.",
            )
        )

    @_array.setter
    def _array(self, array: Any) -> None:
        _set_hidden(self, array)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> Any:
        return _hidden(self).dtype

    @property
    def device(self) -> Device:
        return device_of(_hidden(self))

    def __init__(
        self, requires_grad: bool = False, device: str | Device | None = None, dtype: Any = None
    ) -> None:
        array = zeros(0, dtype="float32" if dtype is None else as_dtype(dtype))._array
        array = move(array, CPU if device is None else Device.parse(device))
        flag = arguments.flag(type(self).__name__, "requires_grad", requires_grad)
        Variable.__init__(self, array, flag)

    @classmethod
    def _of(cls, *shape: int) -> Self:
        """One of which only some sizes are known; the others are 0."""
        tensor = cls()
        _set_hidden(tensor, zeros(*shape)._array)
        return tensor

    def detach(self) -> Tensor:
        """This tensor itself: there is no memory to share, and no history."""
        return self

    def _values(self) -> Any:
        """The array that nobody is shown."""
        return _hidden(self)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it may become a tensor of this shape: what is known of it must agree."""
        known = _hidden(self).shape
        return len(known) == len(shape) and all(n in (0, m) for n, m in zip(known, shape))

    def _convert(self, function: Callable[[Any], Any]) -> None:
        """Change dtype or device, by a function of arrays."""
        self._hold(function(_hidden(self)))

    def materialize(self, shape: tuple[int, ...]) -> None:
        """Become a plain tensor of this shape, the same object, filled with zeros.

        Raises:
            ArgumentError: no shape.
        """
        sizes = arguments.sizes(f"{type(self).__name__}.materialize", "shape", shape)
        like = _hidden(self)
        values = zeros(*sizes, dtype=like.dtype, device=self.device)
        self._version = Version()  # as that of a new tensor: nobody has written its values
        _set_hidden(self, values._array)
        self.__class__ = self._becomes  # type: ignore[assignment]

    def __getstate__(self) -> Any:
        with beside((_hidden(self),)):
            return _hidden(self).copy(), self._requires_grad, None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def _repr_html_(self) -> str:
        return markup.line(markup.code(f"<{type(self).__name__}>"))


_slot: Any = vars(Variable)["_array"]  # where a tensor keeps its array
_hidden: Callable[[Any], Any] = _slot.__get__
_set_hidden: Callable[[Any, Any], None] = _slot.__set__


class UninitializedParameter(Uninitialized, Parameter):
    """A parameter whose shape is not known yet; a lazy layer's, until its first input.

    It can be moved, converted, copied, frozen, and given to an optimiser: it stays the same object
    when the shape is known, and becomes a :class:`Parameter`.

    Raises:
        UninitializedError: (a ``ValueError`` and a ``RuntimeError``) whoever asks for its shape or
            values.
    """

    __slots__ = ()
    _becomes = Parameter

    def __init__(
        self, requires_grad: bool = True, device: str | Device | None = None, dtype: Any = None
    ) -> None:
        super().__init__(requires_grad, device, dtype)


class UninitializedBuffer(Uninitialized):
    """A buffer whose shape is not known yet, such as a lazy batch norm's ``running_mean``."""

    __slots__ = ()

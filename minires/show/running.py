"""Running a network while its layers are watched, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, ShapeError, message, quoted, unknown
from minires.nn import Module
from minires.nn.trace import unchanged
from minires.show.given import Given
from minires.tensor import Tensor

Seen = Callable[[str, Module, Any], None]


def run(net: Module, x: Tensor, seen: Seen, evaluation: bool = True) -> Any:
    """``net(x)``; ``seen(name, module, output)`` is called after each call of a module, in the
    order of their ends. Afterwards hooks, modes, buffers and the random state are as before."""
    handles = []

    def watching(name: str) -> Callable[..., None]:
        def hook(module: Module, _args: Any, output: Any) -> None:
            seen(name, module, output)

        return hook

    with unchanged(net, evaluation):
        try:
            for name, module in net.named_modules():
                handles.append(module.register_forward_hook(watching(name)))
            return net(x)
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass.

    Attributes:
        output: what the network returned.
        calls: for each call of a module, in the order of their ends, its name and what it returned.
    """

    output: Any
    calls: list[tuple[str, Any]]

    def maps(self) -> list[tuple[str, Tensor]]:
        """The calls that returned feature maps: (1, c, h, w) with more than one place."""
        return [(name, out) for name, out in self.calls if is_maps(out)]


def is_maps(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:] != (1, 1)


def watched(what: Given) -> Pass:
    """A forward pass in evaluation mode, with what every module returned."""
    calls: list[tuple[str, Any]] = []
    output = run(what.net, what.x, lambda name, _, out: calls.append((name, out)))
    return Pass(output, calls)


def layer_name(op: str, net: Module, layer: Any) -> str:
    """The name of a layer, which may be given by its name or as the module itself.

    Raises:
        ArgumentError: no layer of this network; names the nearest.
    """
    known = dict(net.named_modules(remove_duplicate=False))
    if isinstance(layer, Module):
        for name, module in known.items():
            if module is layer:
                return name
        got = f"a {type(layer).__name__} that is not in it"
        raise ArgumentError(message(op, f"a layer of the {type(net).__name__}", got))
    if isinstance(layer, str) and layer in known:
        # one that has several names is seen under its first
        return next(name for name, module in known.items() if module is known[layer])
    if not isinstance(layer, str):
        raise ArgumentError(message(op, "the name of a layer, or the layer", quoted(layer)))
    raise unknown(f"layer of the {type(net).__name__}", layer, [name for name in known if name])


def maps_of(op: str, seen: Pass, layer: str) -> Tensor:
    """What a layer returned, if it is maps; of several calls the last.

    Raises:
        ArgumentError: the layer was not called.
        ShapeError: it returned something else.
    """
    outputs = [out for name, out in seen.calls if name == layer]
    shown = repr(layer) if layer else "the network itself"
    others = list(dict.fromkeys(name for name, _ in seen.maps() if name))
    fix = f"These have maps: {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}."
    if not outputs:
        uncalled = f"{shown}, which it does not call"
        raise ArgumentError(message(op, "a layer that the forward pass calls", uncalled, fix=fix))
    last = outputs[-1]
    if not isinstance(last, Tensor) or last.ndim != 4:
        got: object = last.shape if isinstance(last, Tensor) else type(last).__name__
        expected = f"maps (n, c, h, w) from {shown}"
        raise ShapeError(message(op, expected, got, fix=fix if others else ""))
    return last


def no_maps(op: str, net: Module) -> ArgumentError:
    got = f"{type(net).__name__}, none of whose layers gives any"
    fix = "saliency and activations need none."
    return ArgumentError(message(op, "a network with feature maps (n, c, h, w)", got, fix=fix))


def target_of(op: str, output: Any, target: Any, classes: tuple[str, ...]) -> int:
    """Which class is asked about; by default the one with the highest score.

    Raises:
        ShapeError: the network does not return scores (1, classes).
        ArgumentError: no such class.
    """
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != 1:
        got = output.shape if isinstance(output, Tensor) else type(output).__name__
        raise ShapeError(message(op, "a network that returns scores (1, classes)", got))
    if target is None:
        return int(output.argmax(1).item())
    if isinstance(target, str):
        if not classes:
            fix = "A run (minires.train.load_run) knows the names of its classes."
            raise ArgumentError(message(op, "target the number of a class", repr(target), fix=fix))
        arguments.choice("class", target, classes)
        return classes.index(target)
    return arguments.integer(op, "target", target, 0, output.shape[1] - 1)

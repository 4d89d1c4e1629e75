"""An ONNX graph in the making: names, initializers, nodes, and what cannot be written down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from minires.autograd import show_place
from minires.device import CPU, move
from minires.errors import ExportError
from minires.nn.module import Module
from minires.nn.trace import Step, Trace, Value

OPSET = 18
IR_VERSION = 8  # of the same age as the opset, so that a runtime that knows one knows the other
BATCH = "batch"


def refuse(step: Step, why: str, fix: str = "") -> NoReturn:
    """Say that this operation cannot be exported: which it is, where it was applied, and why."""
    module = f" in module {step.module!r}" if step.module else ""
    text = f"export_onnx: {step.function.__name__}{module} at {show_place(step.place)} {why}."
    raise ExportError(f"{text} {fix}".rstrip())


class Graph:
    """Nodes and initializers, added step by step.

    Attributes:
        modules: those of the network, by their dotted paths.
        step, twin: the operation that is being written, in two passes over different batches:
            where its sizes differ, they follow the batch.
    """

    step: Step
    twin: Step

    def __init__(self, onnx: Any, net: Module, first: Trace, second: Trace) -> None:
        self.modules = dict(net.named_modules())
        self._onnx, self._first, self._second = onnx, first, second
        self._nodes: list[Any] = []
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._state = dict((*net.named_parameters(), *net.named_buffers()))
        self._taken = set(self._state)
        self.names: dict[Value, str] = {}
        several = len(first.inputs) > 1
        for i, value in enumerate(first.inputs):
            self.names[value] = self._unique(f"input_{i}" if several else "input")

    def _unique(self, wanted: str) -> str:
        """``wanted``, or with a number behind it where that name is taken."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    # ---------------------------------------------------------------- for the table of operations

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node, and return the name of what it computes.

        Args:
            kind: the name of the ONNX operator.
            inputs: names; values of the trace; arrays; numbers, which take the dtype of the
                operation's result; None for an optional input that is left out.
        """
        prefix = f"{self.step.module}/" if self.step.module else ""
        name = self._unique(prefix + kind)
        tensors = [self.tensor(x) for x in inputs]
        self._nodes.append(
            self._onnx.helper.make_node(kind, tensors, [name], name=name, **attributes)
        )
        return name

    def tensor(self, x: Any) -> str:
        """The name of an input of a node; see :meth:`add`."""
        if x is None:
            return ""
        if isinstance(x, str):
            return x
        if isinstance(x, Value):
            if x not in self.names:  # a parameter, a buffer or a constant
                self.names[x] = self.state(x.name) if x.name else self.constant(x.array)
            return self.names[x]
        if not hasattr(x, "dtype"):
            x = np.asarray(x, self.step.outputs[0].dtype)
        return self.constant(x)

    def state(self, name: str) -> str:
        """The initializer for a parameter or buffer, named as in the state dict."""
        self._arrays[name] = move(self._state[name]._array, CPU)
        return name

    def constant(self, array: Any) -> str:
        """An initializer of these values; equal ones are one."""
        array = np.asarray(move(array, CPU))
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._unique("constant")
            self._arrays[self._known[key]] = array
        return self._known[key]

    def integers(self, values: Iterable[int]) -> str:
        """An initializer of int64, as shapes, axes and bounds are given to ONNX operators."""
        return self.constant(np.array([*values], dtype=np.int64))

    def element_type(self, dtype: Any) -> int:
        """ONNX's number for a dtype."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # ---------------------------------------------------------------- the result

    @property
    def nbytes(self) -> int:
        """The memory of all initializers."""
        return sum(array.nbytes for array in self._arrays.values())

    def model(self) -> Any:
        """The whole as an ``onnx.ModelProto``, without what no output depends on."""
        from minires.version import __version__

        helper, outputs = self._onnx.helper, self._name_outputs()
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                nodes.append(node)
        make = self._onnx.numpy_helper.from_array
        arrays = [
            make(np.asarray(array, order="C"), name)
            for name, array in self._arrays.items()
            if name in needed
        ]
        graph = helper.make_graph(
            nodes[::-1],
            type(self.modules[""]).__name__,
            [
                self._info(self.names[one], one, two)
                for one, two in zip(self._first.inputs, self._second.inputs)
            ],
            [
                self._info(name, one, two)
                for name, one, two in zip(outputs, self._first.outputs, self._second.outputs)
            ],
            arrays,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="minires",
            producer_version=__version__,
        )

    def _name_outputs(self) -> list[str]:
        """Rename what the network returns to ``output``, or ``output_0`` and so on."""
        several, renamed, made = len(self._first.outputs) > 1, {}, []
        produced = {name for node in self._nodes for name in node.output}
        for i, value in enumerate(self._first.outputs):
            name = self._unique(f"output_{i}" if several else "output")
            old = self.tensor(value)
            if old in produced and old not in renamed:
                renamed[old] = name
            else:  # an input handed through, or one tensor returned twice
                node = self._onnx.helper.make_node("Identity", [old], [name], name=name)
                self._nodes.append(node)
            made.append(name)
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        return made

    def _info(self, name: str, one: Value, two: Value) -> Any:
        """The type of an input or output; what differs between the passes is left open."""
        batches = self._first.inputs[0].shape[0], self._second.inputs[0].shape[0]
        shape = [
            m if m == n else BATCH if (m, n) == batches else f"{name}_{axis}"
            for axis, (m, n) in enumerate(zip(one.shape, two.shape))
        ]
        return self._onnx.helper.make_tensor_value_info(name, self.element_type(one.dtype), shape)

"""A network that several processes train together, each on its part of the batch.

All ranks have the same parameters. Each computes the gradients of its own part's mean loss; what
the optimiser needs is the gradient of the mean over the whole batch, which is the mean of those
over the ranks if the parts are equally large. So the gradients are averaged at the end of each
backward pass, and all ranks take the same step.

The parts of a batch that does not divide are not equally large: 37 samples are 19 and 18. Then the
mean over ranks would weigh the samples of the smaller part more. So the sizes are counted in each
forward pass, and the gradient that comes back to the network's output is multiplied by
``n * ranks / total``: now the mean over the ranks has the right weights. What is added to the loss
beside the network, as a penalty on its weights, is the same on all ranks, and stays as it is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import Function, HookHandle, current, is_grad_enabled
from minires.device import CPU, Device
from minires.distributed.group import Group, current_group
from minires.distributed.reducer import Reducer
from minires.distributed.same import broadcast_state, check_same_model
from minires.errors import ArgumentError, CaptureError, DistributedError, message, quoted
from minires.nn import module as modules
from minires.nn.module import Module
from minires.nn.parameter import Uninitialized
from minires.tensor import Tensor

OP = "DistributedDataParallel"


class DistributedDataParallel(Module):
    """A network whose gradients are averaged over all ranks in each backward pass::

        net = DistributedDataParallel(net)       # all ranks have the values of rank 0 now
        loader = DataLoader(data, batch_size=128, shard=distributed)
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()  # .grad is the mean over the ranks
            optimizer.step()

    The loss is the mean over the samples of a rank. All ranks then step as one process would with
    the whole batch, however unevenly it was cut; batch norms too if
    :class:`~minires.nn.SyncBatchNorm` has taken their place. In a process on its own this is the
    network, no more.

    Args:
        module: the network. Names, shapes and dtypes must be the same on all ranks.
        device_ids: None, or a list of the one device that the network is on; tensors given to the
            network are then moved there.
        output_device: None or that device.
        dim: the dimension of inputs that counts samples.
        broadcast_buffers: give all ranks the buffers of rank 0 before each training step: running
            statistics are those of its samples. If False each rank keeps its own.
        process_group: None; there is one group, of all ranks.
        bucket_cap_mb: megabytes (2^20 bytes) of gradients that are sent at once; None means 8.
        find_unused_parameters, gradient_as_bucket_view, static_graph: taken so that PyTorch code
            runs; they change nothing. Parameters without a gradient are no error, and their
            gradient is None only if it is None on all ranks.

    Attributes:
        module: the network itself. In ``state_dict()`` its names begin with "module.", as in
            PyTorch; save ``net.module.state_dict()`` for use without the wrapper.

    Raises:
        ArgumentError: no module, one without parameters that require grad, one that is wrapped
            already or has parameters without a shape; a device that is not its own. At the call: a
            parameter requires grad that was frozen or not there when the network was wrapped.
        DistributedError: another network on some rank. At the call: some rank has no sample.
        CaptureError: the call is inside :func:`minires.capture`.

    It is ``backward()`` that averages; ``autograd.grad`` returns this rank's term of the mean. In
    evaluation mode, and under ``no_grad()``, ranks do not talk to each other. In training they
    all call the network, equally often. The design is that of Li et al. (2020), arXiv:2006.15704.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[int | str | Device] | None = None,
        output_device: int | str | Device | None = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        process_group: None = None,
        bucket_cap_mb: float | None = 8.0,
        find_unused_parameters: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
    ) -> None:
        super().__init__()
        self._check_module(module)
        self.module = module
        self.dim = arguments.integer(OP, "dim", dim, 0)
        self.broadcast_buffers = arguments.flag(OP, "broadcast_buffers", broadcast_buffers)
        arguments.flag(OP, "find_unused_parameters", find_unused_parameters)
        arguments.flag(OP, "gradient_as_bucket_view", gradient_as_bucket_view)
        arguments.flag(OP, "static_graph", static_graph)
        if process_group is not None:
            expected = "process_group=None, the group of all ranks"
            raise ArgumentError(message(OP, expected, quoted(process_group)))
        self.device = self._check_device(device_ids, output_device)
        self.bucket_cap_mb = 8.0 if bucket_cap_mb is None else bucket_cap_mb
        self._means = _Means(module, self.bucket_cap_mb)
        if current_group().size > 1:
            check_same_model([*module.named_parameters(), *module.named_buffers()])
            broadcast_state([*module.parameters(), *module.buffers()])

    def _check_module(self, module: Any) -> None:
        if not isinstance(module, Module):
            raise ArgumentError(message(OP, "a module", type(module).__name__))
        if any(isinstance(part, DistributedDataParallel) for part in module.modules()):
            fix = "Wrap the network once."
            raise ArgumentError(
                message(OP, "a network that is not wrapped", "one that is", fix=fix)
            )
        for name, p in [*module.named_parameters(), *module.named_buffers()]:
            if isinstance(p, Uninitialized):
                fix = "Call the network once, on a batch or on zeros of its shape, before."
                raise ArgumentError(
                    message(OP, "parameters with a shape", f"{name}, lazy", fix=fix)
                )
        if not any(p.requires_grad for p in module.parameters()):
            got, fix = f"{type(module).__name__} without", "Use it as it is: there is no gradient."
            raise ArgumentError(message(OP, "parameters that require grad", got, fix=fix))

    def _check_device(self, device_ids: Any, output_device: Any) -> Device | None:
        """The device that inputs are to be moved to, if there is one."""
        if device_ids is None and output_device is None:
            return None
        own = next(self.module.parameters()).device
        given = [] if device_ids is None else [*arguments.iterator(OP, "device_ids", device_ids)]
        given += [] if output_device is None else [output_device]
        for name in given:
            if Device.gpu(name) != own:
                fix = "Each rank has one device: module.to(device) first."
                got = quoted(str(Device.gpu(name)))
                raise ArgumentError(message(OP, f"the device of the network, {own}", got, fix=fix))
        return own

    # -- the passes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.device is not None:
            device = self.device
            args, kwargs = _mapped((args, kwargs), lambda t: t.to(device))
        group = current_group()
        if group.size == 1 or not self.training or not is_grad_enabled():
            return self.module(*args, **kwargs)
        if current().recording:
            expected, got = "to be called outside of a captured function", "a call inside"
            fix = "fit(network, ..., capture=True) captures what does not need the other ranks."
            raise CaptureError(message(OP, expected, got, fix=fix))
        means = self._means
        means.check_parameters()
        if means.wanted:
            means.listen()
            if self.broadcast_buffers:
                broadcast_state(self.module.buffers())
        factor = self._factor(group, (args, kwargs))
        out = self.module(*args, **kwargs)
        token = means.token if means.wanted else None
        return _mapped(
            out, lambda t: Averaged.apply(t, token, means, factor) if t.requires_grad else t
        )

    def _factor(self, group: Group, inputs: Any) -> float:
        """By how much the gradient of the mean over this rank's samples is too small, compared with
        its weight in the mean over ranks."""
        sizes: list[int] = []
        _mapped(inputs, lambda t: sizes.append(t.shape[self.dim]) if t.ndim > self.dim else None)
        own = sizes[0] if sizes else 1
        counts = group.gather(np.array(own, np.int64))
        if not counts.all():
            expected = f"a sample for each of {group.size} ranks"
            got = f"none on rank {int(counts.argmin())}"
            fix = "Pass drop_last=True to the loader, or larger batches."
            raise DistributedError(message(OP, expected, got, fix=fix))
        return own * group.size / int(counts.sum())

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, backward passes add to this rank's own gradients; the pass of the first forward
        after it averages all that was added up. For steps of several batches::

            with net.no_sync():
                loss(net(x1), y1).backward()
            loss(net(x2), y2).backward()  # .grad: the mean over ranks of both batches' sum
        """
        before, self._means.wanted = self._means.wanted, False
        try:
            yield
        finally:
            self._means.wanted = before

    # -- copies

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_means"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._means = _Means(self.module, self.bucket_cap_mb)  # hooks on the copy's parameters


class _Means:
    """Sees to it that the gradients of a network become their means over ranks at the end of each
    backward pass that comes through its output.

    Attributes:
        wanted: whether the passes of coming forward passes are to do so.
        token: a leaf on the way of such passes: its gradient says that one came through.
    """

    def __init__(self, module: Module, bucket_cap_mb: float) -> None:
        self.wanted = True
        self._module = module
        self._changes: Any = None
        self._names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
        known = [p for p in module.parameters() if p.requires_grad]
        self._parameters = [*module.parameters()]
        self._reducer = Reducer(known, bucket_cap_mb)
        self.token = Tensor(np.zeros(()), requires_grad=True)
        self.token.register_final_hook(lambda gradient: self._finish)
        self._passing = False  # whether a pass goes on that came through the output
        self._hooks: list[HookHandle] = []  # of parameters on GPUs, from forward to the pass's end

    def listen(self) -> None:
        """A forward pass begins whose backward pass is to average: on GPUs, while it goes on."""
        self._passing = False
        if not self._hooks:
            on_gpu = [p for p in self._reducer.parameters if p.device != CPU and p.requires_grad]
            ready = [functools.partial(self._ready, p) for p in on_gpu]
            self._hooks = [p.register_final_hook(hook) for p, hook in zip(on_gpu, ready)]

    def begin(self) -> None:
        """A backward pass has come to the network's output, and goes on."""
        if not self._passing:
            self._reducer.begin()
            self._passing = True

    def _ready(self, p: Tensor, gradient: Tensor) -> None:
        if self._passing:
            self._reducer.ready(p, gradient)

    def _finish(self) -> None:
        self.token.grad, self._passing = None, False
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._reducer.reduce(average=True)

    def check_parameters(self) -> None:
        """Refuse parameters whose gradients nobody would average."""
        if self._changes != modules.changes:
            self._parameters = [*self._module.parameters()]
            self._changes = modules.changes
        for p in self._parameters:
            if p._requires_grad and id(p) not in self._names:
                names = {id(q): name for name, q in self._module.named_parameters()}
                expected = "the parameters that required grad when the network was wrapped"
                fix = "Wrap it again after such changes: DistributedDataParallel(net.module)."
                raise ArgumentError(message(OP, expected, f"{names[id(p)]} too", fix=fix))


class Averaged(Function):
    """The identity, of an output of a network; its gradient is multiplied by ``factor``."""

    @staticmethod
    def forward(ctx: Any, x: Any, token: Any, means: _Means, factor: float) -> Any:
        ctx.means, ctx.factor = means, factor
        return x.copy(order="K")

    @staticmethod
    def backward(ctx: Any, gy: Any) -> Any:
        gx = gy if ctx.factor == 1 else gy * ctx.factor
        if not ctx.needs_grad[1]:
            return gx, None, None, None
        ctx.means.begin()
        return gx, Tensor(np.zeros(())), None, None


def _mapped(value: Any, visit: Callable[[Tensor], Any]) -> Any:
    """The structure of ``value`` with ``visit(tensor)`` in place of each tensor in it."""
    if isinstance(value, Tensor):
        return visit(value)
    if isinstance(value, dict):
        return {key: _mapped(entry, visit) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        parts = [_mapped(entry, visit) for entry in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value

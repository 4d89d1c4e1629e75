"""Batch norm over the batches of all processes that train together."""

from __future__ import annotations

from typing import Any, Self

from minires.distributed.group import current_group
from minires.errors import ArgumentError, DTypeError, message
from minires.nn.batch_norm import _BatchNorm
from minires.nn.module import Module
from minires.ops.batch_norm.sync import Meeting, sync_batch_norm
from minires.tensor import Tensor


class SyncBatchNorm(_BatchNorm):
    """:class:`BatchNorm2d` with the statistics of the batches of all ranks, in training.

    Each rank has ``x (n, c)``, ``(n, c, l)``, ``(n, c, h, w)`` or ``(n, c, d, h, w)``, with an n of
    its own, and mean and variance are those that one process would find in all of them together,
    in the formulas of :class:`BatchNorm2d` and in its gradient. The running statistics have the
    same bits on all ranks. In evaluation, and in a process on its own, this is batch norm as it
    is, to the bit.

    All ranks run the same layers in the same order. Each rank's loss is scaled by its share of the
    samples before ``backward()``, and gradients of parameters are summed over the ranks
    afterwards: ``fit`` and :class:`minires.distributed.DistributedDataParallel` see to both.

    Args:
        num_features, eps, momentum, affine, track_running_stats: see :class:`BatchNorm2d`.
        process_group: None; there is one group, of all ranks.

    Raises:
        ArgumentError: as for :class:`BatchNorm2d`; a ``process_group``.
        ShapeError: at the call: another number of dimensions, or not ``num_features`` channels; a
            rank without samples.
        CaptureError: at the call: in :func:`minires.capture`, in a group of several.
        GraphError: in a backward pass with ``create_graph=True``, in a group of several.
        DistributedError: at the call: another rank is in another layer, or has ended.
    """

    _shapes = ("(n, {c})", "(n, {c}, l)", "(n, {c}, h, w)", "(n, {c}, d, h, w)")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        _no_group("SyncBatchNorm", process_group)
        self.process_group = process_group
        self._meeting = Meeting()

    def _normalised(
        self, x: Tensor, use_batch: bool, momentum: float, count: Tensor | None
    ) -> Tensor:
        group = current_group() if self.training else None
        if group is None or group.size == 1:
            return super()._normalised(x, use_batch, momentum, count)
        return sync_batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            momentum=momentum,
            eps=self.eps,
            num_batches_tracked=count,
            group=group,
            meeting=self._meeting,
        )

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: None = None) -> Module:
        """The module with a :class:`SyncBatchNorm` in the place of each batch norm in it.

        They have the same parameters and buffers, the very objects, under the same names, and the
        same mode and hooks; so an optimiser may have been made before. A module is changed in
        place; only if it is a batch norm itself, another one is returned.

        Args:
            module: any module; a :class:`BatchNorm1d` or :class:`BatchNorm2d`, too.
            process_group: None; there is one group, of all ranks.

        Raises:
            ArgumentError: a ``process_group``; a lazy batch norm that has not seen an input; a
                batch norm with a ``forward`` of its own. Then nothing has changed.
            DTypeError: no module.

        >>> import minires as mr
        >>> net = mr.nn.Sequential(mr.nn.Conv2d(3, 8, 3), mr.nn.BatchNorm2d(8))
        >>> mr.nn.SyncBatchNorm.convert_sync_batchnorm(net)[1]
        SyncBatchNorm(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
        """
        name = "convert_sync_batchnorm"
        if not isinstance(module, Module):
            raise DTypeError(message(name, "a Module", type(module).__name__))
        _no_group(name, process_group)
        found = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for norm in found:
            _check(norm)
        twins = {id(norm): cls._of(norm) for norm in found if not isinstance(norm, SyncBatchNorm)}
        for parent in [*module.modules()]:
            for key, child in parent._modules.items():
                if id(child) in twins:
                    setattr(parent, key, twins[id(child)])
        return twins.get(id(module), module)

    @classmethod
    def _of(cls, norm: _BatchNorm) -> Self:
        """A layer with all that a batch norm has."""
        twin = cls.__new__(cls)
        twin.__dict__.update(norm.__dict__, process_group=None, _meeting=Meeting())
        return twin


def _no_group(name: str, process_group: Any) -> None:
    if process_group is not None:
        fix = "Leave it out: there is one group, of all ranks."
        got = type(process_group).__name__
        raise ArgumentError(message(name, "process_group=None", got, fix=fix))


def _check(norm: _BatchNorm) -> None:
    """Refuse a batch norm that cannot be converted."""
    kind = type(norm)
    if not norm.num_features:
        fix = "Call the network once, on a batch or on zeros of its shape, and convert it then."
        expected, got = "batch norms that know their channels", f"a {kind.__name__} that does not"
        raise ArgumentError(message("convert_sync_batchnorm", expected, got, fix=fix))
    if kind.forward is not _BatchNorm.forward:
        fix = "Derive it from nn.SyncBatchNorm instead."
        expected, got = "batch norms as they are", f"{kind.__name__}, with a forward of its own"
        raise ArgumentError(message("convert_sync_batchnorm", expected, got, fix=fix))

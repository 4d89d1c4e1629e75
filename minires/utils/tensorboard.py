"""``SummaryWriter``: files that TensorBoard shows, by PyTorch's names.

The package tensorboardX writes them (extra ``tensorboard``); it needs neither PyTorch nor
TensorFlow. ``pip install tensorboard`` and ``tensorboard --logdir runs`` show them.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from minires.arguments import as_integer
from minires.device import CPU, move
from minires.errors import ArgumentError, ExportError, message, quoted
from minires.files import as_path
from minires.interop import export_onnx
from minires.tensor import Tensor

__all__ = ["SummaryWriter"]


def tensorboardx(op: str) -> Any:
    """The package tensorboardX.

    Raises:
        ExportError: it is missing.
    """
    try:
        import tensorboardX
    except ImportError as error:
        fix = "Install it: pip install 'minires[tensorboard]'."
        got = f"none here: {error}"
        raise ExportError(message(op, "the package tensorboardX", got, fix=fix)) from error
    return tensorboardX


class SummaryWriter:
    """Writes scalars, histograms, pictures, text and graphs into a folder that TensorBoard reads.

    Names and arguments are those of ``torch.utils.tensorboard.SummaryWriter``; ``global_step`` is
    the place on the x axis. Tensors may be on any device, and arrays are taken in their place::

        with SummaryWriter("runs/first") as writer:
            writer.add_scalar("loss/train", loss, global_step=1)

    Args:
        log_dir: the folder, which is made if need be; None is a new one in ``runs``.
        comment: how the name of a folder that was not given ends.
        purge_step: hide what an earlier run wrote here at this step and beyond.
        max_queue, flush_secs: how many events may wait for the disk, and how long.
        filename_suffix: how the name of the file ends.

    Raises:
        ExportError: tensorboardX is missing; or it cannot write what a method is given.
        ArgumentError: no path, a tag that is no text, a step that is no integer.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
    ) -> None:
        op = "SummaryWriter"
        self._writer = _explained(
            op,
            tensorboardx(op).SummaryWriter,
            None if log_dir is None else str(as_path(op, log_dir)),
            comment=comment,
            purge_step=_step(op, "purge_step", purge_step),
            max_queue=max_queue,
            flush_secs=flush_secs,
            filename_suffix=filename_suffix,
        )
        self.log_dir: str = self._writer.logdir
        # a thread of tensorboardX writes: at the end of the process, or of this object, it must
        # have done so
        self._close = weakref.finalize(self, self._writer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get_logdir(self) -> str:
        """The folder."""
        return self.log_dir

    def _add(self, what: str, tag: Any, *values: Any, global_step: Any, **options: Any) -> None:
        """Call ``add_<what>`` of tensorboardX with arrays in place of tensors."""
        op = f"SummaryWriter.add_{what}"
        if not isinstance(tag, str) or not tag:
            raise ArgumentError(message(op, "a tag (text)", quoted(tag)))
        method = getattr(self._writer, f"add_{what}")
        options["global_step"] = _step(op, "global_step", global_step)
        _explained(op, method, tag, *map(_plain, values), **options)

    def add_scalar(
        self, tag: str, scalar_value: Any, global_step: int | None = None, walltime: Any = None
    ) -> None:
        """One number: a Python one, or a tensor of one element."""
        value = _number("SummaryWriter.add_scalar", scalar_value)
        self._add("scalar", tag, value, global_step=global_step, walltime=walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: int | None = None,
        walltime: Any = None,
    ) -> None:
        """Several numbers in one chart; each has a folder of its own below this writer's."""
        op = "SummaryWriter.add_scalars"
        if not isinstance(tag_scalar_dict, Mapping):
            raise ArgumentError(message(op, "a dict {name: number}", quoted(tag_scalar_dict)))
        numbers = {str(name): _number(op, value) for name, value in tag_scalar_dict.items()}
        self._add("scalars", main_tag, numbers, global_step=global_step, walltime=walltime)

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: int | None = None,
        bins: str = "tensorflow",
        walltime: Any = None,
        max_bins: int | None = None,
    ) -> None:
        """How the entries of a tensor of any shape are distributed."""
        options = {"walltime": walltime, "bins": bins, "max_bins": max_bins}
        self._add("histogram", tag, values, global_step=global_step, **options)

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: Any = None,
        dataformats: str = "CHW",
    ) -> None:
        """A picture (1 or 3, h, w): floats in 0..1 or bytes. ``"HWC"`` and ``"HW"`` are others."""
        options = {"walltime": walltime, "dataformats": dataformats}
        self._add("image", tag, img_tensor, global_step=global_step, **options)

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: Any = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Pictures (n, 1 or 3, h, w) side by side; see :meth:`add_image`."""
        options = {"walltime": walltime, "dataformats": dataformats}
        self._add("images", tag, img_tensor, global_step=global_step, **options)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: int | None = None,
        close: bool = True,
        walltime: Any = None,
    ) -> None:
        """A Matplotlib figure, or a list of them, as a picture. ``close``: pyplot forgets it."""
        options = {"walltime": walltime, "close": close}
        self._add("figure", tag, figure, global_step=global_step, **options)

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: Any = None
    ) -> None:
        """Text, in Markdown."""
        self._add("text", tag, text_string, global_step=global_step, walltime=walltime)

    def add_pr_curve(
        self,
        tag: str,
        labels: Any,
        predictions: Any,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: Any = None,
    ) -> None:
        """Precision against recall, of labels (n,) in {0, 1} and predictions (n,) in 0..1."""
        options = {"walltime": walltime, "num_thresholds": num_thresholds}
        options["weights"] = _plain(weights)
        self._add("pr_curve", tag, labels, predictions, global_step=global_step, **options)

    def add_graph(self, model: Any, input_to_model: Any = None) -> None:
        """The operations that a network applies to an input, as a graph.

        They go through :func:`minires.interop.export_onnx`, whose limits and extra (``onnx``) they
        share.

        Args:
            model: a module.
            input_to_model: a tensor, or a list of them.

        Raises:
            ArgumentError: no input.
            ExportError: see :func:`minires.interop.export_onnx`.
        """
        op = "SummaryWriter.add_graph"
        if input_to_model is None:
            fix = "Pass a batch: add_graph(net, x)."
            raise ArgumentError(message(op, "an input for the network", None, fix=fix))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            export_onnx(model, input_to_model, path)
            _explained(op, self._writer.add_onnx_graph, str(path))

    def flush(self) -> None:
        """Let what waits go to the disk soon, for a TensorBoard that looks on."""
        self._writer.flush()

    def close(self) -> None:
        """Write what waits, and close the file. What is added later begins another."""
        self._writer.close()


def _plain(value: Any) -> Any:
    """A tensor as an array on the host; anything else as it is."""
    return move(value.detach().data, CPU) if isinstance(value, Tensor) else value


def _number(op: str, value: Any) -> float:
    """One number, of a tensor of one element too."""
    plain = np.asarray(_plain(value))
    if plain.dtype.kind not in "biuf" or plain.size != 1:
        raise ArgumentError(message(op, "one number", quoted(value)))
    return float(plain.reshape(()))


def _step(op: str, name: str, value: Any) -> int | None:
    whole = as_integer(value)
    if value is not None and whole is None:
        raise ArgumentError(message(op, f"{name} an integer or None", quoted(value)))
    return whole


def _explained(op: str, function: Any, *args: Any, **options: Any) -> Any:
    """Call tensorboardX, whose errors say little of where they come from."""
    try:
        return function(*args, **options)
    except Exception as error:
        expected = "what tensorboardX can write"
        raise ExportError(message(op, expected, f"{type(error).__name__}: {error}")) from error

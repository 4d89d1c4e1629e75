"""Which kernels and which operations were run."""

from __future__ import annotations

import pytest

from minires.kernels.numba.kernel import Kernel
from minires.ops.batch_norm.op import BatchNorm, BatchNormGradients
from minires.ops.elementwise import Add
from minires.ops.relu.op import ReLU, ReLUInput


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that were launched, as module.function; operations that run by
    themselves, not deferred, are among them."""
    found = []
    launch = Kernel.__call__

    def spy(kernel, *args, **options):
        _, room, *_, folder, file = kernel.function.__module__.split(".")
        name = folder if room == "ops" else file  # minires.ops.relu.kernel_numba is relu
        found.append(f"{name}.{kernel.function.__name__.strip('_')}")
        return launch(kernel, *args, **options)

    monkeypatch.setattr(Kernel, "__call__", spy)
    for function in (Add, ReLU, ReLUInput, BatchNorm, BatchNormGradients):

        def forward(*args, _function=function, _forward=function.forward, **options):
            found.append(f"alone.{_function.__name__}")
            return _forward(*args, **options)

        monkeypatch.setattr(function, "forward", staticmethod(forward))
    return found

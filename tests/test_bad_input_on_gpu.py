"""What the CPU refuses is refused on a GPU with the same text; what it takes comes out the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gpu import CUDA, gpu

import minires as mr
from minires import nn, optim
from minires.errors import DeviceError, MiniresError
from minires.nn import functional as F


def _images(device, *shape, dtype="float32"):
    shape = shape or (2, 4, 6, 6)
    return mr.tensor(np.linspace(-1, 1, int(np.prod(shape))).reshape(shape), dtype, device=device)


def _labels(device, *values):
    return mr.tensor(list(values), dtype="int64", device=device)


def _step_with_another_state(device):
    p = mr.zeros(3, device=device, requires_grad=True)
    optimizer = optim.SGD([p], 0.1, momentum=0.9)
    p.sum().backward()
    optimizer.step()
    optimizer.state[p]["momentum_buffer"] = mr.zeros(2, device=device)._array
    p.grad = mr.zeros(3, device=device)
    optimizer.step()


REFUSED = {
    "channels": lambda d: mr.conv2d(_images(d), _images(d, 3, 5, 3, 3)),
    "groups": lambda d: mr.conv2d(_images(d), _images(d, 3, 2, 3, 3), groups=2),
    "kernel": lambda d: mr.conv2d(_images(d), _images(d, 3, 4, 9, 9)),
    "stride": lambda d: mr.conv2d(_images(d), _images(d, 3, 4, 3, 3), stride=0),
    "dtypes": lambda d: mr.conv2d(_images(d), _images(d, 3, 4, 3, 3, dtype="float64")),
    "bias": lambda d: mr.conv2d(_images(d), _images(d, 3, 4, 3, 3), _images(d, 4)),
    "integers": lambda d: mr.conv2d(_images(d, dtype="int64"), _images(d, 3, 4, 3, 3)),
    "not images": lambda d: mr.conv2d(_images(d, 6, 6), _images(d, 3, 4, 3, 3)),
    "one value": lambda d: nn.BatchNorm2d(3).to(d)(_images(d, 1, 3, 1, 1)),
    "other channels": lambda d: nn.BatchNorm2d(3).to(d)(_images(d)),
    "pooled away": lambda d: mr.max_pool2d(_images(d), 8),
    "padded too far": lambda d: mr.max_pool2d(_images(d), 2, padding=2),
    "pool of integers": lambda d: mr.max_pool2d(_images(d, dtype="int64"), 2),
    "average of nothing": lambda d: mr.avg_pool2d(_images(d), 0),
    "label too large": lambda d: F.cross_entropy(_images(d, 2, 3), _labels(d, 0, 3)),
    "label below 0": lambda d: F.cross_entropy(_images(d, 2, 3), _labels(d, -1, 2)),
    "labels too few": lambda d: F.cross_entropy(_images(d, 2, 3), _labels(d, 1)),
    "no labels left": lambda d: F.cross_entropy(_images(d, 2, 3), _labels(d, 1, 1), ignore_index=1),
    "smoothing": lambda d: F.cross_entropy(_images(d, 2, 3), _labels(d, 0, 1), label_smoothing=1.5),
    "no broadcast": lambda d: _images(d, 2, 3) + _images(d, 3, 2),
    "matrices": lambda d: _images(d, 2, 3) @ _images(d, 2, 3),
    "float of int": lambda d: _images(d, 3, dtype="int64") + 0.5,
    "index": lambda d: _images(d, 3)[5],
    "indices": lambda d: _images(d, 3)[_labels(d, 0, 7)],
    "dimension": lambda d: _images(d, 2, 3).sum(2),
    "reshape": lambda d: _images(d, 2, 3).reshape(4, 2),
    "dropout": lambda d: F.dropout(_images(d, 3), 1.5),
    "backward of many": lambda d: (_images(d, 3).requires_grad_() * 2).backward(),
    "backward of none": lambda d: _images(d, 3).sum().backward(),
    "freed graph": lambda d: [
        y.backward() for y in [_images(d, 3).requires_grad_().exp().sum()] * 2
    ],
    "state of another shape": _step_with_another_state,
    "item of many": lambda d: _images(d, 3).item(),
    "truth of many": lambda d: bool(_images(d, 3) > 0),
}


def text(call, device):
    with pytest.raises(MiniresError) as caught:
        call(device)
    return type(caught.value), str(caught.value).replace("cuda:0", "cpu")


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, device):
    expected = text(REFUSED[case], "cpu")
    with gpu():
        assert text(REFUSED[case], device) == expected


TAKEN = {
    "strided": lambda d: mr.conv2d(
        _images(d, 2, 6, 6, 4).permute(0, 3, 1, 2)[:, :, ::2], _images(d, 3, 4, 3, 3)
    ),
    "transposed": lambda d: _images(d, 4, 6).T[1:, ::2].relu(),
    "no images": lambda d: mr.conv2d(_images(d)[:0], _images(d, 3, 4, 3, 3)),
    "no images to pool": lambda d: mr.max_pool2d(_images(d)[:0], 2),
    "nothing": lambda d: mr.zeros(0, 3, device=d).relu().sum(0),
    "NaN in ReLU": lambda d: mr.tensor([np.nan, -1.0, np.inf, -np.inf], device=d).relu(),
    "NaN in max pool": lambda d: mr.max_pool2d(
        mr.where(_images(d, 1, 1, 4, 4) > 0.7, np.nan, _images(d, 1, 1, 4, 4)), 2
    ),
    "negative zero": lambda d: 1 / (_images(d, 3) * 0 * -1).relu().clamp(min=0.5),
    "one pixel": lambda d: mr.avg_pool2d(_images(d, 1, 2, 1, 1), 1),
}


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("case", TAKEN)
def test_what_is_odd_but_taken(case, device):
    expected = TAKEN[case]("cpu")
    with gpu():
        found = TAKEN[case](device)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.cpu().numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


MIXED = {
    "add": lambda x, y: x + y,
    "where": lambda x, y: mr.where(x > 0, x, y),
    "matmul": lambda x, y: x.reshape(4, -1) @ y.reshape(4, -1).T,
    "concatenate": lambda x, y: mr.concatenate([x, y]),
    "conv2d": lambda x, y: mr.conv2d(x, y),
    "batch_norm": lambda x, y: F.batch_norm(x, mr.zeros(4), mr.ones(4)),
    "cross_entropy": lambda x, y: F.cross_entropy(x.reshape(4, -1), y.reshape(4, -1)),
    "mse_loss": lambda x, y: F.mse_loss(x, y),
    "maximum": lambda x, y: mr.maximum(x, y),
    "assignment": lambda x, y: x.__setitem__(0, y[0]),
    "greater": lambda x, y: x > y,
    "layer": lambda x, y: nn.Conv2d(4, 2, 1)(x),
}


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("case", MIXED)
def test_tensors_of_two_devices(case, device):
    """Named are both devices, and the way out."""
    with gpu(), warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = _images(device), _images("cpu")
        for one, other in ((x, y), (y, x)) if case not in ("batch_norm", "layer") else ((x, y),):
            words = (
                rf"expected tensors on one device, got {one.device} and {other.device}\. Move one"
            )
            with pytest.raises(DeviceError, match=words):
                MIXED[case](one, other)

"""Every operation on the arrays of a GPU: values and derivatives of both orders
are those of the references on the CPU, and stay where the arguments are."""

from __future__ import annotations

import numpy as np
import pytest
from harness import host

import minires as mr
from minires import nn
from minires.device import Device
from minires.errors import DeviceError
from minires.nn import functional as F


def values(device):
    """x and y (3, 4), y positive; im (2, 4, 6, 6); w (4, 4, 3, 3); labels n (3,)."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal
    arrays = {
        "x": normal((3, 4)),
        "y": np.abs(normal((3, 4))) + 0.1,
        "im": normal((2, 4, 6, 6)),
        "w": normal((4, 4, 3, 3)),
    }
    given = {name: mr.tensor(a, device=device, requires_grad=True) for name, a in arrays.items()}
    return given | {"n": mr.tensor([0, 2, 1], device=device)}


# in terms of x, y, im, w and n
OPERATIONS = """
    x + y | x - y | x * y | x / y | -x | abs(x) | 1 - x | 2 / y | y ** x | y ** 2 | x ** 0
    2.0 ** x | x + y[0] | x * np.float32(2) | x * x.data + x.data | x.exp() | y.log() | y.sqrt()
    x.tanh() | x.sigmoid() | x.relu() | x.clip(-0.5, 0.5) | mr.erf(x) | mr.gelu(x)
    mr.gelu(x, approximate="tanh") | mr.silu(x) | mr.softplus(x) | mr.leaky_relu(x)
    mr.maximum(x, y) | mr.minimum(x, 0.5) | mr.where(x > y, x, 0) | mr.where(n[:, None] > 0, x, y)
    x > y | x <= 0.5 | x == y | x == x.data | x != 0 | n & 1 | ~(x > 0) | n // 2 | n % 2
    mr.sign(x) | x.detach() // 0.3 | x.detach() % y.detach() | mr.isnan(x) | mr.isfinite(x)
    x.sum() | x.sum(0) | x.sum((0, 1), True) | (x > 0).sum() | n.sum() | x.mean(1, True)
    x.var(0) | x.std() | x.amax() | x.amax(1) | x.amin(0) | x.max(1)[0] | x.max(1)[1]
    x.min(0)[0] | x.argmax() | x.argmin(1) | (x > 0).any() | (x > 0).all(1) | x.norm() | x.norm(1)
    x.norm(float("inf")) | x.topk(2)[0] | x.topk(2, largest=False)[1] | mr.logsumexp(x, 1)
    x.softmax(1) | x.log_softmax(1) | x.reshape(4, 3) | x.T | x.permute(1, 0) | x.flatten()
    x[None] | x.expand(2, 3, 4) | mr.cat([x, y]) | mr.stack([x, y], 1) | x.split(2, 1)[1]
    x.clone() | x.T.contiguous() | x.astype("float32").double() | x.int() | x[0] | x[:, 1:3]
    x[-1, -1] | x[n] | x[[0, 2]] | x[n, 1] | x[x > 0] | x[np.array([2, 0, 0])] | x[1, [0, 2]]
    x[mr.tensor([1, 1])] | F.pad(im, (1, 1, 2, 0)) | x @ y.T | mr.linear(x, y)
    mr.linear(x, y, y[0, :3]) | mr.conv2d(im, w, y.flatten()[:4], padding=1)
    mr.conv2d(im, w[:, :2], stride=2, groups=2) | F.conv_transpose2d(im, w, stride=2)
    mr.max_pool2d(im, 3, stride=2, padding=1) | mr.avg_pool2d(im, 2)
    F.avg_pool2d(im, 3, padding=1, count_include_pad=False) | F.adaptive_avg_pool2d(im, (2, 3))
    F.conv1d(im[:, :, 0], w[:, :, 0], y[0], padding=1) | F.max_pool1d(im[0], 3, 2, 1)
    F.avg_pool1d(im[0], 2)
    F.interpolate(im, scale_factor=2) | F.interpolate(im, (9, 4), mode="bilinear")
    F.interpolate(im, (3, 11), mode="bilinear", align_corners=True)
    F.interpolate(x[None], 12) | F.interpolate(x[None], 3, mode="linear")
    F.batch_norm(im, None, None, y[0], x[1], True)
    F.batch_norm(im, y[0].detach(), y[1].detach()) | F.layer_norm(x, (4,)) | F.group_norm(im, 2)
    F.one_hot(n, 4) | F.cross_entropy(x, n)
    F.cross_entropy(x, n, label_smoothing=0.1, reduction="none")
    F.cross_entropy(x, n, weight=y[0]) | F.cross_entropy(x, n, ignore_index=2)
    F.cross_entropy(x, y.softmax(1)) | F.nll_loss(x, n) | F.nll_loss(x, n, weight=y[0])
    F.mse_loss(x, y) | F.binary_cross_entropy_with_logits(x, y.sigmoid()) | mr.zeros_like(x)
    mr.ones_like(n) | mr.full_like(x, 3) | mr.randn_like(x) | mr.Tensor(x.data)
    mr.tensor(x.data, device=x.device) | nn.init.normal_(x.detach())
    mr.eye(3).double().to(x.device) @ x | nn.init.constant_(x.detach(), 2) | x.detach().fill_(2)
    x.detach().clip_(0) | x.detach().zero_()
"""
OPERATIONS = [line.strip() for row in OPERATIONS.split("\n") for line in row.split(" | ")]
OPERATIONS = [line for line in OPERATIONS if line]


def derivatives(operation, device):
    """The result, and the gradients of the sum of its squares, and of the sum of their squares."""
    mr.manual_seed(0)
    given = values(device)
    result = eval(operation, {"mr": mr, "np": np, "F": F, "nn": nn, **given})
    found = [result]
    leaves = [given[name] for name in ("x", "y", "im", "w")]
    for _ in range(2):
        total = sum((t * t).sum() for t in found)
        if total.requires_grad:
            options = {"create_graph": True, "allow_unused": True}
            found += [g for g in mr.grad(total, leaves, **options) if g is not None]
    assert {t.device for t in found} == {Device.parse(device)}
    return [host(t.detach()) for t in found]


@pytest.mark.filterwarnings("ignore:cross_entropy expects logits")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_results_are_those_of_the_references(operation, on_gpu):
    with mr.backend("numpy"):
        expected = derivatives(operation, "cpu")
    found = derivatives(operation, on_gpu)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_sums_and_products_keep_the_order_of_memory(on_gpu):
    """Activations are channels-last: what is added to them must not turn them around."""
    x = mr.from_nhwc(mr.tensor(values("cpu")["im"].detach().numpy(), device=on_gpu))
    assert not x.data.flags.c_contiguous
    for y in (x + x, x - x, x * x, x * 2, x + 1.5):
        assert y.data.strides == x.data.strides
    np.testing.assert_array_equal(host(x * x + x), host(x) * host(x) + host(x))


def test_conditions_of_the_cpu(on_gpu):
    x = mr.tensor([1.0, 2.0], device=on_gpu)
    assert mr.where(np.array([True, False]), x, -x).tolist() == [1, -2]
    assert mr.where([[True], [False]], x, 0.0).tolist() == [[1, 2], [0, 0]]
    assert mr.where(x > 1, 1.0, 0.0).tolist() == [0, 1]
    words = r"where: expected a condition on cuda:0, got cpu\. Use \.to\('cuda:0'\)\."
    with pytest.raises(DeviceError, match=words):
        mr.where(mr.tensor([True, False]), x, -x)

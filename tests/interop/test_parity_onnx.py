"""Exported networks, run by onnxruntime: the same numbers as here, for batches of any size."""

from __future__ import annotations

import math
import operator
import warnings

import numpy as np
import pytest
from harness import one_thread

import minires as mr
from minires import nn
from minires.interop.onnx_ops import EMITTERS
from minires.models import cifar_resnet, create, list_models
from minires.nn import functional as F
from minires.nn import init
from minires.nn.trace import trace
from minires.ops.elementwise import weigh

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread(mr):
        yield


def load(path):
    """A function of the file's inputs that returns its outputs, both by the file's own names."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    # the file as it is, not what the runtime would make of it
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs)))


def seen_before(net):
    """Give running statistics as after training, which is what an export is for."""
    rng = np.random.default_rng(1)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(mr.tensor(rng.normal(0, 0.2, buffer.shape).astype("f4")))
        elif name.endswith("running_var"):
            buffer.copy_(mr.tensor(rng.uniform(0.5, 1.5, buffer.shape).astype("f4")))
    return net


def disagreement(net, path, shape, batches=(1, 3)):
    """The largest difference relative to the largest output, exported at 2, run at ``batches``."""
    mr.export_onnx(net, mr.randn(2, *shape), path)
    net.eval()
    run, worst = load(path), 0.0
    for n in batches:
        x = mr.randn(n, *shape)
        with mr.no_grad():
            ours = net(x).numpy()
        (theirs,) = run(input=x.numpy()).values()
        assert theirs.shape == ours.shape
        assert theirs.dtype == ours.dtype
        assert np.abs(ours).max() > 0
        worst = max(worst, np.abs(ours - theirs).max() / np.abs(ours).max())
    return worst


# -- the zoo -----------------------------------------------------------------------------------


class Draws:
    """Draws that are quick to make, for networks of a hundred million parameters."""

    normals = np.resize(np.random.default_rng(2).standard_normal(10_007, "f4"), 9_500_000)
    uniforms = np.resize(np.random.default_rng(3).random(10_007, "f4"), 9_500_000)

    def standard_normal(self, shape, dtype="f4"):
        return self.normals[: np.prod(shape)].reshape(shape).astype(dtype, copy=False)

    def normal(self, mean, std, shape):
        return self.standard_normal(shape) * np.float32(std) + np.float32(mean)

    def uniform(self, low, high, shape):
        return self.uniforms[: np.prod(shape)].reshape(shape) * np.float32(high - low) + low


def shortened(net):
    """Two blocks of the first stages, one of the last: all kinds are there, at any depth."""
    for name, stage in net.named_children():
        if name.startswith("layer"):
            for later in [*stage._modules][1 if name == "layer4" else 2 :]:
                delattr(stage, later)
    return net


@pytest.mark.slow
def test_every_model_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(init.random, "generator", Draws)
    known, found = set(), {}
    for name in list_models():
        net = shortened(seen_before(create(name)))
        if repr(net) in known:
            continue  # shortened, the deep ones are like their smaller siblings
        known.add(repr(net))
        c, size, _ = net.image_shape
        size = {224: 33, 32: 16}.get(size, size)
        found[name] = disagreement(net, tmp_path / "net.onnx", (c, size, size), batches=(3,))
    assert len(found) >= 15
    assert {name: error for name, error in found.items() if not error < 1e-4} == {}


def test_a_model_of_full_depth(tmp_path):
    net = seen_before(create("cifar_resnet56"))
    assert disagreement(net, tmp_path / "net.onnx", (3, 8, 8)) < 1e-4


# -- one operation after another ---------------------------------------------------------------


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(mr.randn(3, 3))
        self.v = nn.Parameter(mr.rand(3, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def inplace(_, x):
    y = x * 2.0
    y += x
    y.relu_()
    z = y.detach()
    return z * y


CASES = {
    "conv": nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=3),
    "conv without bias": nn.Conv2d(3, 4, 1, bias=False),
    "transposed conv": nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed conv in groups": nn.ConvTranspose2d(3, 6, (2, 3), groups=3, dilation=2),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool ceil": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "max pool dilated": nn.MaxPool2d((2, 3), stride=1, dilation=2, padding=(0, 1)),
    "average pool": nn.AvgPool2d((2, 3), stride=(2, 1)),
    "average pool padded": nn.AvgPool2d(3, stride=2, padding=1),
    "average pool ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average pool that drops a rest": nn.AvgPool2d((3, 4)),
    "global average pool": nn.AdaptiveAvgPool2d(1),
    "adaptive pool": nn.AdaptiveAvgPool2d((3, 4)),
    "group norm": nn.GroupNorm(3, 3),
    "layer norm": nn.LayerNorm((8, 6)),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "leaky relu": nn.LeakyReLU(0.2),
    "softmax": nn.Softmax(1),
    "log-softmax": nn.LogSoftmax(-1),
    "dropout": nn.Dropout(0.5),
    "linear on many dimensions": nn.Linear(6, 4),
    "flatten, linear without bias": nn.Sequential(nn.Flatten(), nn.Linear(144, 4, bias=False)),
    "matrix product": lambda m, x: (x.mean((2, 3)) @ m.w).sigmoid(),
    "arithmetic": lambda m, x: (2 - x) / (x * x + 1.5) - m.v**2 + (x + m.v) * 3,
    "power": lambda m, x: (x.abs() + 1) ** m.v,
    "elementwise": lambda m, x: (-x).exp() + (x.abs() + 1).log().tanh() + (x * x).sqrt(),
    "softplus, erf": lambda m, x: F.softplus(x) + mr.erf(x),
    "a weight of 0": lambda m, x: weigh(x.clip(min=0), mr.where(x < 0, math.inf, x)),
    "clip": lambda m, x: x.clip(-0.5, 0.7) + x.clip(min=0.1),
    "maximum": lambda m, x: mr.maximum(x, 0.3) - mr.minimum(x, m.v),
    "comparisons": lambda m, x: sum(
        mr.where(mask, x, float(i))
        for i, mask in enumerate((m.v > x, x >= 0.25, x < 0.5, x <= -0.5, x == 0, x != 0))
    ),
    "sums": lambda m, x: x.sum((1, 3)) + x.sum(1, keepdim=True).sum(-1).mean(1),
    "spread": lambda m, x: x.std((2, 3)) + x.var(1).mean(),
    "extremes": lambda m, x: x.amax((2, 3)) + x.amin(-1).amax(2),
    "logsumexp": lambda m, x: x.logsumexp((1, 2), keepdim=True),
    "reshape": lambda m, x: x.reshape(-1, 4, 9).transpose(1, 2).unsqueeze(0).squeeze(),
    "expand": lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, 3, 4, 5),
    "slices": lambda m, x: x[:, ::2, ::-1, -3:] + x[:, 0, 1:][:, None, -1:, 1:4],
    "index": lambda m, x: x[:, [2, 0, 1]] * x[..., 2, None],
    "no index": lambda m, x: x[:][...],
    "split": lambda m, x: mr.cat(x.split([1, 2], 1)[::-1], 1),
    "pad": lambda m, x: F.pad(F.pad(x, (1, 2, 0, 3), value=1.5), (-2, 0)),
    "casts": lambda m, x: (x.double() * 0.5).float(),
    "in place": inplace,
    "memory order": lambda m, x: x.permute(0, 2, 3, 1).contiguous().clone().permute(0, 3, 1, 2),
    "constants": lambda m, x: x * mr.tensor([[1.0], [2.0]]).reshape(2, 1, 1)[:1] + mr.ones(6),
    "the net's own buffer": nn.BatchNorm2d(3),
}
covered = set()


@pytest.mark.parametrize("name", CASES)
def test_operations(name, tmp_path):
    mr.manual_seed(3)
    net = CASES[name] if isinstance(CASES[name], nn.Module) else Apply(CASES[name])
    net = seen_before(net)
    assert disagreement(net, tmp_path / "net.onnx", (3, 8, 6)) < 1e-5
    covered.update(step.function for step in trace("test", net, [mr.randn(2, 3, 8, 6)]).steps)


def test_every_emitter_was_run():
    missing = {function.__name__ for function in set(EMITTERS) - covered}
    assert missing <= {"Move"}  # which takes a GPU


def test_a_function_of_your_own(tmp_path, monkeypatch):
    from minires.interop.onnx_ops import emits

    class Twice(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    monkeypatch.setitem(EMITTERS, Twice, None)
    emits(Twice)(lambda g, step: g.add("Mul", step.inputs[0], 2.0))
    assert disagreement(Apply(lambda m, x: Twice.apply(x)), tmp_path / "n.onnx", (3, 4)) == 0


# -- what is in the file -----------------------------------------------------------------------


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_graph_of_a_residual_network(tmp_path):
    net = seen_before(cifar_resnet(8))
    path = tmp_path / "folder" / "net.onnx"  # folders are made
    assert mr.export_onnx(net, np.zeros((2, 3, 16, 16), "f4"), path) is None
    block = ["Conv", "BatchNormalization", "Relu", "Conv", "BatchNormalization"]
    shrinking = [*block, "Slice", "Pad", "Add", "Relu"]
    assert operators(path) == [
        *("Conv", "BatchNormalization", "Relu"),
        *(*block, "Add", "Relu"),
        *shrinking,
        *shrinking,
        *("GlobalAveragePool", "Flatten", "Gemm"),
    ]
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    (x,), (y,) = model.graph.input, model.graph.output
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (x, y)]
    assert (x.name, y.name, sizes) == ("input", "output", [["batch", 3, 16, 16], ["batch", 10]])
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in model.graph.initializer}
    assert set(state) == {name for name in arrays if not name.startswith("constant")}
    for name, value in state.items():
        np.testing.assert_array_equal(arrays[name], value.numpy())


def test_softmax_mean_and_linear_are_one_operator_each(tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), nn.Softmax(-1), nn.LogSoftmax(-1))
    mr.export_onnx(net, mr.randn(2, 6), tmp_path / "a.onnx")
    assert operators(tmp_path / "a.onnx") == ["Gemm", "Softmax", "LogSoftmax"]
    means = Apply(lambda m, x: x.mean((2, 3), keepdim=True) * x.mean(-1, keepdim=True))
    mr.export_onnx(means, mr.randn(2, 3, 4, 5), tmp_path / "b.onnx")
    assert operators(tmp_path / "b.onnx") == ["GlobalAveragePool", "ReduceMean", "Mul"]


def test_batch_norm_that_is_no_layer_of_its_own(tmp_path):
    """Statistics that are found in no buffer are written as they are, to the last digits."""
    mean, var = mr.tensor([1.0, -2.0, 0.5]), mr.tensor([0.5, 2.0, 1.0])
    net = Apply(lambda m, x: F.batch_norm(x, mean, var, eps=0.1))
    assert disagreement(net, tmp_path / "net.onnx", (3, 4, 4)) < 1e-6


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_0 = nn.Parameter(mr.ones(3))  # a name that the graph has for itself
        self.output = nn.Parameter(mr.ones(3))

    def forward(self, x, y):
        total = x + y * self.input_0
        return total, x, total, self.output, total.sum(1)


def test_several_inputs_and_outputs(tmp_path):
    path = tmp_path / "net.onnx"
    mr.export_onnx(Two(), (mr.randn(2, 3), mr.randn(2, 3)), path)
    x, y = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("f4")
    found = load(path)(input_0_1=x, input_1=y)
    assert [*found] == [f"output_{i}" for i in range(5)]
    expected = [x + y, x, x + y, np.ones(3, "f4"), (x + y).sum(1)]
    for theirs, ours in zip(found.values(), expected):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)


def test_float64_networks_are_written_as_such(tmp_path):
    path = tmp_path / "net.onnx"
    mr.export_onnx(nn.Linear(3, 2).double(), mr.randn(2, 3, dtype="float64"), path)
    assert {a.data_type for a in onnx.load(path).graph.initializer} == {onnx.TensorProto.DOUBLE}


def test_the_network_is_as_before(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
    seen_before(net)[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, random = mr.randn(2, 3, 4, 4), mr.random.get_state()
    given = x.clone()
    mr.export_onnx(net, x, tmp_path / "net.onnx")
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert mr.random.get_state() == random
    assert all((value == before[k]).all() for k, value in net.state_dict().items())
    assert (x == given).all()
    assert x.grad is None


def test_what_the_first_pass_warns_of_is_heard_once(tmp_path):
    net = nn.BatchNorm2d(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mr.export_onnx(net, mr.randn(2, 3, 4, 4), tmp_path / "net.onnx")
    assert [str(w.message)[:50] for w in caught] == [
        "BatchNorm2d: running statistics have never been up"
    ]


def test_comparisons_are_traced():
    seen = trace("test", Apply(lambda m, x: mr.where(x > 0.1, x, 0.0)), [mr.randn(2, 3, 4, 4)])
    assert operator.gt in [step.function for step in seen.steps]

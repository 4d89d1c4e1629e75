"""Captured steps on a GPU: by its kernels, as one CUDA graph, the same to the last bit."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from cupy_stand_in import streams
from gpu import CUDA, REAL, gpu
from small_net import Net, batches, network, on_cpu

import minires as mr
from minires import nn, optim
from minires.autograd import call
from minires.captured.recorder import Call
from minires.errors import CaptureError
from minires.kernels.cuda.graph import CudaGraph
from minires.nn import functional as F


@pytest.fixture(params=[CUDA], autouse=True)
def _on_gpu(request):
    with gpu():
        yield


class Dropping(Net):
    """With masks that are drawn anew in each step."""

    def forward(self, x):
        return super().forward(F.dropout(x, 0.2, training=self.training))


def training(net=Net):
    """A network, an optimiser and a step of training, always the same ones."""
    mr.manual_seed(0)
    net = net().to("cuda")
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)

    def step(x, labels):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        opt.step()
        return loss

    return net, opt, step


def left(net, opt):
    """What training changes."""
    tensors = [*net.parameters(), *net.buffers(), *[p.grad for p in net.parameters()]]
    kept = [value for state in opt.state.values() for value in state.values()]
    return [*map(on_cpu, tensors), *map(on_cpu, kept)]


def trajectory(captured, steps=4, between=lambda net, opt, number: None, net=Net):
    """What each step gives, what is left in the end, and what ran."""
    net, opt, step = training(net)
    call = mr.capture(step, net, opt) if captured else step
    found = []
    for number, batch in enumerate(batches(steps, "cuda")):
        between(net, opt, number)
        found.append(on_cpu(call(*batch)))
    return [*found, *left(net, opt)], call


def assert_same(found, expected):
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected)):
        np.testing.assert_array_equal(a, b, err_msg=f"number {number}")


def nodes_of(captured):
    (call,) = captured._calls.values()
    return call._graph.nodes


def schedule(net, opt, number):
    opt.param_groups[0]["lr"] *= 0.7


def write(net, opt, number):
    """Write into parameters, seen and unseen."""
    if number >= 2:
        with mr.no_grad():
            net.fc.bias.copy_(mr.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
            net.stem.weight.mul_(0.9)
        net.conv1.weight.data[0] *= 1.5
        net.conv1.weight.bump_version()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "between"),
    [(True, schedule), (True, write), (False, schedule)],
    ids=["rates", "writes", "no fusion"],
)
def test_a_captured_step_is_the_step(fusion, between):
    with contextlib.nullcontext() if fusion else mr.no_fusion():
        found, call = trajectory(True, between=between, net=Dropping)
        assert repr(call) == "Captured(step, recordings=1)"
        assert_same(found, trajectory(False, between=between, net=Dropping)[0])


def test_a_step_is_one_graph():
    """All work of the GPU; in front of it only the numbers that the optimiser makes of its
    rates."""
    net, opt, step = training()
    call = mr.capture(step, net, opt)
    data = [*batches(5, "cuda")]
    for batch in data[:3]:
        call(*batch)
    graphs = [node for node in nodes_of(call) if isinstance(node, CudaGraph)]
    assert nodes_of(call)[-1:] == graphs
    assert all(isinstance(node, Call) for node in nodes_of(call)[:-1])
    names = [node.work.name for node in nodes_of(call)[:-1]]
    assert names == [
        "optim.optimizer.Optimizer._check_groups",
        "update.coefficients",
        "update.kernel_cuda.Coefficients.upload",
    ]
    if not REAL:
        streams.launched.clear()
        for batch in data[3:]:
            call(*batch)
        assert len(streams.launched) == 2
        assert len({*map(id, streams.launched)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_gradients_are_shortened_in_a_graph(norm_type):
    def run(captured):
        net, opt, _ = training()

        def step(x, labels):
            opt.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            length = nn.utils.clip_grad_norm_(net.parameters(), 0.1, norm_type)
            opt.step()
            return length

        call = mr.capture(step, net, opt) if captured else step
        return [*[on_cpu(call(*batch)) for batch in batches(4, "cuda")], *left(net, opt)]

    found = run(captured=True)
    assert_same(found, run(captured=False))
    gradients = np.concatenate([g.ravel() for g in found[-2 * 13 : -13]]).astype("f8")
    np.testing.assert_allclose(np.linalg.norm(gradients, norm_type), 0.1, rtol=1e-4)


def test_inference_packs_weights_again_only_where_they_were_written():
    net = network("cuda")
    (x, _), *others = batches(6, "cuda")
    net(x)
    net.eval()
    call = mr.capture(net)
    with mr.no_grad():
        for number, (image, _) in enumerate(others):
            if number == 3:
                net.conv2.weight.mul_(1.25)
            if not REAL:
                streams.launched.clear()
            np.testing.assert_array_equal(on_cpu(call(image)), on_cpu(net(image)))
            if number in (2, 4) and not REAL:
                assert len(streams.launched) == 1
            if number == 3 and not REAL:
                assert len(streams.launched) > 1  # the weights that were written, and the rest
    assert repr(call) == "Captured(Net, recordings=1)"


# **** what a graph cannot hold ****


def refused(function, *state):
    """The text of the error at the second call; the function works on as it is."""
    call = mr.capture(function, *state)
    xs = [x for (x, _) in batches(3, "cuda")]
    call(xs[0])
    with pytest.raises(CaptureError) as caught:
        call(xs[1])
    function(xs[2])
    again = mr.capture(lambda x: x * 2)
    for x in xs:
        assert np.array_equal(on_cpu(again(x)), 2 * on_cpu(x))
    return str(caught.value)


def test_looking_at_a_value_is_an_error_as_on_the_cpu():
    text = refused(lambda x: x * 2 if x.sum().item() > -1e9 else x)
    assert text.startswith("capture: expected Python that does not depend on values, got the value")


def test_work_that_waits_names_itself_and_says_a_way_out():
    text = refused(lambda x: x.topk(2, dim=1)[0])
    assert text.startswith("capture: expected work that a CUDA graph can hold, got select.first (")
    assert text.endswith(
        "). Do this outside of the captured function, or call the function as it is."
    )


def test_products_for_cublas_are_refused(monkeypatch):
    monkeypatch.setattr("minires.kernels.cuda.matmul.LARGE", 1)
    rounding = "minires.kernels.cuda.matmul._rounding_factors"
    monkeypatch.setattr(rounding, lambda precision: contextlib.nullcontext())
    text = refused(lambda x: x[:, 0] @ x[:, 1])
    assert "got cuda.matmul.by_cublas (calling cuBLAS API during stream capture is" in text


class Decaying(optim.Optimizer):
    """An optimiser without kernels, whose rate is a number of Python's."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def _check_options(self, group):
        group["lr"] = float(group["lr"])

    def _update(self, data, grad, state, group):
        data -= group["lr"] * grad


def test_numbers_that_may_change_are_refused_where_a_graph_would_keep_them():
    net = nn.Linear(3 * 8 * 8, 2).to("cuda")
    opt = Decaying(net.parameters(), lr=0.1)

    def step(x):
        opt.zero_grad()
        loss = (net(x.flatten(1)) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    text = refused(step, net, opt)
    assert "Decaying._update (it reads an object of type dict, whose values may change)" in text


def test_arrays_of_the_cpu_are_refused_where_a_graph_would_keep_them():
    def scaled(x):
        rates = call(np.random.default_rng(0).random, 3)
        return mr.Tensor(call(lambda x, rates: x * float(rates[0]), x._array, rates))

    text = refused(scaled)
    assert "<lambda> (it reads an array of the CPU, whose values may change). Do this" in text


def test_each_gpu_has_graphs_of_its_own():
    """Whichever is CuPy's current one."""
    if mr.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    found = []
    call = mr.capture(lambda x: (x * 2).relu() + 1)
    for device in ("cuda:1", "cuda:0"):
        for x, _ in batches(4, device):
            y = call(x)
            assert y.device == mr.device(device)
            found.append((on_cpu(x), on_cpu(y)))
    assert repr(call) == "Captured(<lambda>, recordings=2)"
    for x, y in found:
        assert np.array_equal(y, np.maximum(2 * x, 0) + 1)

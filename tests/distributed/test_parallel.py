"""DistributedDataParallel: two ranks that train as one process would with the whole batch.

One job does everything, in float64; each test looks at one thing of what it told.
"""

import copy
import json
import pickle

import numpy as np
import pytest
from distributed import harness

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.nn.parallel import DistributedDataParallel
from minires.ops import cross_entropy

PROGRAM = """
import json
import numpy as np
import minires as mr
from minires import nn, optim
from minires.distributed import alone, current_group
from minires.distributed.same import check_same_values
from minires.nn.parallel import DistributedDataParallel
from minires.ops import cross_entropy

group = current_group()
rank = group.rank
told = {}
all_ranks = group.gather_objects
images = np.random.default_rng(0).standard_normal((200, 2, 6, 6))
labels = np.random.default_rng(1).integers(0, 3, 200)


def network(norm=nn.SyncBatchNorm, seed=0):
    mr.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3), norm(4), nn.Flatten(),
        nn.Linear(16, 3),
    )
    return net.double()


def batch(step, n, parts=1, part=0):
    which = (np.arange(n) + 7 * step) % 200
    which = np.array_split(which, parts)[part]
    return mr.tensor(images[which]), mr.tensor(labels[which])


def state(net):
    net = getattr(net, "module", net)
    return {name: t.numpy().copy() for name, t in net.state_dict().items()}


def difference(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def error(function, *args, **options):
    try:
        function(*args, **options)
    except mr.errors.MiniresError as raised:
        return f"{type(raised).__name__}: {raised}"


def penalised(net, x, y):
    return cross_entropy(net(x), y) + 0.01 * sum(p.square().sum() for p in net.parameters())


def trained(net, split, loss=penalised, steps=20, seen=None):
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        loss(net, *batch(step, 37 if step % 3 else 24, *split)).backward()
        optimizer.step()
        if seen is not None:
            check_same_values(net.named_parameters())
    return state(net)


def in_one(*args, **options):
    with alone():
        return trained(network(*args), (1, 0), **options)


halves = (2, rank)

# twenty steps, uneven parts, synchronised batch norms, a penalty beside the network
net = DistributedDataParallel(network(seed=rank))  # rank 0's values are taken
told["like one process"] = all_ranks(difference(trained(net, halves, seen=True), in_one()))
check_same_values(net.named_buffers())

# in float32 with small buckets: the same bits on all ranks
net = DistributedDataParallel(network().float(), bucket_cap_mb=1e-4)
x, y = batch(0, 37, *halves)
for _ in range(3):
    cross_entropy(net(x.float()), y).backward()
    mr.optim.SGD(net.parameters(), lr=0.1).step()
told["same bits"] = all_ranks(error(check_same_values, net.named_parameters()))


# several backward passes for a step
def accumulated(net, x, y):
    half = len(y) // 2
    with getattr(net, "no_sync", alone)():
        (cross_entropy(net(x[:half]), y[:half]) * 0.5).backward()
        told["local"] = all_ranks(grads(net)) if hasattr(net, "no_sync") else told["local"]
    return cross_entropy(net(x[half:]), y[half:]) * 0.5


def accumulated_in_one(net, x, y):
    parts = [batch_parts(x, y, rank) for rank in range(2)]
    first, second = [tuple(mr.concatenate(both) for both in zip(*several)) for several in
                     zip(*parts)]
    (cross_entropy(net(first[0]), first[1]) * 0.5).backward()
    return cross_entropy(net(second[0]), second[1]) * 0.5


def batch_parts(x, y, part):
    rows = np.array_split(np.arange(len(y)), 2)[part]
    x, y = x[rows[0]:rows[-1] + 1], y[rows[0]:rows[-1] + 1]
    half = len(y) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def grads(net):
    return [None if p.grad is None else p.grad.numpy().tolist() for p in net.parameters()]


net = DistributedDataParallel(network())
wanted = in_one(loss=accumulated_in_one, steps=5)
told["accumulated"] = all_ranks(difference(trained(net, halves, accumulated, 5), wanted))

# another pass through the same graph: what was averaged before stays what it is
net = DistributedDataParallel(network())
x, y = batch(0, 37, *halves)
loss = cross_entropy(net(x), y)
loss.backward(retain_graph=True)
once = grads(net)
loss.backward()
told["twice"] = all_ranks(
    max(float(np.abs(2 * np.array(a) - np.array(b)).max()) for a, b in zip(once, grads(net)))
)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x, which):
        y = (self.a, self.b)[which](x)
        return {"out": [y, y], "rest": (x, 3)}


# parameters that one rank has no gradient for, or none has; results in containers
mr.manual_seed(0)
net = DistributedDataParallel(Branches())
x = mr.ones(4, 3)
out = net(x, which=rank)
told["containers"] = all_ranks([[*map(len, out["out"])], out["rest"][0] is x, out["rest"][1]])
(out["out"][0] + out["out"][1]).mean().backward()
told["unused"] = all_ranks([None if p.grad is None else p.grad.tolist()
                            for p in net.module.parameters()])

# without a gradient, or in evaluation, ranks do not meet
net = DistributedDataParallel(network())
before = grads(net)
if rank == 0:
    net.eval()
    loss = cross_entropy(net(batch(0, 8)[0]), batch(0, 8)[1])
    loss.backward()  # of this rank alone
    net.train()
    with mr.no_grad():
        alone_out = net.module[0](batch(0, 8)[0])
    told["evaluated"] = all(p.grad is not None for p in net.parameters())
group.barrier()
net.zero_grad()

# buffers follow rank 0
for follow in (True, False):
    net = DistributedDataParallel(network(nn.BatchNorm2d), broadcast_buffers=follow)
    for step in range(2):
        net(batch(step, 20, *halves)[0])
    before = [b.numpy().tolist() for b in net.module.buffers()]
    net(mr.zeros(2, 2, 6, 6).double())
    every = all_ranks([b.numpy().tolist() for b in net.module.buffers()])
    told[f"buffers {follow}"] = [all_ranks(before)[0] != all_ranks(before)[1], every[0] == every[1]]

# capture
net = DistributedDataParallel(network())


def step(x, y):
    net.zero_grad()
    loss = cross_entropy(net(x), y)
    loss.backward()
    return loss


captured = mr.capture(step, net)
x, y = batch(0, 20, *halves)
captured(x, y)
told["captured"] = all_ranks(error(captured, x, y))

# wrong use, the same on all ranks
told["other network"] = all_ranks(error(DistributedDataParallel, nn.Linear(3, 2 + rank)))
empty = DistributedDataParallel(nn.Linear(3, 2))
told["no sample"] = all_ranks(error(empty, mr.zeros(1 - rank, 3)))
empty.module.bias.requires_grad_(False)
told["frozen later"] = all_ranks(error(empty, mr.zeros(2, 3)))
empty.module.extra = nn.Linear(2, 2)
told["new"] = all_ranks(error(empty, mr.zeros(2, 3)))
frozen = nn.Linear(3, 2)
frozen.bias.requires_grad_(False)
net = DistributedDataParallel(frozen)
frozen.bias.requires_grad_(True)
told["unfrozen"] = all_ranks(error(net, mr.zeros(2, 3)))

if rank == 0:
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    return json.loads(harness.script(2, PROGRAM).passed())


def test_twenty_steps_of_two_ranks_are_those_of_one_process(told):
    """With SyncBatchNorm, parts of 19 and 18, and a penalty on the weights beside the network."""
    assert max(told["like one process"]) < 1e-12


def test_parameters_have_the_same_bits_on_all_ranks(told):
    assert told["same bits"] == [None, None]


def test_gradients_that_were_added_up_under_no_sync_are_averaged_with_the_last(told):
    assert max(told["accumulated"]) < 1e-12
    first, second = told["local"]
    assert first != second


def test_a_second_pass_through_one_graph_adds_the_same_again(told):
    assert max(told["twice"]) < 1e-15


def test_results_in_containers_come_back_in_them(told):
    assert told["containers"] == [[[4, 4], True, 3]] * 2


def test_parameters_without_a_gradient_are_no_error(told):
    """Rank 0 used a, rank 1 b, nobody c."""
    half = [[[0.5] * 3] * 2, [0.5] * 2]
    assert told["unused"] == [[*half, *half, None, None]] * 2


def test_in_evaluation_a_rank_may_be_alone(told):
    assert told["evaluated"]


def test_running_statistics_are_those_of_rank_0_if_they_are_broadcast(told):
    """They differ after a step; the next one begins from rank 0's."""
    assert told["buffers True"] == [True, True]
    assert told["buffers False"] == [True, False]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            "captured",
            "CaptureError: DistributedDataParallel: expected to be called outside of a captured "
            "function, got a call inside. fit(network, ..., capture=True) captures what does not "
            "need the other ranks.",
        ),
        (
            "other network",
            "DistributedError: distributed: expected weight (2, 3) float32 on all ranks, got "
            "weight (3, 3) float32 on rank 1. All ranks must build the same network, with the "
            "same options.",
        ),
        (
            "no sample",
            "DistributedError: DistributedDataParallel: expected a sample for each of 2 ranks, "
            "got none on rank 1. Pass drop_last=True to the loader, or larger batches.",
        ),
        ("frozen later", None),
        (
            "new",
            "ArgumentError: DistributedDataParallel: expected the parameters that required grad "
            "when the network was wrapped, got extra.weight too. Wrap it again after such "
            "changes: DistributedDataParallel(net.module).",
        ),
        (
            "unfrozen",
            "ArgumentError: DistributedDataParallel: expected the parameters that required grad "
            "when the network was wrapped, got bias too. Wrap it again after such changes: "
            "DistributedDataParallel(net.module).",
        ),
    ],
)
def test_errors_are_those_of_all_ranks(told, what, text):
    assert told[what] == [text] * 2


# -- in a process on its own


def test_a_process_on_its_own_has_the_network_as_it_is():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    plain, wrapped = copy.deepcopy(net), DistributedDataParallel(net)
    x, y = mr.randn(5, 2, 4, 4), mr.tensor([0, 1, 2, 0, 1])
    for model in (plain, wrapped):
        cross_entropy(model(x), y).backward()
    for p, q in zip(plain.parameters(), wrapped.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())
    with wrapped.no_sync():
        assert wrapped(x).shape == (5, 3)


def test_names_begin_with_module_as_in_pytorch():
    net = nn.Linear(3, 2)
    wrapped = DistributedDataParallel(net)
    assert [*wrapped.state_dict()] == ["module.weight", "module.bias"]
    assert [name for name, _ in wrapped.named_parameters()] == ["module.weight", "module.bias"]
    assert wrapped.module is net
    other = DistributedDataParallel(nn.Linear(3, 2))
    other.load_state_dict(wrapped.state_dict())
    np.testing.assert_array_equal(other.module.weight.data, net.weight.data)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_wired_to_its_own_parameters(copied):
    net = DistributedDataParallel(nn.Linear(3, 2), bucket_cap_mb=None)
    other = copied(net)
    wired = other._means._reducer.parameters
    assert all(p is q for p, q in zip(wired, other.parameters(), strict=True))
    assert other.bucket_cap_mb == 8
    assert other(mr.ones(1, 3)).tolist() == net(mr.ones(1, 3)).tolist()


def _frozen():
    net = nn.Linear(3, 2)
    return net.requires_grad_(False)


LINEAR = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("args", "options", "text"),
    [
        ((mr.zeros(2),), {}, "a module, got Tensor"),
        ((nn.ReLU(),), {}, "parameters that require grad, got ReLU without. Use it as it is"),
        ((_frozen(),), {}, "parameters that require grad, got Linear without. Use it as it is"),
        ((DistributedDataParallel(LINEAR),), {}, "a network that is not wrapped, got one that is"),
        ((nn.LazyLinear(3),), {}, "parameters with a shape, got weight, lazy. Call the network"),
        ((LINEAR,), {"process_group": 1}, "process_group=None, the group of all ranks, got 1"),
        ((LINEAR,), {"dim": -1}, "dim an integer >= 0, got -1"),
        ((LINEAR,), {"broadcast_buffers": 1}, "broadcast_buffers True or False, got 1"),
        ((LINEAR,), {"find_unused_parameters": 1}, "find_unused_parameters True or False"),
        ((LINEAR,), {"static_graph": None}, "static_graph True or False, got None"),
        ((LINEAR,), {"gradient_as_bucket_view": 0}, "gradient_as_bucket_view True or False"),
        ((LINEAR,), {"device_ids": ["cuda:1"]}, "the device of the network, cpu, got 'cuda:1'"),
        ((LINEAR,), {"output_device": 0}, "the device of the network, cpu, got 'cuda:0'. Each"),
    ],
)
def test_wrong_arguments_are_refused(args, options, text):
    with pytest.raises(ArgumentError) as caught:
        DistributedDataParallel(*args, **options)
    assert str(caught.value).startswith(f"DistributedDataParallel: expected {text}")


def test_a_bucket_has_a_size():
    with pytest.raises(ArgumentError, match="expected bucket_cap_mb"):
        DistributedDataParallel(nn.Linear(3, 2), bucket_cap_mb=0)


def test_inputs_go_to_the_device_that_was_named():
    net = DistributedDataParallel(nn.Linear(3, 2), device_ids=["cpu"], output_device="cpu")
    assert net(mr.ones(2, 3)).shape == (2, 2)

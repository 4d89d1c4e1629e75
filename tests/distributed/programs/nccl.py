"""Two ranks on the stand-in for GPUs, each with its own device; prints what came of it."""

import json

import numpy as np
from cuda_stand_in import cuda_backend
from cupy_stand_in import nccl

import minires as mr
from minires import distributed as dist
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.device import cupy, move
from minires.distributed import DistributedDataParallel, current_group
from minires.distributed.nccl import carrier, communicator
from minires.distributed.reducer import Reducer
from minires.distributed.same import broadcast_state, check_same_values
from minires.ops import cross_entropy
from minires.train import fit

group = current_group()
rank = group.rank
here = mr.device("cuda", rank)
told = {}
all_ranks = group.gather_objects
draws = np.random.default_rng(rank)


def put(array):
    return move(array, here)


def error(function, *args):
    try:
        function(*args)
    except mr.errors.MiniresError as raised:
        return f"{type(raised).__name__}: {raised}"


def operations():
    same = []
    for dtype in ("f4", "f8", "i8", "u1", "c16", "?"):
        array = (draws.standard_normal((3, 4)) * 9 + 20 * (dtype != "?")).astype(dtype)
        array[0] = array[0] > 25
        on_gpu, on_cpu = put(array), array.copy()
        for op in ("sum",) if dtype == "c16" else ("sum", "max", "min", "prod"):
            carrier(group, on_gpu).reduce(on_gpu[:, 1:3], op)  # not in one piece
            if dtype == "?":  # a sum of booleans says whether there is one
                op = {"sum": "max", "prod": "min"}.get(op, op)
                group.reduce(on_cpu.view("u1")[:, 1:3], op)
            else:
                group.reduce(on_cpu[:, 1:3], op)
            same.append((on_gpu.get() == on_cpu).all().item())
        gathered = carrier(group, on_gpu).gather(on_gpu.T)
        same.append((gathered.get() == group.gather(on_cpu.T)).all().item())
        carrier(group, on_gpu).broadcast(on_gpu.T, 1)
        group.broadcast(on_cpu.T, 1)
        same.append((on_gpu.get() == on_cpu).all().item())
    return same


def streams():
    """What is packed on one stream, added up on another, and read on the first."""
    xp = cupy()
    with xp.cuda.Device(rank), xp.cuda.Stream(non_blocking=True) as stream:
        x = xp.zeros(4, np.float32)
        x += rank + 1  # not done yet: the stand-in does it when somebody waits
        done = communicator(group).start_reduce(x)
        early = len(nccl.launched) - len(nccl.done)
        communicator(group).wait(done)
        x *= 10
        stream.synchronize()
    return x.get().tolist(), early


class Passing(mr.Function):
    """The identity, which notes how many operations NCCL was given before its gradient came."""

    @staticmethod
    def forward(ctx, x):
        return x.copy()

    @staticmethod
    def backward(ctx, gy):
        counts.append(len(nccl.launched))
        return gy * 1


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = nn.SyncBatchNorm(8) if norm else nn.Identity()

    def forward(self, x):
        return self.c(Passing.apply(self.b(Passing.apply(self.norm(self.a(x)).relu()).relu())))


counts = []


def network(norm=False):
    mr.manual_seed(0)
    return Net(norm).double()


def data(step, device):
    source = np.random.default_rng(100 + step)
    x, y = source.standard_normal((7, 6)), source.integers(0, 3, 7)
    mine = np.array_split(np.arange(7), 2)[rank]
    return mr.tensor(x[mine], device=device), mr.tensor(y[mine], device=device)


def trained(device, accumulate=False, norm=False):
    net = DistributedDataParallel(network(norm).to(device), bucket_cap_mb=5e-4)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        optimizer.zero_grad()
        if accumulate:
            with net.no_sync():
                loss(net, *data(step, device)).backward()
            step += 50
        counts.clear()
        nccl.reset()
        loss(net, *data(step, device)).backward()
        during, after = list(counts), [name for name, _ in nccl.launched]
        optimizer.step()
    check_same_values(net.named_parameters())
    assert not any(p._hooks for p in net.parameters())  # they are there for a pass alone
    return [p.detach().cpu().numpy() for p in net.parameters()], (during, after)


def loss(net, x, y):
    return cross_entropy(net(x), y)


def cut_in_two(captured, overlapped=False):
    """A step as ``fit`` does it: what learns and what updates, and the sums between them."""
    net = network().to(here)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    reducer = Reducer(net.parameters(), 5e-4)

    def learn(x, y):
        optimizer.zero_grad()
        result = cross_entropy(net(x), y)
        result.backward()
        return result

    update = optimizer.step
    if captured:
        learn, update = mr.capture(learn, net, optimizer), mr.capture(update, optimizer)
    elif overlapped:
        learn = reducer.overlapped(learn)
    for step in range(6):
        nccl.reset()
        learn(*(t[:3] for t in data(step, here)))
        started = len(nccl.launched)
        reducer.reduce()
        update()
    check_same_values(net.named_parameters())
    if captured:
        told["recordings"] = all_ranks([repr(f).split("=")[1] for f in (learn, update)])
    return [p.detach().cpu().numpy().tolist() for p in net.parameters()], started


def fitted(device, capture):
    mr.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    net.double().to(device)
    source = np.random.default_rng(0)
    samples = TensorDataset(
        mr.tensor(source.standard_normal((37, 6))), mr.tensor(source.integers(0, 3, 37))
    )
    loader = DataLoader(samples, batch_size=10)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    fit(net, loader, loader, optimizer, epochs=1, capture=capture, progress=False)
    check_same_values(net.named_parameters())
    return [t.cpu().numpy() for t in net.state_dict().values()]


def missing():
    """Gradients that one rank has not, or none has; and what an early bucket does not wait for."""
    p = [mr.tensor(np.zeros(2), requires_grad=True, device=here) for _ in range(3)]
    p[rank].grad = mr.ones(2, dtype="float64", device=here)
    Reducer(p).reduce(average=True)
    return [None if q.grad is None else q.grad.tolist() for q in p]


def failed():
    """A pass that fails on all ranks, and one after it."""
    net = DistributedDataParallel(network().to(here), bucket_cap_mb=5e-4)
    first = loss(net, *data(9, here))
    with net.module.a.bias.register_hook(lambda g: 1 / 0):
        try:
            first.backward()
        except ZeroDivisionError:
            none = all(p.grad is None for p in net.parameters())
    x, y = data(0, here)
    loss(net, x, y).backward()
    after_it = [p.grad.cpu().numpy().copy() for p in net.parameters()]
    net = DistributedDataParallel(network().to(here), bucket_cap_mb=5e-4)
    loss(net, x, y).backward()
    same = all((a == p.grad.cpu().numpy()).all() for a, p in zip(after_it, net.parameters()))
    return [none, bool(same)]


def wrong():
    with cupy().cuda.Device(1 - rank):
        other = error(communicator(group).reduce, cupy().zeros(2))
    return [
        error(communicator(group).reduce, put(np.zeros(2, np.int16))),
        error(communicator(group).reduce, put(np.zeros(2, np.complex64)), "max"),
        other.replace(f"cuda:{1 - rank}", "OTHER").replace(f"cuda:{rank}", "OWN"),
    ]


def nccl_fails():
    def fails(*args):
        raise nccl.NcclError(2)

    kept, nccl.NcclCommunicator.allReduce = nccl.NcclCommunicator.allReduce, fails
    try:
        return error(communicator(group).reduce, put(np.zeros(2)))
    finally:
        nccl.NcclCommunicator.allReduce = kept


def public():
    """PyTorch's functions, on tensors of this rank's GPU."""
    x = mr.tensor(np.array([[1.0, rank], [2.0, 3.0]]), device=here)
    dist.all_reduce(x.t()[1:])  # the second column, in the memory of the whole
    mean = mr.tensor(np.array([1.0, rank]), device=here)
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    some = mr.tensor(np.array([rank == 0, False]), device=here)
    dist.all_reduce(some, dist.ReduceOp.MAX)
    parts = [mr.zeros(2, device=here) for _ in range(2)]
    dist.all_gather(parts, mr.full((2,), float(rank), device=here))
    both = mr.zeros(4, device=here)
    dist.all_gather_into_tensor(both, mr.full((2,), float(rank), device=here))
    sent = mr.full((2,), float(rank), device=here)
    dist.broadcast(sent, 1)
    apart = error(dist.all_reduce, mr.zeros(1, device="cpu" if rank else here))
    mixed = error(dist.all_gather_into_tensor, mr.zeros(4, device=here), mr.zeros(2))
    values = [t.tolist() for t in (x, mean, some, *parts, both, sent)]
    return values, apart, mixed.replace(str(here), "HERE")


with cuda_backend():
    cupy()
    told["public"] = all_ranks(public())
    told["operations"] = all_ranks(operations())
    told["streams"] = all_ranks(streams())
    on_gpu, overlap = trained(here)
    on_cpu, _ = trained("cpu")
    told["trained"] = all_ranks(max(float(np.abs(a - b).max()) for a, b in zip(on_gpu, on_cpu)))
    told["overlap"] = all_ranks(overlap)
    on_gpu, _ = trained(here, accumulate=True)
    on_cpu, _ = trained("cpu", accumulate=True)
    told["accumulated"] = all_ranks(max(float(np.abs(a - b).max()) for a, b in zip(on_gpu, on_cpu)))
    on_gpu, on_cpu = (trained(place, norm=True)[0] for place in (here, "cpu"))
    told["norm"] = all_ranks(max(float(np.abs(a - b).max()) for a, b in zip(on_gpu, on_cpu)))
    plain, started = cut_in_two(captured=False)
    told["started"] = all_ranks([started, cut_in_two(captured=False, overlapped=True)[1]])
    told["captured"] = all_ranks(cut_in_two(captured=True)[0] == plain)
    told["overlapped"] = all_ranks(cut_in_two(False, overlapped=True)[0] == plain)
    on_cpu = fitted("cpu", capture=False)
    told["fitted"] = [
        all_ranks(max(float(np.abs(a - b).max()) for a, b in zip(fitted(here, capture), on_cpu)))
        for capture in (False, True)
    ]
    told["missing"] = all_ranks(missing())
    told["failed"] = all_ranks(failed())
    told["wrong"] = all_ranks(wrong())
    nccl.reset()
    communicator(group)._leave()
    told["left"] = all_ranks(list(nccl.launched))
    told["nccl fails"] = all_ranks(nccl_fails())
    state = [mr.full((3, 2), rank + 1.0, device=here), mr.full((2,), rank + 7, device=here)]
    broadcast_state(state, 1)
    told["broadcast"] = all_ranks([t.tolist() for t in state])
if rank == 0:
    print(json.dumps(told))

"""Synchronised batch norm on three ranks; prints what came of it."""

import json

import numpy as np

import minires as mr
from minires import distributed, models, nn
from minires.distributed import current_group

group = current_group()
rng = np.random.default_rng(7)  # the same numbers on all ranks
told = {}
SIZES = [19, 1, 17]
END = int(np.cumsum(SIZES)[group.rank])
OWN = slice(END - SIZES[group.rank], END)


def every(value):
    return group.gather_objects(value)


def distance(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) if a.size else 0.0


def run(net, x, gy, own=slice(None)):
    """What a net makes of its part of a batch: output, gradients, state."""
    net.zero_grad()
    t = mr.tensor(x[own], requires_grad=True)
    y = net(t)
    y.backward(mr.tensor(gy[own]))
    gradients = {name: p.grad.numpy().copy() for name, p in net.named_parameters()}
    buffers = {name: b.numpy().copy() for name, b in net.named_buffers()}
    return y.detach().numpy().copy(), t.grad.numpy().copy(), gradients, buffers


def randomised(net):
    for p in net.parameters():
        p.data[...] = rng.standard_normal(p.shape) / np.sqrt(np.prod(p.shape[1:]))
        p.bump_version()
    return net


def apart(together, one):
    """The largest difference to one process, of each kind."""
    y, gx, gradients, buffers = together
    of_y, of_gx, of_gradients, of_buffers = one
    summed = {name: sum(every(g)[1:], every(g)[0]) for name, g in gradients.items()}
    bits = [every(b.tobytes()) for b in buffers.values()]
    return {
        "y": distance(y, of_y[OWN]),
        "gx": distance(gx, of_gx[OWN]),
        "gradients": max([distance(summed[n], of_gradients[n]) for n in summed], default=0.0),
        "buffers": max([distance(buffers[n], of_buffers[n]) for n in buffers], default=0.0),
        "bits": all(len(set(b)) == 1 for b in bits),
    }


def compared(name, make, shape, layout=lambda a: a, steps=2, shift=0.0):
    n = sum(SIZES)
    state = randomised(make().double()).state_dict()
    nets = []
    for _ in range(3):
        net = make().double()
        net.load_state_dict(state)
        nets.append(net)
    together, unfused, one = nets
    together, unfused = map(nn.SyncBatchNorm.convert_sync_batchnorm, (together, unfused))
    for step in range(steps):
        x = layout(rng.standard_normal((n, *shape)) * 2 + 1 + shift)
        with distributed.alone(), mr.no_grad():
            out = make().double()(mr.tensor(x)).shape
        gy = rng.standard_normal(out)
        gy = layout(gy) if out == x.shape else gy
        with distributed.alone(), mr.backend("numpy"), mr.no_fusion():
            of_one = run(one, x, gy)
        found = run(together, x, gy, OWN)
        told[f"{name} {step}"] = every(apart(found, of_one))
        with mr.no_fusion():
            plain = run(unfused, x, gy, OWN)
        told[f"{name} {step} unfused"] = every(apart(plain, of_one))


def flipped(a):
    return a[:, ::-1]


def turned(a):
    return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
    )


def flat(a):
    return a.reshape(len(a), 3, 8, 3)


def launched(net):
    """The names of the kernels of a step, and how often each ran."""
    x = mr.tensor(rng.standard_normal((4, 3, 8, 8)).astype(np.float32))
    net(x).sum().backward()
    with mr.profile() as p:
        net(x).sum().backward()
    return sorted((row.name, row.calls) for row in p.rows if row.kind == "kernel")


def error(function, *args):
    try:
        function(*args)
    except mr.errors.MiniresError as raised:
        return f"{type(raised).__name__}: {raised}"


def second_order(x, y):
    return mr.grad((y**3).sum(), x, create_graph=True)


compared("maps", lambda: nn.BatchNorm2d(5), (5, 4, 3))
compared("one channel", lambda: nn.BatchNorm2d(1), (1, 2, 7))
compared("one pixel", lambda: nn.BatchNorm2d(3), (3, 1, 1))
compared("many channels", lambda: nn.BatchNorm2d(37), (37, 3, 5))
compared("rows", lambda: nn.BatchNorm1d(3), (3,))
compared("lines", lambda: nn.BatchNorm1d(4), (4, 6))
compared("flipped", lambda: nn.BatchNorm2d(5), (5, 4, 3), flipped)
compared("turned", lambda: nn.BatchNorm2d(2), (2, 4, 3), turned)
compared("cumulative", lambda: nn.BatchNorm2d(3, momentum=None), (3, 2, 3), steps=3)
compared("not affine", lambda: nn.BatchNorm2d(3, affine=False), (3, 2, 3))
compared("not tracking", lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 2, 3))
compared("far from zero", lambda: nn.BatchNorm2d(3, momentum=0.4), (3, 4, 3), shift=1000.0)


compared("chain", chain, (3, 8, 11))
compared("residual", lambda: models.BasicBlock(4, 4), (4, 5, 6))
compared("shortcut", lambda: models.BasicBlock(4, 8, stride=2, shortcut="B"), (4, 7, 6))
compared("pre-activation", lambda: models.PreActBlock(4, 8, stride=2, shortcut="B"), (4, 7, 6))
compared("network", lambda: models.cifar_resnet(8), (3, 12, 9))

# five dimensions: one process's batch norm takes maps alone
x, gy = rng.standard_normal((2, sum(SIZES), 3, 2, 4, 3))


with distributed.alone(), mr.backend("numpy"):
    of_one = run(nn.BatchNorm2d(3).double(), flat(x), flat(gy))
y, gx, *rest = run(nn.SyncBatchNorm(3).double(), x, gy, OWN)
told["volumes"] = every(apart((flat(y), flat(gx), *rest), of_one))

# float32: statistics are exchanged in float64
x, gy = rng.standard_normal((2, sum(SIZES), 6, 5, 4)).astype(np.float32)
with distributed.alone(), mr.backend("numpy"):
    of_one = run(nn.BatchNorm2d(6).double(), x.astype(np.float64), gy.astype(np.float64))
told["float32"] = every(apart(run(nn.SyncBatchNorm(6), x, gy, OWN), of_one))

# without gradients
layer, like = nn.SyncBatchNorm(4).double(), nn.BatchNorm2d(4).double()
x = rng.standard_normal((sum(SIZES), 4, 3, 5))
with mr.no_grad():
    y = layer(mr.tensor(x[OWN])).numpy()
    with distributed.alone(), mr.backend("numpy"):
        of_one = like(mr.tensor(x)).numpy()
both = layer.running_var.numpy(), like.running_var.numpy()
told["no_grad"] = every([distance(y, of_one[OWN]), distance(*both)])

# in evaluation, and alone: batch norm itself
like.load_state_dict(layer.state_dict())
part = mr.tensor(x[OWN])
with mr.no_grad():
    pair = layer.eval()(part), like.eval()(part)
same = [pair[0].numpy().tobytes() == pair[1].numpy().tobytes()]
with distributed.alone():
    pair = run(layer.train(), x[OWN], x[OWN]), run(like.train(), x[OWN], x[OWN])
for one, other in zip(*([a, b, *c.values(), *d.values()] for a, b, c, d in pair)):
    same.append(one.tobytes() == other.tobytes())
if group.rank == 0:  # nobody else: an evaluation meets nobody
    layer.eval()(part)
    nn.summary(nn.SyncBatchNorm.convert_sync_batchnorm(chain()), (1, 3, 8, 8))
told["alone"] = every(all(same))


kept = models.cifar_resnet(8)
with distributed.alone():
    expected = launched(kept)
told["kernels"] = every([launched(nn.SyncBatchNorm.convert_sync_batchnorm(kept)), expected])


layer = nn.SyncBatchNorm(3)
empty = mr.randn(0 if group.rank == 1 else 4, 3, 2, 2)
told["empty"] = every(error(layer, empty))
told["unmoved"] = every([layer.running_var.tolist(), int(layer.num_batches_tracked.item())])

step = mr.capture(lambda x: layer(x), layer)
step(mr.randn(4, 3, 2, 2))
told["capture"] = every(error(step, mr.randn(4, 3, 2, 2)))

for fused in (True, False):
    x = mr.randn(4, 3, 2, 2, requires_grad=True)
    if fused:
        y = layer(x)
    else:
        with mr.no_fusion():
            y = layer(x)
    told[f"create_graph {fused}"] = every(error(second_order, x, y))

first, second = nn.SyncBatchNorm(3), nn.SyncBatchNorm(3)
x = mr.randn(4, 3, requires_grad=True)
y, z = first(x), second(x)
told["apart forward"] = every(error(second if group.rank else first, x))
group.barrier()
found = error(lambda: mr.grad((z if group.rank else y).sum(), x))
told["apart backward"] = every(found)

if group.rank == 0:
    print(json.dumps(told))

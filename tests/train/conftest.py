"""A tiny network and data set for the tests of the training loop."""

import numpy as np
import pytest

from minires import random
from minires.optim import SGD, CosineAnnealingLR, LinearLR, SequentialLR
from minires.tensor import Tensor, from_numpy


class Net:
    """Two linear layers, noise on the hidden units while training, and a running mean.

    The noise comes from minires' global generator and the running mean goes into the output, so
    a resume that loses either gives other numbers.
    """

    def __init__(self, hidden=8, dtype=np.float32):
        def weight(*shape):
            values = 0.5 * random.generator().standard_normal(shape)
            return Tensor(values.astype(dtype), requires_grad=True)

        self.params = {
            "fc1.weight": weight(4, hidden),
            "fc1.bias": weight(hidden),
            "fc2.weight": weight(hidden, 3),
        }
        self.buffers = {
            "bn.running_mean": Tensor(np.zeros(hidden, dtype)),
            "bn.num_batches_tracked": Tensor(np.array(0, np.int64)),
        }
        self.training = True
        self.modes = []

    def __call__(self, x):
        self.modes.append(self.training)
        hidden = (x @ self.params["fc1.weight"] + self.params["fc1.bias"]).tanh()
        mean = self.buffers["bn.running_mean"]
        if self.training:
            noise = random.generator().standard_normal(hidden.shape).astype(hidden.dtype)
            hidden = hidden + from_numpy(0.1 * noise)
            mean.data[...] = 0.9 * mean.data + 0.1 * hidden.data.mean(axis=0)
            self.buffers["bn.num_batches_tracked"].data[...] += 1
        return (hidden - mean.clone()) @ self.params["fc2.weight"]

    def parameters(self):
        return iter(self.params.values())

    def state_dict(self):
        return {k: v.detach() for k, v in (self.params | self.buffers).items()}

    def load_state_dict(self, state):
        for name, own in self.state_dict().items():
            own.data[...] = state[name].data

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.train(False)


class Loader:
    """Batches of a learnable toy problem, in an order that depends on the epoch."""

    def __init__(self, n=50, batch=16, seed=0, shuffle=True):
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((n, 4)).astype(np.float32)
        self.y = self.x[:, :3].argmax(axis=1)
        self.batch, self.shuffle, self.epoch, self.epochs_seen = batch, shuffle, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs_seen.append(epoch)

    def __len__(self):
        return -(-len(self.x) // self.batch)

    def __iter__(self):
        order = np.arange(len(self.x))
        if self.shuffle:
            np.random.default_rng(self.epoch).shuffle(order)
        self.epoch += 1
        for begin in range(0, len(order), self.batch):
            rows = order[begin : begin + self.batch]
            yield from_numpy(self.x[rows]), from_numpy(self.y[rows])


@pytest.fixture
def make_net():
    return Net


@pytest.fixture
def make_loader():
    return Loader


@pytest.fixture
def make_run():
    """Everything a run consists of, made anew from one seed."""

    def make(seed=0, hidden=8, steps=24):
        random.manual_seed(seed)
        net = Net(hidden)
        optimizer = SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)
        parts = [
            LinearLR(optimizer, 0.1, total_iters=6),
            CosineAnnealingLR(optimizer, steps - 6),
        ]
        return net, optimizer, SequentialLR(optimizer, parts, [6])

    return make

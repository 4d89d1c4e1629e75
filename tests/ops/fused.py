"""Networks and chains that are run twice, as they are and under ``no_fusion()``.

Both must come out alike: values, gradients, statistics, versions and the words of errors.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import LAYOUTS, arrays, host, place, tensor, there

import minires as mr
from minires import nn
from minires.nn import BatchNorm2d, Conv2d


def close(one, other, tolerance=1e-12):
    one, other = np.asarray(one), np.asarray(other)
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    if one.tobytes() == other.tobytes():  # mostly so, and told in a tenth of the time
        return
    finite = other[np.isfinite(other)]
    scale = max(np.abs(finite).max(), 1) if finite.size else 1
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def same(one, other, tolerance=1e-12):
    """Two results of any nesting agree."""
    assert type(one) is type(other), (one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same(a, b, tolerance)
    elif isinstance(one, np.ndarray | np.generic | float):
        close(one, other, tolerance)
    else:
        assert one == other


def both_ways(f, tolerance=1e-12):
    """``f()`` fused and plain agree; returns what came out."""
    fused = outcome(f)
    with mr.no_fusion():
        plain = outcome(f)
    same(fused, plain, tolerance)
    return fused


def outcome(f):
    """What ``f()`` returns, or what it raises: kind and words, which name lines of this file."""
    mr.manual_seed(0)
    try:
        return f()
    except (mr.errors.MiniresError, RuntimeError, ValueError, TypeError) as error:
        return [type(error).__name__, str(error)]


def is_lazy(x):
    """Whether the array of a tensor does not exist yet."""
    return x._lazy is not None and x._lazy.array is None


def values(x):
    """A copy of a tensor's values, without handing out its memory; for arrays see ``.data``."""
    return None if x is None else host(x).copy()


def text_of_error(f):
    with pytest.raises(mr.errors.GraphError) as caught:
        f()
    return str(caught.value)


# **** networks ****


class Torchvision(nn.Module):
    """The block as torchvision's users write it."""

    def __init__(self, c, k=None, stride=1):
        super().__init__()
        k = k or c
        self.conv1 = Conv2d(c, k, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = Conv2d(k, k, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(k)
        self.downsample = None
        if k != c or stride != 1:
            self.downsample = nn.Sequential(Conv2d(c, k, 1, stride, bias=False), BatchNorm2d(k))

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Written(nn.Module):
    """A network whose forward is a function of (its layers, x)."""

    def __init__(self, forward, **layers):
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._forward(self, x)


def conv(c, k=None, size=3, **options):
    return Conv2d(c, k or c, size, **{"padding": size // 2, "bias": False} | options)


def build(make, dtype):
    """The network, with parameters and statistics that are not those of the constructor."""
    net = make().to(np.dtype(dtype))
    rng = np.random.default_rng(7)
    with mr.no_grad():
        for name, t in [*net.named_parameters(), *net.named_buffers()]:
            if t.ndim == 4:
                fan_in = t.numel() / t.shape[0]
                draws = rng.standard_normal(t.shape) * np.sqrt(2 / fan_in)
            elif t.ndim == 1:
                draws = 0.5 + rng.random(t.shape)
                if "var" not in name:
                    draws *= rng.choice([-1, 1], t.shape)
            else:
                draws = np.ones(t.shape, t.dtype)
            t.copy_(mr.tensor(draws))
    return net.to(place())


# **** a block, one call at a time ****


STAGES = ["conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2"]


class Chain:
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + x), one call at a time."""

    def __init__(self, training=True, dtype="float64"):
        self.net = build(
            lambda: Written(None, c1=conv(4), b1=BatchNorm2d(4), c2=conv(4), b2=BatchNorm2d(4)),
            dtype,
        ).train(training)
        x = there(LAYOUTS["channels_last"](arrays((2, 4, 3, 3))[0].astype(dtype)))
        self.leaf = mr.zeros_like(x).copy_(x).requires_grad_()  # in memory of its own
        self.x = self.leaf * 1
        self.made = {}

    def step(self, stage):
        net, made = self.net, self.made
        last = list(made.values())[-1] if made else self.x
        made[stage] = {
            "conv1": lambda: net.c1(last),
            "bn1": lambda: net.b1(last),
            "relu1": lambda: last.relu(),
            "conv2": lambda: net.c2(last),
            "bn2": lambda: net.b2(last),
            "add": lambda: last + self.x,
            "relu2": lambda: last.relu(),
        }[stage]()
        return made[stage]

    def result(self, extra=()):
        """All there is to compare, after a backward pass if there can be one."""
        y = self.made["relu2"]
        found = {"y": values(y), "names": [str(t.grad_fn) for t in self.made.values()]}
        found["versions"] = [t._version.count for t in self.made.values()]
        if y.requires_grad:
            weights = tensor(arrays(y.shape, seed=5)[0], dtype=y.dtype)
            loss = (y * weights).sum()
            for t in extra:
                loss = loss + t
            loss.backward()
            found["loss"] = values(loss)
            found["grads"] = [values(t.grad) for t in (self.leaf, *self.net.parameters())]
        found["buffers"] = [values(b) for b in self.net.buffers()]
        found["made"] = [values(t) for t in self.made.values()]
        return found


def follow(at, act, training=True):
    """The chain, with ``act(chain, tensor)`` done to the tensor of one stage once it is made."""
    chain, extra, seen = Chain(training), [], None
    for stage in STAGES:
        t = chain.step(stage)
        if stage == at:
            seen = act(chain, t)
            if isinstance(seen, mr.Tensor):
                if seen.requires_grad:
                    extra.append((seen * seen).sum())
                seen = values(seen)
    found = chain.result(extra)
    return [seen, found]


def quiet(result):
    """What was written into is no new consumer."""

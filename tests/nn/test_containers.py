from collections import OrderedDict

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError


def test_sequential_calls_in_order_and_repeats_shared_modules():
    double = nn.Linear(1, 1, bias=False)
    double.weight.data[...] = 2
    plus = nn.Linear(1, 1)
    plus.weight.data[...], plus.bias.data[...] = 1, 3
    net = nn.Sequential(double, plus, double)
    assert net(mr.ones(1, 1)).item() == 10  # ((1 * 2) + 3) * 2
    assert len(list(net.parameters())) == 3
    assert list(net.state_dict()) == ["0.weight", "1.weight", "1.bias", "2.weight"]


def test_sequential_list_behaviour():
    a, b, c, d = (nn.Identity() for _ in range(4))
    net = nn.Sequential(a, b, c)
    assert len(net) == 3
    assert list(net) == [a, b, c]
    assert net[0] is a
    assert net[-1] is c
    assert isinstance(net[1:], nn.Sequential)
    assert list(net[1:]) == [b, c]
    assert list(net[1:]._modules) == ["0", "1"]  # numbered anew, so that append cannot overwrite
    assert net.append(d) is net
    net.insert(1, d)
    assert list(net) == [a, d, b, c, d]
    del net[1]
    net[-1] = a
    assert list(net) == [a, b, c, a]
    assert list(net._modules) == ["0", "1", "2", "3"]
    assert len(net.extend([d, d])) == 6
    del net[1:5]
    assert list(net) == [a, d]
    with pytest.raises(IndexError, match="Sequential: expected an index into 2 of them, got 2"):
        net[2]


def test_sequential_of_a_dict():
    net = nn.Sequential(OrderedDict(conv=nn.Linear(2, 3), act=nn.ReLU()))
    assert list(net.state_dict()) == ["conv.weight", "conv.bias"]
    assert net[1] is net.act
    assert list(net[:1]._modules) == ["conv"]


def test_slices_of_a_subclass_are_plain():
    class Stage(nn.Sequential):
        def __init__(self, n, width):
            super().__init__(*(nn.Linear(width, width) for _ in range(n)))

    part = Stage(3, 2)[:2]
    assert type(part) is nn.Sequential
    assert part(mr.ones(1, 2)).shape == (1, 2)


@pytest.mark.parametrize("make", [lambda x: nn.Sequential(x), lambda x: nn.ModuleList([x])])
def test_non_modules_are_refused(make):
    with pytest.raises(ArgumentError, match=r"expected modules, got .*of type type.*nn\.ReLU\(\)"):
        make(nn.ReLU)
    with pytest.raises(ArgumentError, match=r"expected modules, got 3 of type int"):
        make(nn.Identity()).append(3)


def test_module_list():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert [name for name, _ in layers.named_parameters()][:2] == ["0.weight", "0.bias"]
    x = mr.ones(1, 2)
    for layer in layers:
        x = layer(x)
    assert x.shape == (1, 2)
    assert isinstance(layers[:2], nn.ModuleList)
    with pytest.raises(NotImplementedError, match="ModuleList does not define forward"):
        layers(x)


def test_module_dict():
    heads = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Identity()})
    assert list(heads) == list(heads.keys()) == ["a", "b"]
    assert "a" in heads
    assert len(heads) == 2
    assert list(heads.values()) == [heads["a"], heads["b"]]
    assert [name for name, _ in heads.items()] == ["a", "b"]
    heads.update({"c": nn.ReLU()})
    del heads["a"]
    assert list(heads) == ["b", "c"]
    np.testing.assert_array_equal(heads["c"](mr.tensor([-1.0, 2.0])).numpy(), [0, 2])
    with pytest.raises(ArgumentError, match="name that the class does not use itself, got 'keys'"):
        heads["keys"] = nn.ReLU()

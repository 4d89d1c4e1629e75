import copy
import pickle

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, CheckpointError, MiniresError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.scale = nn.Parameter(mr.ones(4))
        self.register_buffer("steps", mr.zeros(1))
        self.register_buffer("scratch", mr.zeros(1), persistent=False)
        self.fc2 = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.fc2(self.fc1(x).tanh() * self.scale)


def names(pairs):
    return [name for name, _ in pairs]


def test_members_in_definition_order_own_before_children():
    net = Net()
    assert names(net.named_parameters()) == ["scale", "fc1.weight", "fc1.bias", "fc2.weight"]
    assert names(net.named_parameters(recurse=False)) == ["scale"]
    assert names(net.named_buffers()) == ["steps", "scratch"]
    assert names(net.named_children()) == ["fc1", "fc2"]
    assert names(net.named_modules()) == ["", "fc1", "fc2"]
    assert list(net.state_dict()) == ["scale", "steps", "fc1.weight", "fc1.bias", "fc2.weight"]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in net.parameters())


def test_shared_parameters_and_modules_are_yielded_once_but_saved_under_each_name():
    net = nn.Module()
    net.a = nn.Linear(2, 2, bias=False)
    net.b = net.a
    net.c = nn.Linear(2, 2, bias=False)
    net.c.weight = net.a.weight
    assert names(net.named_parameters()) == ["a.weight"]
    assert names(net.named_children()) == ["a", "c"]
    assert len(list(net.modules())) == 3
    assert list(net.state_dict()) == ["a.weight", "b.weight", "c.weight"]
    assert names(net.named_parameters(remove_duplicate=False)) == [
        "a.weight",
        "b.weight",
        "c.weight",
    ]


def test_parameter_none_and_deletion_unregister():
    net = Net()
    net.scale = None
    assert "scale" not in net.state_dict()
    del net.steps
    assert names(net.named_buffers()) == ["scratch"]
    net.fc2 = None
    assert names(net.named_children()) == ["fc1"]


def test_assigning_a_plain_tensor_or_number_is_refused_where_it_would_unregister():
    net = Net()
    with pytest.raises(ArgumentError, match=r"Net\.scale: expected a Parameter.*Tensor.*\(4,\)"):
        net.scale = mr.zeros(4)
    with pytest.raises(ArgumentError, match=r"Net\.steps: expected a Tensor or None.*got int"):
        net.steps = 3
    net.steps = mr.ones(1)
    assert net.state_dict()["steps"].item() == 1
    net.plain = mr.zeros(2)  # an attribute that was never announced stays an attribute
    assert "plain" not in net.state_dict()


@pytest.mark.parametrize("name", ["", "a.b", 3, "forward", "training", "train"])
def test_illegal_member_names(name):
    with pytest.raises(ArgumentError, match="name of a module: expected"):
        nn.Module().add_module(name, nn.Identity())


def test_registering_the_wrong_kind():
    net = nn.Module()
    with pytest.raises(ArgumentError, match="register_parameter: expected a Parameter or None"):
        net.register_parameter("w", mr.zeros(1))
    with pytest.raises(ArgumentError, match="register_buffer: expected a Tensor or None, got list"):
        net.register_buffer("w", [1.0])
    with pytest.raises(ArgumentError, match="add_module: expected a Module or None, got function"):
        net.add_module("w", lambda x: x)


def test_missing_super_init_says_so():
    class Forgot(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(1, 1)

    class Empty(nn.Module):
        def __init__(self):
            pass

    with pytest.raises(AttributeError, match=r"Forgot: assigning fc before .*super\(\)\.__init__"):
        Forgot()
    with pytest.raises(MiniresError, match=r"Empty: reading .*super\(\)\.__init__\(\)"):
        Empty()(1)


def test_unknown_attribute_names_the_nearest():
    net = Net()
    with pytest.raises(AttributeError, match=r"Net has no attribute 'fc_1'; did you mean fc1\?"):
        _ = net.fc_1
    assert not hasattr(net, "zzzzzz")
    assert getattr(net, "zzzzzz", 5) == 5


def test_error_inside_a_property_is_not_hidden():
    class Broken(nn.Module):
        @property
        def width(self):
            return self.training.missing

    with pytest.raises(AttributeError, match="'bool' object has no attribute 'missing'"):
        _ = Broken().width


def test_dir_lists_members_but_no_numbers():
    listed = dir(nn.Sequential(nn.Identity()))
    assert "0" not in listed
    assert "forward" in listed
    assert "fc1" in dir(Net())


def test_train_eval_apply_and_freezing():
    net = Net()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())
    with pytest.raises(ArgumentError, match=r"Module\.train: expected mode .*, got 'no'"):
        net.train("no")
    visited = []
    assert net.apply(visited.append) is net
    assert visited == [net.fc1, net.fc2, net]
    net.requires_grad_(False)
    assert not any(param.requires_grad for param in net.parameters())


def test_zero_grad():
    net = Net()
    net(mr.ones(2, 3)).sum().backward()
    assert all(param.grad is not None for param in net.parameters())
    net.zero_grad()
    assert all(param.grad is None for param in net.parameters())


def test_double_and_float_keep_identity_values_and_gradients():
    net = nn.BatchNorm2d(3)
    params = list(net.parameters())
    net.weight.grad = mr.tensor([1.0, 2.0, 3.0])
    assert net.double() is net
    assert [p is q for p, q in zip(params, net.parameters())] == [True, True]
    assert net.weight.dtype == net.weight.grad.dtype == net.running_var.dtype == np.float64
    assert net.num_batches_tracked.dtype == np.int64
    assert net.weight.grad.tolist() == [1, 2, 3]
    assert net.float().weight.dtype == np.float32
    assert net.to("float64").to("cpu").weight.dtype == np.float64
    with pytest.raises(ArgumentError, match=r"Module\.to: expected a device or a float dtype"):
        net.to("int32")


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match=r"Module does not define forward\(\)"):
        nn.Module()(1)


# ------------------------------------------------------------------ state dicts


def test_state_dict_round_trip_and_sharing():
    a, b = Net(), Net()
    state = a.state_dict()
    assert not any(value.requires_grad for value in state.values())
    assert b.load_state_dict(state) == ([], [])
    for name, value in b.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name].numpy())
    before = b.fc1.weight.data.copy()
    a.fc1.weight.data[...] += 1  # b holds copies, the state dict shares memory with a
    np.testing.assert_array_equal(b.fc1.weight.data, before)
    np.testing.assert_array_equal(state["fc1.weight"].numpy(), before + 1)


def test_load_numpy_arrays_of_another_precision_keeps_dtype_and_parameter_objects():
    net = Net()
    weight = net.fc1.weight
    state = {k: np.full(v.shape, 0.5) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    assert net.fc1.weight is weight
    assert weight.dtype == np.float32
    assert (weight.data == 0.5).all()


def test_load_is_seen_by_saved_tensor_versions():
    net = nn.Linear(2, 2)
    x = mr.ones(1, 2)
    x.requires_grad = True
    loss = net(x).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(MiniresError, match="changed in place"):
        loss.backward()


def test_load_mismatch_lists_everything_and_modifies_nothing():
    net = Net()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    state = {k: v.numpy() + 1 for k, v in net.state_dict().items()}
    del state["scale"]
    state["extra"] = np.zeros(1)
    state["fc2.weight"] = np.zeros((4, 2), np.float32)
    state["steps"] = np.zeros(1, np.int64)
    with pytest.raises(CheckpointError) as caught:
        net.load_state_dict(state)
    assert str(caught.value) == (
        "load_state_dict: 4 of 5 keys of Net match, nothing was loaded\n"
        "  missing (1): scale\n"
        "  unexpected (1): extra\n"
        "  wrong shape or kind of dtype (2): "
        "steps (model (1,) float32, given (1,) int64), "
        "fc2.weight (model (2, 4) float32, given (4, 2) float32)"
    )
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_load_not_strict_returns_names_but_never_forces_shapes():
    net = Net()
    result = net.load_state_dict({"scale": np.full(4, 7.0), "other": np.zeros(1)}, strict=False)
    assert result.missing_keys == ["steps", "fc1.weight", "fc1.bias", "fc2.weight"]
    assert result.unexpected_keys == ["other"]
    assert net.scale.tolist() == [7, 7, 7, 7]
    with pytest.raises(CheckpointError, match="wrong shape"):
        net.load_state_dict({"scale": np.zeros(5)}, strict=False)


def test_load_with_module_prefix_says_what_stripping_would_do():
    net = Net()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match="0 of 5 keys of Net match") as caught:
        net.load_state_dict(state)
    assert 'every key starts with "module."' in str(caught.value)
    assert "stripping it matches 5 of 5" in str(caught.value)


def test_long_lists_of_keys_are_cut():
    state = {f"k{i}": np.zeros(1) for i in range(100)}
    with pytest.raises(CheckpointError, match=r"unexpected \(100\): k0, .*k19, and 80 more"):
        Net().load_state_dict(state)


# ------------------------------------------------------------------ hooks


def test_forward_hooks_see_and_replace():
    layer = nn.Linear(2, 2)
    x = mr.ones(1, 2)
    seen = []
    expected = layer(x)
    first = layer.register_forward_hook(lambda m, args, out: seen.append((m, args, out)))
    layer(x)
    assert seen[0][0] is layer
    assert seen[0][1][0] is x
    np.testing.assert_array_equal(seen[0][2].detach().numpy(), expected.detach().numpy())
    second = layer.register_forward_hook(lambda m, args, out: out * 2)
    np.testing.assert_allclose(layer(x).detach().numpy(), 2 * expected.detach().numpy())
    second.remove()
    first.remove()
    first.remove()  # harmless
    layer(x)
    assert len(seen) == 2


def test_forward_pre_hook_replaces_the_arguments():
    layer = nn.Linear(2, 2)
    handle = layer.register_forward_pre_hook(lambda m, args: args[0] * 0)
    np.testing.assert_array_equal(layer(mr.ones(3, 2)).detach().numpy()[1], layer.bias.data)
    handle.remove()
    assert not np.allclose(layer(mr.ones(3, 2)).detach().numpy()[1], layer.bias.data)


def test_backward_hook_sees_only_what_flows_through_the_module():
    layer = nn.Linear(3, 2, bias=False)
    x = mr.randn(4, 3)
    x.requires_grad = True
    seen = []
    handle = layer.register_full_backward_hook(lambda m, gx, gy: seen.append((m, gx, gy)))
    upstream = mr.randn(4, 2)
    ((layer(x) * upstream).sum() + x.sum()).backward()
    ((module, (gx,), (gy,)),) = seen
    assert module is layer
    np.testing.assert_allclose(gy.numpy(), upstream.numpy())
    through = upstream.numpy() @ layer.weight.data
    np.testing.assert_allclose(gx.numpy(), through, rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), through + 1, rtol=1e-5)  # x has a second user
    handle.remove()
    layer(x).sum().backward()
    assert len(seen) == 1


def test_backward_hook_replaces_the_input_gradient():
    layer = nn.Linear(3, 2)
    x = mr.ones(1, 3)
    x.requires_grad = True
    layer.register_full_backward_hook(lambda m, gx, gy: (gx[0] * 10,))
    layer(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy()[0], 10 * layer.weight.data.sum(0), rtol=1e-5)


def test_backward_hook_of_a_first_layer_has_no_input_gradient():
    layer = nn.Linear(3, 2)
    seen = []
    layer.register_full_backward_hook(lambda m, gx, gy: seen.append((gx, gy[0].tolist())))
    layer(mr.ones(1, 3)).sum().backward()
    assert seen == [((None,), [[1, 1]])]


def test_backward_hook_with_two_inputs():
    class Product(nn.Module):
        def forward(self, a, b):
            return a * b

    a, b = mr.tensor([2.0]), mr.tensor([5.0])
    a.requires_grad = b.requires_grad = True
    product, seen = Product(), []
    handle = product.register_full_backward_hook(lambda m, gx, gy: seen.append(gx))
    product(a, b).sum().backward()
    assert [[g.item() for g in gx] for gx in seen] == [[5, 2]]
    handle.remove()
    product.register_full_backward_hook(lambda m, gx, gy: gx[0])
    with pytest.raises(ArgumentError, match="exactly one differentiable input"):
        product(a, b).sum().backward()


def test_backward_hooks_are_idle_without_gradients():
    layer = nn.Linear(1, 1)
    layer.register_full_backward_hook(lambda m, gx, gy: pytest.fail("called"))
    with mr.no_grad():
        layer(mr.ones(1, 1))


# ------------------------------------------------------------------ copies and text


def double_output(_module, _args, out):
    return out * 2


def test_deepcopy_and_pickle_are_independent_and_equal():
    net = Net().eval()
    net.fc1.register_forward_hook(double_output)
    net.fc2.weight.requires_grad = False
    x = mr.ones(2, 3)
    expected = net(x).detach().numpy()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other.scale, nn.Parameter)
        assert not other.training
        assert [p.requires_grad for p in other.parameters()] == [True, True, True, False]
        assert names(other.named_buffers()) == ["steps", "scratch"]
        np.testing.assert_array_equal(other(x).detach().numpy(), expected)
        other.scale.data[...] = 0
        np.testing.assert_array_equal(net(x).detach().numpy(), expected)


def test_deepcopy_keeps_sharing():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    other = copy.deepcopy(net)
    assert other[1].weight is other[0].weight
    assert other[0].weight is not net[0].weight


def test_repr_is_nested():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Sequential(nn.ReLU()))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Parameter(mr.ones(1))).startswith("Parameter([1.]")

"""Gradients that are added up over ranks, and networks that are compared between them.

One job of two ranks does everything; each test looks at one thing of what it told.
"""

import json
import math

import numpy as np
import pytest
from distributed import harness

import minires as mr
from minires.distributed.reducer import Reducer
from minires.errors import ArgumentError

PROGRAM = """
import json
import numpy as np
import minires as mr
from minires import nn, optim
from minires.distributed import current_group
from minires.distributed.reducer import Reducer
from minires.distributed.same import broadcast_state, check_same_model, check_same_values

group = current_group()
rng = np.random.default_rng(group.rank)
told = {}


def leaves():
    arrays = [np.zeros((4, 3)), np.zeros((), np.float32), np.zeros((0, 2)), np.zeros(5, np.float32)]
    return [mr.tensor(a, requires_grad=True) for a in [*arrays, np.zeros((2, 6)), np.zeros(7)]]


def filled(parameters, skip=()):
    for number, p in enumerate(parameters):
        gradient = mr.tensor(rng.standard_normal(p.shape).astype(p.dtype))
        p.grad = None if number in skip else gradient
    return [None if p.grad is None else p.grad.numpy().copy() for p in parameters]


def summed(own):
    every = group.gather_objects(own)
    parts = [[a for a in arrays if a is not None] for arrays in zip(*every)]
    return [sum(p[1:], p[0]) if p else None for p in parts]


def same(parameters, expected):
    for p, e in zip(parameters, expected):
        if (p.grad is None) != (e is None) or (e is not None and (p.grad.numpy() != e).any()):
            return False
    return True


def all_ranks(value):
    return group.gather_objects(value)


def error(function, *args):
    try:
        function(*args)
    except mr.errors.MiniresError as raised:
        return f"{type(raised).__name__}: {raised}"


for cap in (8, 1e-4, 1e-9):
    parameters = leaves()
    reducer = Reducer(parameters, cap)
    for again in range(2):
        expected = summed(filled(parameters))
        memory = [p.grad.numpy() for p in parameters]
        counts = [p.grad._version.count for p in parameters]
        reducer.reduce()
        kept = all(p.grad.numpy() is m for p, m in zip(parameters, memory))
        counted = all(p.grad._version.count > c for p, c in zip(parameters, counts))
        told[f"sums {cap} {again}"] = all_ranks([same(parameters, expected), kept, counted])
    told[f"buckets {cap}"] = all_ranks([[*map(lambda p: [*p.shape], b.parameters)]
                                         for b in reducer._buckets])

parameters = leaves()
skip = [(0, 1, 3), (0, 3, 4)][group.rank]
expected = summed(filled(parameters, skip))
Reducer(parameters).reduce()
told["missing"] = all_ranks([same(parameters, expected), [p.grad is None for p in parameters]])

# a lazy tensor that is to read a gradient gets the values of before
p = mr.zeros(6, 5, requires_grad=True)
base = rng.standard_normal((5, 6)).astype(np.float32)
p.grad = mr.tensor(base).T  # not in one piece
before, reader = base.T.copy(), p.grad.relu()
Reducer([p]).reduce()
told["strides"] = all_ranks((p.grad.numpy() == summed([before])[0]).all().item())
told["readers"] = all_ranks((reader.numpy() == np.maximum(before, 0)).all().item())

p = mr.zeros(4, requires_grad=True)
p.grad = mr.tensor(np.float32(group.rank + 1)).expand(4)  # read-only
Reducer([p]).reduce()
told["read-only"] = all_ranks(p.grad.tolist())

x = mr.tensor([1.0, 2.0], requires_grad=True)
(x * x * x).sum().backward(create_graph=True)
Reducer([x]).reduce()
told["history"] = all_ranks([x.grad.tolist(), x.grad.requires_grad])

p, q = mr.zeros(3, requires_grad=True), mr.zeros(3, requires_grad=True)
p.grad = q.grad = mr.ones(3)
Reducer([p, q], 1e-9).reduce()
told["shared gradient"] = all_ranks([p.grad.tolist(), q.grad.tolist()])

p = mr.zeros(3, requires_grad=True)
p.grad = mr.tensor([np.inf, np.nan, 1.0]) if group.rank else mr.ones(3)
Reducer([p]).reduce()
told["not finite"] = all_ranks([repr(v) for v in p.grad.tolist()])


# a captured step, cut in two, with the reduction between
def trained(captured):
    mr.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    reducer = Reducer(net.parameters())
    draws = np.random.default_rng(5 + group.rank)

    def learn(x, y):
        optimizer.zero_grad()
        loss = mr.ops.cross_entropy(net(x), y)
        loss.backward()
        return loss

    update, plain = optimizer.step, learn
    if captured:
        learn, update = mr.capture(learn, net, optimizer), mr.capture(update, optimizer)
    for _ in range(8):
        x = mr.tensor(draws.standard_normal((5, 6)).astype(np.float32))
        learn(x, mr.tensor(draws.integers(0, 3, 5)))
        reducer.reduce()
        update()
    check_same_values(net.named_parameters())
    if captured:
        told["recordings"] = all_ranks([repr(learn).split("=")[1], repr(update).split("=")[1]])
        inside = mr.capture(lambda: reducer.reduce(), net, optimizer)
        inside(), inside()  # as it is, the first finds that gradients need copies
        told["inside"] = all_ranks(error(inside))
    return [p.detach().numpy().tolist() for p in net.parameters()]


told["captured"] = all_ranks(trained(True) == trained(False))


# in a group of one
with mr.distributed.alone():
    p = mr.zeros(2, requires_grad=True)
    p.grad = mr.ones(2)
    Reducer([p]).reduce()
    check_same_model([("p", mr.zeros(2 + group.rank))])
    check_same_values([("p", mr.full((2,), group.rank))])
    broadcast_state([p.grad], 1)
    told["alone"] = p.grad.tolist()

# networks that are the same, or not
a, other = mr.zeros(2, 3), mr.zeros(3, 2)
named = {
    "shape": [("a", a), ("b", other if group.rank else a)],
    "name": [("a", a), ("c" if group.rank else "b", a)],
    "dtype": [("a", a.double() if group.rank else a)],
    "frozen": [("a", mr.zeros(2, requires_grad=group.rank == 0))],
    "fewer": [("a", a)] + [("b", a)] * (group.rank == 0),
    "more": [("a", a)] + [("b", a)] * (group.rank == 1),
    "same": [("a", a)],
}
for name, pairs in named.items():
    told[f"model {name}"] = all_ranks(error(check_same_model, pairs))
last_bit = np.array([1, np.nextafter(1, 2) if group.rank else 1])
negative = np.zeros(2) * (-1) ** group.rank
values = {
    "same": [("a", a), ("n", mr.tensor(np.array(7))), ("none", mr.zeros(0))],
    "bit": [("a", a), ("b", mr.tensor(last_bit)), ("c", mr.tensor(last_bit))],
    "zero": [("z", mr.tensor(negative))],
}
for name, pairs in values.items():
    told[f"values {name}"] = all_ranks(error(check_same_values, pairs))

draw = rng.standard_normal((4, 6))
state = [
    mr.tensor(draw, requires_grad=True), mr.tensor(np.array(group.rank + 40)),
    mr.tensor(draw.astype(np.float32)).T[::2], mr.tensor(draw > 0), mr.zeros(0, 3),
]
memory = [t.data for t in state]
version = state[0]._version.count
broadcast_state(state, 1)
told["broadcast"] = all_ranks([
    [t.detach().numpy().tolist() for t in state],
    all(t.data is m for t, m in zip(state, memory)),
    state[0]._version.count - version,
])
refused = [mr.full((2,), float(group.rank)), mr.tensor(1.0).expand(3)]
told["refused"] = all_ranks([error(broadcast_state, refused), refused[0].tolist()])

if group.rank == 0:
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    return json.loads(harness.script(2, PROGRAM).passed())


@pytest.mark.parametrize("cap", [8, 1e-4, 1e-9])
@pytest.mark.parametrize("again", [0, 1])
def test_gradients_become_their_sums_in_the_same_memory(told, cap, again):
    """Of several dtypes and sizes, empty ones and scalars too; and their versions count on."""
    assert told[f"sums {cap} {again}"] == [[True, True, True]] * 2


def test_the_last_parameters_fill_the_first_buckets_dtypes_apart(told):
    assert told["buckets 8"] == [[[[7], [2, 6], [0, 2], [4, 3]], [[5], []]]] * 2
    assert told["buckets 0.0001"] == [[[[7]], [[2, 6], [0, 2]], [[4, 3]], [[5], []]]] * 2
    assert len(told["buckets 1e-09"][0]) == 6


def test_a_gradient_of_none_counts_as_zero_and_stays_none_if_no_rank_has_one(told):
    assert told["missing"] == [[True, [True, False, False, True, False, False]]] * 2


def test_gradients_in_any_memory_order(told):
    assert told["strides"] == [True, True]
    assert told["readers"] == [True, True]


def test_a_gradient_that_cannot_be_written_is_replaced(told):
    assert told["read-only"] == [[3.0] * 4] * 2
    assert told["history"] == [[[6.0, 24.0], False]] * 2


def test_one_gradient_of_two_parameters_is_added_up_once(told):
    assert told["shared gradient"] == [[[2.0] * 3] * 2] * 2


def test_infinity_and_nan_reach_all_ranks(told):
    assert told["not finite"] == [["inf", "nan", "2.0"]] * 2


def test_a_captured_update_reads_the_sums(told):
    assert told["captured"] == [True, True]
    assert told["recordings"] == [["1)", "1)"]] * 2


def test_a_reduction_inside_of_a_captured_function_is_refused(told):
    expected = (
        "CaptureError: distributed: expected gradients to be added up outside of a captured "
        "function, got a reduction inside. fit(capture=True) captures what is before the "
        "reduction and what is after it."
    )
    assert told["inside"] == [expected] * 2


def test_in_a_group_of_one_nothing_happens(told):
    assert told["alone"] == [1.0, 1.0]
    p = mr.zeros(2, requires_grad=True)
    p.grad = mr.ones(2)
    Reducer([p]).reduce()
    assert p.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("what", "difference"),
    [
        ("shape", "b (2, 3) float32 on all ranks, got b (3, 2) float32 on rank 1"),
        ("name", "b (2, 3) float32 on all ranks, got c (2, 3) float32 on rank 1"),
        ("dtype", "a (2, 3) float32 on all ranks, got a (2, 3) float64 on rank 1"),
        ("frozen", "a (2,) float32 on all ranks, got a (2,) float32 (no gradient) on rank 1"),
        ("fewer", "b (2, 3) float32 (no gradient) on all ranks, got nothing on rank 1"),
        ("more", "1 tensors on all ranks, got another, b (2, 3) float32 (no gradient), on rank 1"),
    ],
)
def test_another_network_on_a_rank_is_named(told, what, difference):
    difference = difference.replace("(2, 3) float32 on", "(2, 3) float32 (no gradient) on")
    difference = difference.replace("(3, 2) float32 on", "(3, 2) float32 (no gradient) on")
    difference = difference.replace("float64 on", "float64 (no gradient) on")
    expected = f"DistributedError: distributed: expected {difference}. "
    expected += "All ranks must build the same network, with the same options."
    assert told[f"model {what}"] == [expected] * 2
    assert told["model same"] == [None, None]


@pytest.mark.parametrize(("what", "name"), [("bit", "b"), ("zero", "z")])
def test_other_values_on_a_rank_are_named(told, what, name):
    expected = (
        f"DistributedError: distributed: expected the same {name} on all ranks, got another on "
        "rank 1. Something changed it on one rank alone; set parameters and buffers on all, or "
        "on none."
    )
    assert told[f"values {what}"] == [expected] * 2
    assert told["values same"] == [None, None]


def test_all_ranks_get_the_state_of_one_in_the_memory_that_they_have(told):
    (zeroth, kept, written), (first, kept_too, unwritten) = told["broadcast"]
    assert zeroth == first
    assert zeroth[1] == 41
    assert zeroth[2] == np.array(zeroth[0], np.float32).T[::2].tolist()
    assert zeroth[3] == (np.array(zeroth[0]) > 0).tolist()
    assert (kept, kept_too) == (True, True)
    assert (written, unwritten) == (1, 0)


def test_a_state_that_cannot_be_written_is_refused_before_anything_is_sent(told):
    (error, values), (error_too, values_too) = told["refused"]
    assert error == error_too
    assert error.startswith("ArgumentError: broadcast: a tensor of shape (3,) looks at read-only")
    assert (values, values_too) == ([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("parameters", "got"),
    [
        ([np.zeros(2)], "an array of shape (2,), float64"),
        ([mr.zeros(2, requires_grad=True) * 2], "a Tensor of shape (2,), float32"),
        ([mr.arange(3)], "a Tensor of shape (3,), int64"),
    ],
)
def test_parameters_are_leaves_of_floats(parameters, got):
    with pytest.raises(ArgumentError) as caught:
        Reducer(parameters)
    text = f"Reducer: expected leaf tensors of floats as parameters, got {got}"
    assert str(caught.value) == text


@pytest.mark.parametrize("cap", [0, -1, math.inf, math.nan, "8"])
def test_a_bucket_has_a_size(cap):
    with pytest.raises(ArgumentError, match="Reducer: expected bucket_cap_mb"):
        Reducer([mr.zeros(2, requires_grad=True)], cap)

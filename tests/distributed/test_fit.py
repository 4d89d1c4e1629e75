"""``fit`` on several ranks: what one process computes, the same bits everywhere, errors on all."""

import json
import math
import warnings

import numpy as np
import pytest
from distributed import harness

COMMON = """
import hashlib
import importlib.util
import json
import os
import sys
import warnings

import numpy as np

import minires as mr
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.distributed import current_group
from minires.models import cifar_resnet
from minires.optim.swa_utils import AveragedModel, get_ema_avg_fn
from minires.train import (
    Callback,
    CSVLogger,
    ModelCheckpoint,
    TensorBoard,
    evaluate,
    fit,
    train_epoch,
)


def images(n, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 9, 9)).astype(dtype), rng.integers(0, 10, n)


def loaders(n=101, batch=32, dtype="float32", held=45):
    train = DataLoader(TensorDataset(*images(n, dtype)), batch, shuffle=True)
    return train, DataLoader(TensorDataset(*images(held, dtype, 1)), 22)


def network(dtype="float32", sync=False, silu=False, dropout=0.0, seed=7):
    # other weights and draws on every rank: those of rank 0 become those of all
    mr.manual_seed(seed + current_group().rank)
    net = cifar_resnet(8, dropout=dropout)
    if silu:
        for module in net.modules():
            if "relu" in module._modules:
                module.relu = nn.SiLU()
    if sync:
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return net.double() if dtype == "float64" else net


def sgd(net, lr=0.1):
    return optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def run(net, epochs=2, parts=None, optimizer=None, **options):
    parts = parts or loaders()
    optimizer = optimizer or sgd(net)
    return fit(net, *parts, optimizer, epochs=epochs, progress=False, **options)


def arrays(net):
    return {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}


def digest(*nets):
    found = hashlib.blake2b(digest_size=8)
    for net in nets:
        for name, array in arrays(net).items():
            found.update(name.encode() + array.tobytes())
    return found.hexdigest()


def rounded(rows):  # without seconds, which no two runs share
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def twenty_steps(dtype, sync=True):
    net, steps = network(dtype, sync=sync, silu=dtype == "float32"), []
    rows = run(net, 4, loaders(293, 64, dtype), on_step=lambda step, loss: steps.append(loss))
    return arrays(net), steps, rounded(rows)
"""

RIGHT = (
    COMMON
    + """
group, told = current_group(), {}
for dtype in ("float64", "float32"):
    state, steps, rows = twenty_steps(dtype)
    if group.rank == 0:
        np.savez(f"{dtype}.npz", **state)
    told[dtype] = steps, rows
    told[dtype + " same"] = group.gather_objects((steps, rows))

checkpoint = sys.argv[1] if group.rank == 0 else "/proc/a/folder/that/only/rank/0/sees"


def digests(*nets, rows=()):
    return group.gather_objects((digest(*nets), rounded(rows)))


whole = network(dropout=0.2)
seen, states = [], []
rows = run(
    whole,
    watch=lambda r: seen.append((r.training, r.loss, r.error, r.batch)),
    on_step=lambda step, loss: states.append(mr.random.get_state()["state"]["state"]),
)
told["drawn"] = group.gather_objects(states)
told["whole"] = digests(whole, rows=rows)
told["seconds"] = group.gather_objects([row["seconds"] for row in rows])
told["running"], told["random"] = group.gather_objects(seen), group.gather_objects(
    str(mr.random.get_state()))
run(network(dropout=0.2), 1, checkpoint=checkpoint)
parts = network(dropout=0.2, seed=99)
run(parts, checkpoint=checkpoint, resume=True)
told["resumed"] = digests(parts)
x, y = images(37, "float64", 2)
norm = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(x[0].size, 10)).double()
train_epoch(norm, [(x, y)], sgd(norm))
told["statistics"] = group.gather_objects([b.tolist() for b in norm[0].buffers()])
captured = network(dropout=0.2)
run(captured, capture=True)
told["captured"] = digests(captured)
sync = [network(sync=True), network(sync=True)]
for net, capture in zip(sync, (False, True)):
    run(net, capture=capture)
told["sync"] = digests(sync[0]), digests(sync[1])

averaged, net = AveragedModel(network(), get_ema_avg_fn(0.9), use_buffers=True), network()
rows = run(net, 1, averaged=averaged)
told["averaged"] = digests(net, averaged, rows=rows)

# a loop of one's own: each epoch another order, evaluation by each rank or by one alone
net, losses = network(), []
train, test = loaders()
optimizer = sgd(net)
for _ in range(2):
    losses.append(train_epoch(net, train, optimizer).loss)
told["own loop"] = digests(net), losses, train.epoch, digests(whole)
if group.rank == 0:
    told["alone"] = evaluate(net, test).loss
shard = DataLoader(test.dataset, 20, shard=(group.rank, group.size))
told["together"] = group.gather_objects(evaluate(net, shard).loss)

# batches of any other kind, the last one uneven
x, y = images(37, "float32")
listed = [(x[:22], y[:22]), (x[22:], y[22:])]
net, twin = network(), network()
run(net, 1, (listed, listed))
stock = DataLoader(TensorDataset(x, y), 22)
run(twin, 1, (stock, stock))
told["lists"] = digests(net), digests(twin)


class Half:
    shard = (group.rank, group.size)

    def __iter__(self):
        for a, b in listed:
            yield np.array_split(a, 2)[group.rank], np.array_split(b, 2)[group.rank]


twin = network()
run(twin, 1, (Half(), listed))
told["own shard"] = digests(net), digests(twin)


class Stop(Callback):
    def on_epoch_end(self, run, row):
        if group.rank == 1 and row["epoch"] == 2:
            run.stop("rank 1 has had enough")


callbacks = [Stop(), CSVLogger("table.csv"), ModelCheckpoint("best.safetensors")]
if importlib.util.find_spec("tensorboardX"):
    callbacks.append(TensorBoard("events"))
os.makedirs(f"of_rank_{group.rank}")
os.chdir(f"of_rank_{group.rank}")
told["stopped"] = group.gather_objects(len(run(network(), 5, callbacks=callbacks)))
os.chdir("..")
if group.rank == 0:
    json.dump(told, open("told.json", "w"))
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def one():
    """The same functions in this process, which is alone, and what it computes."""
    names = {}
    exec(COMMON, names)
    names["steps"] = {t: names["twenty_steps"](t, sync=False) for t in ("float64", "float32")}
    return names


@pytest.fixture(scope="module")
def told(folder, one):  # after it: kernels that have to be compiled are, without haste
    done = harness.script(2, RIGHT, folder / "run.safetensors", cwd=folder, timeout=180)
    assert done.rc == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12), ("float32", 2e-6)])
def test_two_ranks_compute_what_one_process_does(told, one, folder, dtype, most):
    """20 steps, each epoch ends with a batch of 37 = 19 + 18. In float32 with SiLU in place of
    ReLU: rounding flips the gates of ReLU, in one process too."""
    state, steps, rows = one["steps"][dtype]
    theirs = np.load(folder / f"{dtype}.npz")
    assert [*theirs] == [*state]
    assert len(steps) == 20
    differences = {name: np.abs(state[name] - theirs[name]).max() for name in state}
    assert max(differences.values()) < most, differences
    np.testing.assert_allclose(told[dtype][0], steps, rtol=most)
    for own, row in zip(rows, told[dtype][1], strict=True):
        assert own["train_error"] == row["train_error"]
        assert own["test_loss"] == pytest.approx(row["test_loss"], rel=10 * most)


@pytest.mark.parametrize("what", ["float64 same", "float32 same", "whole", "averaged"])
def test_all_ranks_have_the_same_bits_and_the_same_rows(told, what):
    first, second = told[what]
    assert first == second


@pytest.mark.parametrize("what", ["resumed", "captured"])
def test_bits_are_those_of_a_run_that_was_never_stopped(told, what):
    assert [bits for bits, _ in told[what]] == [bits for bits, _ in told["whole"]]


def test_synchronised_norms_are_trained_as_they_are_where_others_are_captured(told):
    plain, captured = told["sync"]
    assert plain == captured


def test_each_rank_draws_for_itself_and_all_go_on_from_one_state(told):
    first, second = told["drawn"]
    assert len(first) == len(second) == 8
    assert not {*first} & {*second}
    assert told["random"][0] == told["random"][1]
    assert told["seconds"][0] == told["seconds"][1]


def test_what_is_told_after_each_batch_is_of_all_ranks(told):
    first, second = told["running"]
    assert first == second
    assert [batch for training, *_, batch in first if training][:4] == [32, 32, 32, 5]
    assert sum(batch for training, *_, batch in first if not training) == 2 * 45


def test_running_statistics_are_means_over_the_parts_of_all_ranks(told, one):
    x, _ = one["images"](37, "float64", 2)
    parts = np.array_split(x, 2)
    mean = np.mean([part.mean((0, 2, 3)) for part in parts], 0)
    var = np.mean([part.var((0, 2, 3), ddof=1) for part in parts], 0)
    for found in told["statistics"]:
        np.testing.assert_allclose(found[0], 0.1 * mean, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found[1], 0.9 + 0.1 * var, rtol=1e-12)
        assert found[2] == 1


def test_a_loop_of_ones_own_goes_through_the_epochs(told):
    bits, losses, epoch, _ = told["own loop"]
    assert bits[0] == bits[1]
    assert epoch == 2
    assert losses[0] != losses[1]


def test_evaluation_is_of_one_rank_or_of_the_shards_of_all(told):
    first, second = told["together"]
    assert first == second == pytest.approx(told["alone"], rel=1e-6)


@pytest.mark.parametrize("what", ["lists", "own shard"])
def test_batches_of_other_kinds_are_cut_alike(told, what):
    one, other = told[what]
    assert one[0] == one[1] == other[0] == other[1]


def test_one_rank_stops_all(told):
    assert told["stopped"] == [2, 2]


def test_rank_0_alone_writes_files(told, folder):
    there = {path.name for path in (folder / "of_rank_0").iterdir()}
    assert there >= {"table.csv", "best.safetensors"}
    assert [*(folder / "of_rank_1").iterdir()] == []


THREE = (
    COMMON
    + """
group, checkpoint = current_group(), sys.argv[1]
net = network()
rows = run(net, 1, loaders(n=37, batch=16, held=4))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    resumed = network(dropout=0.2)
    run(resumed, 3, checkpoint=checkpoint, resume=True)
said = [str(w.message) for w in caught]
told = group.gather_objects((digest(net, resumed), rounded(rows), said))
if group.rank == 0:
    print(json.dumps(told))
"""
)


def test_three_ranks_take_uneven_parts_and_go_on_where_two_were(told, one, folder):
    done = harness.script(3, THREE, folder / "run.safetensors", cwd=folder)
    assert done.rc == 0, done.stderr
    ranks = json.loads(done.stdout)
    assert len({bits for bits, _, _ in ranks}) == 1
    assert ranks[0][1] == ranks[1][1] == ranks[2][1]
    warned = [len(said) for _, _, said in ranks]
    assert warned == [1, 0, 0]
    assert "was on 2 ranks so far and goes on on 3 ranks" in ranks[0][2][0]


def test_one_process_goes_on_where_two_ranks_were(told, one, folder):
    net = one["network"](dropout=0.2)
    copy = folder / "copy.safetensors"
    copy.write_bytes((folder / "run.safetensors").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left to do that could differ
        one["run"](one["network"](dropout=0.2), 2, checkpoint=copy, resume=True)
    with pytest.warns(UserWarning, match="was on [23] ranks so far and goes on on 1 rank:"):
        rows = one["run"](net, 4, checkpoint=copy, resume=True)
    assert len(rows) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the file is one of a single process now
        one["run"](net, 5, checkpoint=copy, resume=True)
    assert math.isfinite(rows[-1]["train_loss"])

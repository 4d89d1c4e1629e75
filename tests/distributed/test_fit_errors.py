"""What is wrong on one rank of ``fit``: one text that names it, on all ranks, and no hang."""

import json

import pytest
from distributed import harness
from distributed.test_fit import COMMON

WRONG = (
    COMMON
    + """
group, told = current_group(), {}
odd = group.rank == 1  # the rank on which something is wrong


def refused(name, function):
    try:
        function()
        said = "nothing"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    told[name] = group.gather_objects(said)


class Loader:
    '''Batches, in which something may be wrong on one rank, at the third.'''

    shard = (group.rank, group.size)

    def __init__(self, wrong):
        self.wrong = wrong

    def __iter__(self):
        for number in range(4):
            x, y = images(8, "float32", number)
            if number == 2 and odd:
                if self.wrong == "ends":
                    return
                if self.wrong == "fails":
                    raise OSError("the disk is gone")
                if self.wrong == "nan":
                    x[3, 0, 0, 0] = np.nan
                if self.wrong == "shape":
                    x = x[:, :2]
            yield x, y


train, test = loaders()
for wrong in ("ends", "fails", "nan", "shape"):
    refused(wrong, lambda wrong=wrong: run(network(), 1, (Loader(wrong), test)))
    refused(f"{wrong}, tested", lambda wrong=wrong: run(network(), 1, (train, Loader(wrong))))
refused("again", lambda: run(network(), 1))  # all is well again


def diverging(logits, labels):
    scale = float("nan") if odd and logits.shape[0] == 2 else 1.0
    return nn.functional.cross_entropy(logits, labels) * scale


net = network()
before = digest(net)
refused("loss", lambda: run(net, 1, ([[*images(5, "float32")]], test), loss_fn=diverging))

listed = [images(8, "float32", group.rank), images(8, "float32")]
refused("other batches", lambda: run(network(), 1, (listed, test)))
few = [images(8, "float32"), images(1, "float32")]
refused("few", lambda: run(network(), 1, (few, test)))
refused("few, later", lambda: run(network(), 1, ((batch for batch in few), test)))
refused("few of a loader", lambda: run(network(), 1, (loaders(33), test)[0]))
refused("few, tested", lambda: run(network(), 1, (train, few)))
odd_one = int(odd)
refused("epochs", lambda: run(network(), 1 + odd_one))
refused("config", lambda: run(network(), 1, config={"seed": 3, "lr": odd_one}))
refused("rate", lambda: (lambda net: run(net, 1, optimizer=sgd(net, 0.1 + odd_one)))(network()))
refused("data", lambda: run(network(), 1, loaders(64 + 2 * odd_one)))
drawn = DataLoader(train.dataset, 32, shuffle=True, generator=np.random.default_rng(odd_one))
refused("generator", lambda: run(network(), 1, (drawn, test)))
refused("model", lambda: run(cifar_resnet(8, num_classes=10 + odd_one), 1))
refused("lazy", lambda: run(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), 1))
refused("ddp", lambda: run(mr.distributed.DistributedDataParallel(network()), 1))


class Counter(nn.Module):
    '''Leaves the ranks with another buffer each.'''

    def __init__(self):
        super().__init__()
        self.net = network()
        self.register_buffer("seen", mr.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.seen = mr.tensor(float(group.rank))
        return self.net(x)


refused("out of step", lambda: run(Counter(), 1))
refused("out of step, one epoch", lambda: train_epoch(*(lambda n: (n, train, sgd(n)))(Counter())))
refused("folder", lambda: run(network(), 1, checkpoint="/proc/nowhere/x.safetensors"))
if group.rank == 0:
    json.dump(told, open("told.json", "w"))
"""
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    done = harness.script(2, WRONG, cwd=folder, timeout=90)
    assert done.rc == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


BY_ONE = {  # that rank says it, the other one after it
    "fails": ("OSError", "the disk is gone"),
    "fails, tested": ("OSError", "the disk is gone"),
    "nan": ("NaNError", "expected finite inputs, got nan at index (3, 0, 0, 0) (batch 2 of shape"),
    "nan, tested": ("NaNError", "expected finite inputs, got nan at index (3, 0, 0, 0) (batch 2"),
    "shape": ("ShapeError", "CifarNet: expected images"),
    "shape, tested": ("ShapeError", "CifarNet: expected images"),
}


@pytest.mark.parametrize("name", BY_ONE)
def test_an_error_of_one_rank_is_raised_on_all_with_its_number(told, name):
    kind, text = BY_ONE[name]
    first, second = told[name]
    assert second.replace("epoch 1: ", "").startswith(f"{kind}: ")
    assert text in second
    of_minires = "DistributedError: rank 1: OSError" if kind == "OSError" else f"{kind}: "
    assert first.startswith(of_minires)
    assert "rank 1: " in first
    assert text in first


BY_ALL = {
    "ends": "DistributedError: train_epoch: expected as many batches on all ranks, got more on "
    "rank 0 and 2 on rank 1. A DataLoader without shard",
    "loss": "NaNError: epoch 1: train_epoch: expected a finite loss, got nan (step 0 of the",
    "other batches": "DistributedError: train_epoch: expected the same batches on all ranks, to be "
    "cut, got others on rank 1. Give the loader's order a seed.",
    "few": "ArgumentError: fit: expected a sample for each of 2 ranks, got a batch of 1 "
    "(train_loader). Use larger batches, drop_last=True, or fewer ranks.",
    "few, later": "ArgumentError: fit: expected a sample for each of 2 ranks, got a batch of 1",
    "few of a loader": "ArgumentError: DataLoader: expected a sample for each of 2 ranks, got a "
    "last batch of 1 (33 samples in batches of 32). Pass drop_last=True, or another batch_size.",
    "epochs": "DistributedError: fit: expected the same epochs on all ranks, got 1 on rank 0 and 2 "
    "on rank 1",
    "config": "DistributedError: fit: expected the same config lr on all ranks, got 0 on rank 0 "
    "and 1 on rank 1",
    "rate": "DistributedError: fit: expected the same lr of group 0 on all ranks, got 0.1 on rank "
    "0 and 1.1 on rank 1",
    "data": "DistributedError: fit: expected the same number of batches of train_loader on all "
    "ranks, got 2 on rank 0 and 3 on rank 1",
    "generator": "DistributedError: fit: expected the same generator of train_loader on all ranks, "
    "got {'state': 35399562948360463058890781895381311971, 'inc': ",
    "model": "DistributedError: distributed: expected fc.weight (10, 64) float32 on all ranks, got "
    "fc.weight (11, 64) float32 on rank 1",
    "lazy": "UninitializedError: UninitializedParameter: expected values, got none yet, since a ",
    "ddp": "ArgumentError: fit: expected a module that leaves gradients as they are, got "
    "DistributedDataParallel. Pass net.module: ",
    "out of step": "DistributedError: distributed: expected the same seen on all ranks, got "
    "another on rank 1",
    "out of step, one epoch": "DistributedError: distributed: expected the same seen on all ranks",
}


@pytest.mark.parametrize("name", BY_ALL)
def test_what_all_ranks_see_all_say(told, name):
    first, second = told[name]
    assert first == second
    assert first.startswith(BY_ALL[name])


@pytest.mark.parametrize("name", ["again", "ends, tested", "few, tested"])
def test_what_is_allowed_is_done(told, name):
    """In evaluation a rank may have fewer batches than another, or none of one."""
    assert told[name] == ["nothing"] * 2


def test_what_rank_0_cannot_write_all_are_told(told):
    first, second = told["folder"]
    assert first.startswith("CheckpointError: write: expected to be able to write x.safetensors")
    assert second.startswith("CheckpointError: rank 0: write: expected to be able to write")


ENDING = (
    COMMON
    + """
def failing(logits, labels):
    if current_group().rank == 1:
        raise ValueError("planted")
    return nn.functional.cross_entropy(logits, labels)


run(network(sync=True), 2, loss_fn=failing)
"""
)


def test_an_error_while_others_wait_in_the_middle_of_the_model_ends_the_job():
    done = harness.script(2, ENDING, timeout=40)
    assert done.ended_with(1)
    assert done.stderr.count("[rank 1 of 2] Traceback") == 1
    assert "ValueError: planted" in done.stderr
    assert "[rank 0 of 2]" not in done.stderr

"""What rank 0 does to hand networks out, without other processes: with a group and mail made up.

``tests/distributed/test_study.py`` does it with real ones.
"""

from __future__ import annotations

import json
import warnings
from collections import deque

import pytest
from harness import raises

from minires import cuda, environment
from minires.device import CPU
from minires.distributed import Group
from minires.errors import CheckpointError, DistributedError
from minires.study import PROTOCOLS, StudyConfig, resume_study, run_study, runner, spread, store
from minires.study.config import name_of, networks
from minires.study.network import Job, Order
from minires.study.record import Record, Silent
from minires.train.together import own_device

CONFIG = StudyConfig(depths=(8, 20), limit=32, protocol=PROTOCOLS["quick"].with_epochs(4))


class Told(Group):
    """A group of three, in which the other ranks give what a test wants."""

    size = 3

    def __init__(self, *others):
        self.others = others

    def gather_objects(self, value):
        return [value, *self.others]


@pytest.mark.parametrize("what", spread.FIXES)
def test_ranks_that_differ_are_named(what):
    facts = dict.fromkeys(spread.FIXES, "a")
    expected = f"study: expected the same {what} on all 3 ranks, got others on rank 2."
    with raises(DistributedError, expected, spread.FIXES[what]):
        spread.check_same(Told(facts, {**facts, what: "b"}), facts)
    spread.check_same(Told(facts, facts), facts)


def test_each_rank_gives_what_it_has_unless_one_fails():
    def fail():
        raise CheckpointError("planted")

    assert spread.agreed(Group(), int, "3") == 3
    with raises(CheckpointError, "planted"):
        spread.agreed(Group(), fail)
    given = []

    class Agreeing(Told):
        def agree(self, error=None):
            given.append(error)
            raise DistributedError("rank 2: planted")

    with raises(DistributedError, "rank 2: planted"):
        spread.agreed(Agreeing(), int, "3")
    with raises(DistributedError, "rank 2: planted"):
        spread.agreed(Agreeing(), fail)
    assert [type(error) for error in given] == [type(None), CheckpointError]


def test_cuda_is_a_gpu_for_each_rank_in_turn(monkeypatch):
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    group = Told()
    for rank, device in enumerate(["cuda:0", "cuda:1", "cuda:0"]):
        group.local_rank = rank
        assert own_device(group, "cuda") == device
        for same in ("cuda:0", "cpu", CPU):
            assert own_device(group, same) is same
    assert own_device(Group(), "cuda") == "cuda"


class Mail:
    """Workers that have trained a network as soon as they were sent it."""

    def __init__(self, size, fails=()):
        self.size, self.fails = size, fails
        self.sent, self.box = [], deque()

    def send(self, to, *content):
        self.sent.append((to, content))
        if content[0] == "train":
            order = content[-1]
            self.box.append((to, ("finished", order.key, {"rank": to})))
            if order.key in self.fails:
                self.box[-1] = (to, ("failed", ("CheckpointError", "planted")))
            self.box.append((to, ("free",)))

    def arrived(self):
        return self.box.popleft() if self.box else None

    def wait(self):
        return self.box.popleft()


class Listener:
    def __init__(self):
        self.runs = {}

    def finished(self, key, run):
        self.runs[key] = run


def a_leader(monkeypatch, mail):
    """A leader who trains at once, and the order in which networks are trained."""

    def train(job, order, listener):
        listener.finished(order.key, {"rank": 0})

    monkeypatch.setattr(spread, "_train", train)
    return spread._Leader(mail)


JOB = Job(CONFIG, (), (), CPU)


def orders(*costs, done=None):
    keys = networks(StudyConfig(depths=tuple(6 * n + 2 for n in range(1, 9)), kinds=("plain",)))
    done = done or [0] * len(costs)
    return [Order(*each) for each in zip(keys, costs, done)]


def test_the_network_with_most_work_left_goes_first(monkeypatch):
    mail, listener = Mail(3), Listener()
    # of its 4 epochs the most expensive one has done three
    given = orders(10, 30, 20, 50, done=[0, 0, 0, 3])
    a_leader(monkeypatch, mail).train(JOB, given, listener)
    handed = [content[-1].cost for _, content in mail.sent]
    assert handed == [30, 20, 10], "and rank 0 trained the one of 50"
    assert [to for to, _ in mail.sent] == [1, 2, 1]
    assert [listener.runs[order.key]["rank"] for order in given] == [1, 1, 2, 0]


@pytest.mark.parametrize(
    ("count", "size", "said"),
    [
        (1, 2, "1 network to train on 2 ranks: 1 rank has nothing to do."),
        (2, 8, "2 networks to train on 8 ranks: 6 ranks have nothing to do."),
    ],
)
def test_ranks_without_a_network_are_mentioned(monkeypatch, count, size, said):
    mail = Mail(size)
    leader = a_leader(monkeypatch, mail)
    with pytest.warns(UserWarning, match=f"^study: {said}$"):
        leader.train(JOB, orders(*range(count)), Listener())
    assert [to for to, _ in mail.sent] == [*range(1, count + 1)]
    leader.train(JOB, orders(*range(size)), Listener())  # enough for all
    leader.train(JOB, [], Listener())  # a finished study


def test_what_a_rank_fails_by_is_raised_and_told_to_the_others(monkeypatch):
    given = orders(1, 2, 3)
    mail = Mail(3, fails=[given[2].key])
    leader = a_leader(monkeypatch, mail)
    with raises(CheckpointError, "rank 1: planted"):
        leader.train(JOB, given, Listener())
    leader.end(error=CheckpointError("rank 1: planted"))
    assert mail.sent[-2:] == [
        (rank, ("end", None, (("CheckpointError", "planted"), 1))) for rank in (1, 2)
    ]
    leader = a_leader(monkeypatch, mail)
    leader.end(error=OSError("no space"))
    assert mail.sent[-1] == (2, ("end", None, (("DistributedError", "OSError: no space"), 0)))


def a_record(tmp_path, results=None):
    results = results or {"format": 1, "runs": []}
    job = Job(CONFIG, (), (), CPU, tmp_path)
    return results, Record(results, job, dict.fromkeys(networks(CONFIG), 1), Silent())


def run_of(key, **more):
    depth, kind, seed = key
    return {"depth": depth, "kind": kind, "seed": seed, "finished": False, "epochs": [], **more}


def test_runs_are_kept_in_planned_order_and_every_epoch_is_on_disk(tmp_path):
    results, record = a_record(tmp_path)
    planned = networks(CONFIG)
    for key in reversed(planned):
        record.begun(key, run_of(key))
    assert [(run["depth"], run["kind"], run["seed"]) for run in results["runs"]] == planned
    record.epoch(planned[1], {"epoch": 1})
    on_disk = json.loads((tmp_path / store.FILE).read_text())
    assert [len(run["epochs"]) for run in on_disk["runs"]] == [0, 1, 0, 0]
    with pytest.warns(UserWarning, match="plain-20: the loss is nan"):
        record.diverged(planned[2], "the loss is nan")
    record.finished(planned[1], run_of(planned[1], finished=True))
    on_disk = json.loads((tmp_path / store.FILE).read_text())
    assert [run.get("diverged") for run in on_disk["runs"]] == [None, None, "the loss is nan", None]
    assert [run["finished"] for run in on_disk["runs"]] == [False, True, False, False]


def test_what_other_ranks_are_warned_of_is_said_once(tmp_path):
    _, record = a_record(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("a", "b", "a"):
            record.warned(text, UserWarning)
        record.warned("a", FutureWarning)
    assert [(str(each.message), each.category) for each in caught] == [
        ("a", UserWarning),
        ("b", UserWarning),
        ("a", FutureWarning),
    ]


def test_names_have_a_seed_where_there_are_several():
    assert name_of(CONFIG, (8, "plain", 0)) == "plain-8"
    assert name_of(StudyConfig(seeds=(0, 1)), (8, "plain", 1)) == "plain-8 seed 1"


def test_threads_and_ranks_may_be_others_when_a_study_goes_on(tmp_path, monkeypatch):
    """No number depends on them: nothing is said, but it is kept."""
    monkeypatch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")
    config = StudyConfig(
        depths=(8,), kinds=("plain",), limit=32, protocol=PROTOCOLS["quick"].with_epochs(1)
    )
    run_study(config, tmp_path)
    stored = json.loads((tmp_path / store.FILE).read_text())
    stored["environment"] |= {"threads": 77, "ranks": 5}
    store.save(stored, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results, _ = resume_study(tmp_path)
    assert results["environment"]["ranks"] == 5
    assert results["resumed_with"] == [environment.describe()]

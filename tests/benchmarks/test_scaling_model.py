"""The model of scaling: its formulas by hand, its limits, what others measured, and its page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import minires as mr
from minires import models
from minires.errors import ArgumentError


@pytest.fixture
def model(load):
    return load("scaling_model")


def test_rings_and_trees_by_hand(model):
    wire = model.Wire("", alpha=3.0, beta=0.5)
    # 4 workers: 3 turns to add up, 3 to hand round, each with a quarter of 8 bytes
    assert model.ring(8, 4, wire) == 6 * (3 + 2 * 0.5)
    assert model.ring(7, 2, wire) == 2 * (3 + 3.5 * 0.5)
    assert model.ring(8, 1, wire) == 0
    # 2 turns up and 2 down for 4 workers, 3 and 3 for 5; all bytes go both ways
    assert model.tree(8, 4, wire) == 4 * 3 + 16 * 0.5
    assert model.tree(8, 5, wire) == 6 * 3 + 16 * 0.5


def test_an_all_reduce_by_hand(model):
    """2 nodes of 4: NVLink inside, then four quarters over one card, by the cheaper way."""
    cluster = model.Cluster(model.Wire("", 3.0, 0.5), 4, model.Wire("", 1.0, 0.25), start=10.0)
    inside = 6 * (1 + 2 * 0.25)
    assert model.all_reduce(8, 4, cluster) == 10 + inside
    between = 2 * (3 + (2 / 2) * 0.5 * 4)  # the ring of two: 2 bytes each, four on a wire
    assert model.all_reduce(8, 8, cluster) == 10 + inside + between
    assert model.all_reduce(8, 1, cluster) == 10  # nobody to exchange with
    many = replace(cluster, per_node=1, inside=None)
    assert model.all_reduce(1e-3, 64, many) == 10 + model.tree(1e-3, 64, cluster.wire)
    assert model.all_reduce(1e6, 64, many) == 10 + model.ring(1e6, 64, cluster.wire)
    with pytest.raises(ArgumentError, match="expected full nodes of 4 workers, got 6 workers"):
        model.all_reduce(8, 6, cluster)


def test_a_step_by_hand(model):
    """Two layers, the last of which has three quarters of the work and is ready first."""
    net = model.Network("", ((100, 30), (50, 10)), ())
    work = model.Work(net, fixed=0.0, rate=1.0, batch=12)  # 4 s forward, 6 s and 2 s backward
    wire = model.Wire("", alpha=1.0, beta=0.01)
    plain = model.Cluster(wire, 1, None, bucket=1, steal=0, jitter=0, start=0)
    first, second = 2 * (1 + 200 * 0.01), 2 * (1 + 100 * 0.01)
    assert (first, second) == (6, 4)
    # 12 s of work; the first exchange lasts from 10 to 16, the second one then to 20
    assert model.step(work, 12, 2, plain) == 20
    assert model.step(work, 12, 2, replace(plain, overlap=False)) == 12 + first + second
    whole = 2 * (1 + 300 * 0.01)
    assert model.step(work, 12, 2, replace(plain, bucket=1e9)) == 12 + whole
    assert model.step(work, 12, 2, replace(plain, steal=0.5)) == 20 + 0.5 * 8  # of 8 s backward
    slow = model.step(work, 12, 2, replace(plain, bucket=1e9, jitter=0.1))
    assert slow == pytest.approx(12 * (1 + 0.1 * math.sqrt(2 * math.log(2))) + whole)
    assert model.synchronised_norms(replace(work, network=replace(net, norms=(25,))), 2, plain) == (
        2 * 2 * (1 + 100 * 0.01)
    )


def test_limits(model):
    work = model.resnet50()
    free = model.Wire("", 0.0, 0.0)
    for cluster in (*model.GPUS.values(), *model.CPUS.values()):
        assert model.efficiency(work, 1, cluster) == 1
        ideal = replace(cluster, wire=free, inside=free, start=0.0)
        late = 1 + cluster.jitter * math.sqrt(2 * math.log(1024))
        assert model.efficiency(work, 1024, ideal) == pytest.approx(1 / late)
        assert model.efficiency(work, 1024, replace(ideal, jitter=0.0)) == pytest.approx(1)
        assert model.speedup(work, 512, 1, cluster) == 1


def test_more_of_everything_that_helps_is_no_worse(model):
    works = (model.resnet50(), model.resnet20())
    powers = [1 << k for k in range(11)]
    for work in works:
        for wires in zip(model.WIRES, model.WIRES[1:]):
            slow, fast = (model.GPUS[wire] for wire in wires)
            assert all(
                model.efficiency(work, p, slow) <= model.efficiency(work, p, fast) for p in powers
            )
        for cluster in model.GPUS.values():
            falling = [model.efficiency(work, p, cluster) for p in powers]
            # without overlap and buckets there is nothing that could make up for more workers
            plain = replace(cluster, overlap=False, bucket=1e12)
            ordered = [model.efficiency(work, p, plain) for p in powers]
            assert ordered == sorted(ordered, reverse=True)
            assert falling[-1] < falling[3] < falling[0] == 1
            batches = [model.efficiency(work, 64, cluster, b) for b in (8, 32, 128, 512)]
            assert batches == sorted(batches)


def test_it_agrees_with_what_goyal_et_al_measured(model):
    """About 90 %, whichever speed one P100 is given that their hour for 90 epochs allows."""
    assert model.against_goyal() == pytest.approx(0.91, abs=0.005)
    for rate in (140, 220):
        assert abs(model.against_goyal(rate) - 0.9) < 0.05


def test_layers_are_those_of_the_networks(model):
    assert model.resnet50().network.parameters == 25_557_032
    assert model.resnet20().network.parameters == 269_722
    # multiply-adds of one image, as published for 224x224
    operations = sum(count for _, count in model.resnet50().network.layers)
    assert operations == 4_089_184_256
    first, last = model.resnet50().network.layers[0], model.resnet50().network.layers[-1]
    assert first == (2048 * 1000 + 1000, 2048 * 1000)
    assert last == (64 * 3 * 7 * 7, 64 * 3 * 7 * 7 * 112 * 112)
    assert (len(model.resnet50().network.norms), sum(model.resnet20().network.norms)) == (53, 688)
    with mr.backend("numpy"):
        whole = mr.summary(models.resnet18(), (1, 3, 64, 64))
    small = model.network("ResNet-18", models.resnet18(), 64, 2)
    assert sum(count for _, count in small.layers) == whole.total_mult_adds


def test_published_figures(model):
    """What the tables said when they were first made, by an independent program."""
    rows = {name: (work, cluster) for name, work, cluster in model._weak()}
    expected = {
        "ResNet-50, 64 images a GPU, 10 Gb/s": (0.97, 0.21, 0.12, 0.11, 0.11),
        "ResNet-50, 64 images a GPU, 100 Gb/s": (0.97, 0.85, 0.78, 0.73, 0.73),
        "ResNet-50, 64 images a GPU, 400 Gb/s": (0.97, 0.93, 0.90, 0.89, 0.89),
        "ResNet-20, 128 images a GPU, 100 Gb/s": (0.96, 0.92, 0.88, 0.87, 0.86),
    }
    for name, shares in expected.items():
        work, cluster = rows[name]
        found = [round(model.efficiency(work, p, cluster), 2) for p in model.WORKERS]
        assert found == list(shares), name
    big, fast = model.resnet50(), model.GPUS[model.INFINIBAND400]
    found = [round(model.speedup(big, 8192, p, fast), 1) for p in (128, 1024)]
    assert found == [100.9, 309.4]


def test_the_page_shows_the_models_tables(model):
    page = model.PAGE.read_text(encoding="utf-8")
    shown = page.split(model.BEGIN)[1].split(model.END)[0].strip()
    assert shown == model.markdown(), "run: python benchmarks/scaling_model.py --write"
    assert model.FIGURE.exists()


def test_the_command_prints_what_it_assumes(model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    model.main([])
    printed = capsys.readouterr().out
    for what, _, _ in model.ASSUMED:
        assert what in printed
    assert "0.91 at 220 images/s" in printed

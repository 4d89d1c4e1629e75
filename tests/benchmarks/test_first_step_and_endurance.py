"""The benchmarks of the first step and of the long run: they measure, and notice what is wrong."""

from __future__ import annotations

import csv

import pytest
from harness import raises

import minires as mr
from minires.errors import DeviceError
from minires.kernels.numba import allocator


@pytest.mark.slow
def test_the_first_step_of_a_process(load):
    from minires.kernels.numba.compiler import cache_folder

    script = load("compile_time")
    times = script.measure("cifar_resnet8", 2, cache_folder().parent)
    assert 0 < times.first_step < times.to_first_step < 120
    assert 0 < times.second_step < times.to_first_step


def test_a_net_that_does_not_exist(load, tmp_path):
    script = load("compile_time")
    with raises(DeviceError, "training steps of resnet19", "unknown model"):
        script.measure("resnet19", 2, tmp_path)


def test_the_first_process_has_an_empty_cache(load, tmp_path, monkeypatch, capsys):
    script = load("compile_time")
    caches = []

    def measure(net, batch, cache):
        first = not list(cache.iterdir())
        cache.joinpath(str(len(caches))).touch()
        caches.append(cache)
        return script.Times(20.0, 15.0, 0.5) if first else script.Times(len(caches), 0.75, 0.25)

    monkeypatch.setattr(script, "measure", measure)
    script.main(["--rounds", "3", "--results", str(tmp_path)])
    assert len(caches) == 4
    assert len(set(caches)) == 1
    assert not caches[0].exists()
    with open(tmp_path / "compile_time.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("net", "batch", "cache", "processes", "start_to_first_step", "first_step")
    assert [[row[name] for name in names] for row in rows] == [
        ["cifar_resnet20", "128", "empty", "1", "20.000", "15.000"],
        ["cifar_resnet20", "128", "warm", "3", "3.000", "0.750"],
    ]
    assert "warm cache: process start to first step 3.000 s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: --rounds: expected at least 1, got 0"):
        script.main(["--rounds", "0", "--results", str(tmp_path)])


@pytest.mark.slow
def test_nothing_grows_and_nothing_is_left(load, monkeypatch, capsys):
    script = load("endurance")
    monkeypatch.setattr(script, "SETTLED", 40)
    with pytest.raises(SystemExit) as end:
        script.main(["--steps", "70", "--graphs", "180"])
    assert end.value.code == 0, capsys.readouterr().out
    assert "0 objects for the cycle collector, arrays +0 bytes" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_kept_is_noticed(load, monkeypatch):
    script = load("endurance")
    kept = []
    monkeypatch.setattr(
        mr.Tensor, "exp", lambda x: kept.append(allocator.allocate((8000,), "f4")) or x
    )
    assert script.make_graphs(36, lambda: None)[1] > 0


@pytest.mark.slow
def test_a_cycle_is_noticed(load, monkeypatch):
    script = load("endurance")
    right = mr.softmax

    def softmax(x):
        ring = [x]
        ring.append(ring)
        return right(x)

    monkeypatch.setattr(mr, "softmax", softmax)
    assert script.make_graphs(36, lambda: None)[0] >= 6


@pytest.mark.slow
def test_memory_that_grows_in_training_is_noticed(load, monkeypatch):
    script = load("endurance")
    monkeypatch.setattr(script, "SETTLED", 10)
    kept, right = [], mr.cross_entropy

    def cross_entropy(x, labels):
        kept.append(allocator.allocate((8000,), "float32"))
        return right(x, labels)

    monkeypatch.setattr(mr, "cross_entropy", cross_entropy)
    with pytest.raises(SystemExit, match=r"error: the memory of arrays grew in training$"):
        script.main(["--steps", "14", "--graphs", "1"])

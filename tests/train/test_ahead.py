"""Kernels are compiled ahead: all that training needs, none twice, and nothing is launched."""

from __future__ import annotations

import dataclasses
import re
import threading
from types import SimpleNamespace

import pytest
from gpu import REAL, gpu
from test_cli import run

import minires as mr
from minires import data
from minires.device import Device
from minires.kernels.cuda.kernel import Kernel
from minires.study import StudyConfig, network, record, run_study, runner, spread
from minires.study.protocols import PROTOCOLS
from minires.train import warmup
from minires.train.ahead import compile_ahead

pytestmark = pytest.mark.skipif(REAL, reason="is about kernels that nobody compiles")
GPU = Device("cuda")


@pytest.fixture
def asked(monkeypatch):
    """The kernels that are compiled, by name, in the order in which they are ready. There is a
    GPU, on which none runs."""
    found = []

    def compiled(kernel):
        assert threading.current_thread() is not threading.main_thread()
        found.append(kernel.name)
        return SimpleNamespace()

    def launched(kernel, grid, arguments):
        raise AssertionError(f"{kernel} was launched")

    monkeypatch.setattr(Kernel, "compiled", compiled)
    monkeypatch.setattr(Kernel, "run", launched)
    with gpu():
        yield found


def silent(name, done, asked):
    pass


def test_each_kernel_once(asked):
    told = []
    x = mr.ones(4, 3, 8, 8, device="cuda", requires_grad=True)

    def work():
        for _ in range(3):
            mr.nn.functional.relu(mr.nn.functional.max_pool2d(x, 2)).sum().backward()

    count = compile_ahead(GPU, work, lambda *facts: told.append(facts))
    assert count == len(asked) == len(set(asked)) == len(told) > 2
    assert sorted(name for name, _, _ in told) == sorted(name.partition("<")[0] for name in asked)
    assert [done for _, done, _ in told] == [*range(1, count + 1)]
    assert all(done <= known <= count for _, done, known in told)
    assert {name.partition("<")[0] for name in asked} >= {"max_pool2d_fwd", "relu_fwd"}


def test_a_network_in_training_and_inference(asked):
    count = warmup.compile_kernels("cifar_resnet8", GPU, silent)
    assert count == len(asked) == len(set(asked))
    kinds = {name.partition("<")[0] for name in asked}
    assert kinds >= {"conv2d_bwd_weight", "cross_entropy_fwd", "cross_entropy_bwd_x", "update_sgd"}
    assert any(kind.startswith("conv2d_patch") for kind in kinds)
    assert not any("double" in name for name in asked)


def test_a_kernel_that_cannot_be_compiled(asked, monkeypatch):
    def compiled(kernel):
        raise RuntimeError(f"no code for {kernel.name}")

    monkeypatch.setattr(Kernel, "compiled", compiled)
    x = mr.ones(2, 3, device="cuda")
    with pytest.raises(RuntimeError, match="no code for relu_fwd"):
        compile_ahead(GPU, lambda: mr.relu(x)._array, silent)


def test_work_that_is_stopped(asked):
    def work():
        mr.relu(mr.ones(2, 3, device="cuda"))._array  # noqa: B018
        raise KeyboardInterrupt

    before = mr.autograd.current()
    with pytest.raises(KeyboardInterrupt):
        compile_ahead(GPU, work, silent)
    assert mr.autograd.current() is before


@pytest.mark.slow
def test_a_study_launches_what_was_compiled_and_nothing_else(monkeypatch, tmp_path):
    """Captured steps, batches of other sizes at the end of an epoch, norms of gradients."""
    ready, launched = set(), set()
    run_kernel = Kernel.run

    def run(kernel, grid, arguments):
        launched.add(repr(kernel))
        run_kernel(kernel, grid, arguments)

    def load(config):
        return data.load("digits").limit(20), data.load("digits", train=False).limit(5)

    monkeypatch.setattr(Kernel, "compiled", lambda kernel: ready.add(repr(kernel)))
    monkeypatch.setattr(Kernel, "run", run)
    monkeypatch.setattr(runner, "_load", load)
    monkeypatch.setattr(network, "EVALUATION_BATCH", 16)
    monkeypatch.setattr(runner, "write_outputs", lambda results, path: None)
    recipe = dataclasses.replace(PROTOCOLS["quick"].with_epochs(1), batch_size=8)
    with gpu():
        run_study(StudyConfig(depths=(8,), protocol=recipe), tmp_path, device="cuda")
    assert launched
    assert not launched - ready
    assert len(ready - launched) <= len(ready) // 4, "what is compiled is used"


def test_a_study_compiles_before_it_trains(asked, monkeypatch, tmp_path):
    """For every size of batch that there will be."""
    sizes, order = set(), []

    def load(config):
        return data.load("digits").limit(20), data.load("digits", train=False).limit(9)

    def noted(net, optimizer, training, inference, shape):
        sizes.add((len(list(net.parameters())), tuple(sorted(training)), tuple(sorted(inference))))
        mr.relu(mr.ones(3, device="cuda"))._array  # noqa: B018

    class Told(record.Silent):
        def ready(self, name, done, asked):
            order.append(name)

    def train(job, ordered, tell):
        order.append("training")
        depth, kind, seed = ordered.key
        return {"depth": depth, "kind": kind, "seed": seed, "finished": True, "epochs": []}

    monkeypatch.setattr(runner, "_load", load)
    monkeypatch.setattr(network, "training_and_inference", noted)
    monkeypatch.setattr(spread, "train_network", train)
    monkeypatch.setattr(runner, "write_outputs", lambda results, path: None)
    monkeypatch.setattr(network, "EVALUATION_BATCH", 8)
    recipe = PROTOCOLS["quick"].with_epochs(1)
    config = StudyConfig(depths=(8, 32), kinds=("residual",), protocol=recipe)
    for device in ("cuda", "cpu"):
        run_study(config, tmp_path / device, device=device, progress=Told())
    assert order[0].startswith("relu_fwd")
    assert order[1:] == ["training"] * 4
    assert len(sizes) == 2, "8 and 20 layers"
    size = min(20, recipe.batch_size)
    rest = () if recipe.batch_size >= 20 else (20 % recipe.batch_size,)
    assert {each[1:] for each in sizes} == {((*rest, size) if rest else (20,), (1, 4, 8))}


def test_the_command(asked, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(warmup, "_train", lambda net, many, any_size: None)
    monkeypatch.setattr(warmup, "_infer", lambda net, many: None)
    code, out, err = run(capsys, "warmup", "cifar_resnet8", "--device", "cuda")
    assert (code, err) == (0, "")
    text = re.sub(r"\s", "", out)  # a long line is broken somewhere
    assert f"{len(asked)}kernelsforcuda:0arereadyafter" in text
    assert f"CuPykeepsthemin{tmp_path}" in text

"""The comparison with PyTorch: it refuses what is wrong, and shows rightly what it measured."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from harness import one_thread, raises

import minires as mr

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
MODULES = ("harness", "floors", "shapes", "versus", "vs_pytorch", "ladder_conv2d")


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the benchmarks, whose ``harness`` is not the tests'."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "ops"))
    tests_own = sys.modules.pop("harness", None)
    with one_thread(mr, torch):
        yield importlib.import_module
    for name in list(sys.modules):
        if name.split(".")[0] in MODULES:
            del sys.modules[name]
    if tests_own is not None:
        sys.modules["harness"] = tests_own


@pytest.fixture
def small(load):
    steps = load("versus.steps")
    return steps.Net("cifar_resnet", {"depth": 8}, (3, 16, 16), batch=8, checked=8)


def row(load, **changes):
    report = load("versus.report")
    facts = dict.fromkeys(report.COLUMNS[:11], "x") | {"date": "2026-01-01T00:00:00"}
    work = {"work": "train-resnet20", "title": "a net", "quantity": "time / PyTorch's"}
    numbers = {"must": "0.6", "goal": "0.4", "value": "0.5", "p20": "0.45", "p80": "0.52"}
    sides = {"rounds": "15", "mine": "10", "theirs": "20", "unit": "ms", "layout": "", "error": ""}
    return facts | work | numbers | sides | changes


@pytest.mark.slow
def test_parity_both_sides_take_the_same_steps(load, small):
    steps = load("versus.steps")
    for style in ("own", "captured", "torchvision"):
        found = steps.agree(small, style)
        assert found.loss < 1e-5
        assert found.median < 1e-3


@pytest.mark.slow
def test_parity_a_wrong_gradient_is_not_timed(load, small, monkeypatch):
    steps, works = load("versus.steps"), load("versus.works")
    right = steps.Minires.gradients

    def wrong(self):
        found = right(self)
        return found | {"conv1.weight": 2 * found["conv1.weight"]}

    monkeypatch.setattr(steps.Minires, "gradients", wrong)
    monkeypatch.setattr(works, "_in_turns", lambda *_: pytest.fail("was timed"))
    words = (
        "cifar_resnet",
        "expected PyTorch in float64",
        "got",
        "by 1 at most",
        "Nothing was timed",
    )
    with raises(load("harness").Disagreement, *words):
        works.training(small, "own", 1, lambda: None)


def test_parity_wrong_logits_are_not_timed(load, small, monkeypatch):
    steps, works = load("versus.steps"), load("versus.works")
    right = steps.Minires.infer
    monkeypatch.setattr(steps.Minires, "infer", lambda self: right(self) + np.float32(0.5))
    monkeypatch.setattr(works, "_in_turns", lambda *_: pytest.fail("was timed"))
    with raises(load("harness").Disagreement, "inference: expected PyTorch's logits"):
        works.inference(small, 2, "own", 1, lambda: None)


@pytest.mark.slow
def test_parity_nets_and_parts_are_measured(load, small):
    works, parts = load("versus.works"), load("versus.parts")
    turns = []
    for style in ("own", "captured", "torchvision"):
        results = [
            works.training(small, style, 3, lambda: turns.append(1)),
            works.inference(small, 1, style, 3, lambda: turns.append(1)),
        ]
        for result in results:
            assert len(result.values) == 3
            assert 0 < result.value(20) <= result.value() <= result.value(80)
            assert result.layout in ("NCHW", "channels last")
    assert len(turns) == 18
    for layer in (
        parts.Layer("3x3", 2, 5, 9, 7, 3, 1),
        parts.Layer("1x1", 2, 5, 9, 7, 1, 2),
    ):
        for direction in parts.DIRECTIONS:
            timing, error = parts.convolution(layer, direction, 2, lambda: None)
            assert len(timing.ratios) == 2
            assert error < 1e-5


def test_parity_the_table_has_every_row_of_the_comparison(load):
    rows = load("versus.works").works()
    names = ("train-resnet20", "train-resnet110-torchvision", "infer-resnet50-1", "memory-resnet50")
    for name in (*names, "conv-64-fwd", "conv-1x1-2048-512-weight", "depth", "small-backward"):
        assert name in rows
    assert len({work.title for work in rows.values()}) == len(rows)
    for work in rows.values():
        lower = work.goal <= work.must
        assert lower if work.quantity != "of copy" else not lower
    chosen = load("vs_pytorch").chosen
    assert chosen(["conv-64-[fiw]*", "conv-64-fwd"], False) == [
        f"conv-64-{direction}" for direction in ("fwd", "input", "weight")
    ]
    assert set(chosen(None, True)) < set(chosen(None, False)) == set(rows)
    from minires.errors import ArgumentError

    with raises(ArgumentError, "unknown row 'train-resnet21'", "train-resnet20"):
        chosen(["train-resnet21"], False)


def test_parity_rows_are_judged_and_shown(load):
    report = load("versus.report")
    assert report.verdict(row(load)) == "must"
    assert report.verdict(row(load, value="0.4")) == "goal"
    assert report.verdict(row(load, value="0.61")) == "missed"
    share = {"quantity": "of copy", "must": "0.7", "goal": "0.85"}
    assert report.verdict(row(load, value="0.9", **share)) == "goal"
    assert report.verdict(row(load, value="0.6", **share)) == "missed"
    shown = ("a net", "0.60", "0.40", "0.500", "0.45-0.52", "10 ms", "20 ms")
    assert report.cells(row(load)) == shown
    shares = report.cells(row(load, value="0.9", p20="0.8", p80="0.95", **share))
    assert shares[1:5] == ("70 %", "85 %", "90 %", "80-95 %")


def test_parity_the_readme_has_the_newest_row_of_each_work(load, tmp_path):
    harness, report, page = load("harness"), load("versus.report"), load("readme")
    path = tmp_path / "vs_pytorch.csv"
    other = row(load, work="infer-resnet20-1", title="one image", value="0.7", must="0.6")
    for line in (row(load, value="0.9"), other, row(load, value="0.5")):
        harness.append(path, [line], report.COLUMNS)
    (tmp_path / "other.csv").write_text("planted,found\n1,2\n")  # a table of another page
    assert [line["value"] for line in report.newest(path)] == ["0.5", "0.7"]
    text = page.markdown(tmp_path)
    assert "| a net | 0.60 | 0.40 | 0.500 | 0.45-0.52 | 10 ms | 20 ms |" in text
    assert "| one image | 0.60 | 0.40 | **0.700** |" in text
    assert "0.900" not in text
    assert "png" not in text
    assert report.draw(path).read_bytes()[:4] == b"\x89PNG"
    picture = "![Time of minires over that of PyTorch](results/vs_pytorch.png)"
    assert picture in page.markdown(tmp_path)


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_parity_the_script_runs_from_end_to_end(load, tmp_path, capsys):
    names = ("small-forward", "bn-cifar-64-forward")
    script = FOLDER / "vs_pytorch.py"
    done = run_script(script, "--only", *names, "--rounds", "2", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a + b of 10 elements" in done.stdout
    with open(tmp_path / "vs_pytorch.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["work"] for line in rows] == list(names)
    assert (tmp_path / "vs_pytorch.png").exists()
    main = load("vs_pytorch").main
    with pytest.raises(SystemExit, match=r"^error: unknown row 'nothing'"):
        main(["--only", "nothing", "--results", str(tmp_path)])
    main(["--list"])
    assert "conv-512-weight" in capsys.readouterr().out


@pytest.mark.slow
def test_parity_memory_is_that_of_a_process_of_its_own(load, monkeypatch):
    memory = load("versus.memory")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor(2) as pool:  # no time is measured, and each has a thread
        sizes = list(pool.map(lambda side: memory.peak(side, "resnet20"), ("minires", "torch")))
    # Activations of 128 images alone are about 90 MiB, if only one in three is kept.
    assert all(30 * 2**20 < size < 2**30 for size in sizes)
    from minires.errors import DeviceError

    with raises(DeviceError, "memory of resnet21 in torch", "KeyError"):
        memory.peak("torch", "resnet21")


@pytest.mark.slow
def test_the_ladder_is_climbed_and_drawn(tmp_path):
    picture = tmp_path / "ladder.png"
    done = run_script(FOLDER / "ops/ladder_conv2d.py", "--quick", "--figure", picture)
    assert done.returncode == 0, done.stderr
    rungs = ("seven loops", "im2col", "register tile", "Winograd", "separate", "fused")
    assert all(rung in done.stdout for rung in rungs)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_parity_a_wrong_rung_is_not_timed(load, monkeypatch):
    ladder = load("ladder_conv2d")
    monkeypatch.setattr(ladder, "im2col", lambda x, w, y, g: y.fill(0))
    monkeypatch.setattr(ladder, "LOOP_OUTPUTS", 3)
    with raises(load("harness").Disagreement, "im2col and np.matmul: expected the reference's"):
        ladder.climb((1, 16, 4), 1, lambda: None)


# **** on a GPU, here a stand-in on one side and the CPU on the other ****


def test_parity_steps_on_a_gpu(load, small):
    gpu = load("versus.gpu")
    with cuda_backend() as backend:
        for arithmetic in ("fp32", "tf32"):
            result = gpu.training(small, arithmetic, "eager", 2, lambda: None, place="cpu")
            assert mr.get_float32_matmul_precision() == gpu.PRECISIONS[arithmetic]
            assert len(result.values) == 2
            assert result.layout == "channels last"
        assert backend.replayed, "a captured step"
        result = gpu.inference(small, 1, "fp32", "eager", 2, lambda: None, place="cpu")
        assert result.value() > 0
    mr.set_float32_matmul_precision("highest")


def test_parity_a_wrong_gradient_of_a_gpu_is_not_timed(load, small, monkeypatch):
    steps, gpu = load("versus.steps"), load("versus.gpu")
    right = steps.Minires.gradients
    wrong = lambda self: {name: 3 * g for name, g in right(self).items()}  # noqa: E731
    monkeypatch.setattr(steps.Minires, "gradients", wrong)
    monkeypatch.setattr(gpu, "_in_turns", lambda *_: pytest.fail("was timed"))
    with cuda_backend(), raises(load("harness").Disagreement, "PyTorch in float64", "Nothing was"):
        gpu.training(small, "fp32", "eager", 1, lambda: None, place="cpu")


def test_parity_the_rows_of_a_gpu(load):
    vs_pytorch = load("vs_pytorch")
    rows = vs_pytorch.all_rows("cuda")
    assert len(rows) == 11
    bounds = {name: (row.must, row.goal) for name, row in rows.items()}
    assert bounds["train-resnet56-tf32-eager"] == (0.7, 0.3)
    assert bounds["train-resnet20-fp32-compiled"] == (1.2, 0.8)
    assert bounds["infer-resnet20-1-fp32-compiled"] == (1.0, 0.5)
    assert bounds["train-resnet50-tf32-eager"] == (1.3, 0.8)
    assert [*rows].index("train-resnet50-tf32-eager") < [*rows].index(
        "train-resnet20-tf32-compiled"
    )
    assert vs_pytorch.chosen(["*-tf32-compiled"], False, "cuda") == [
        "train-resnet20-tf32-compiled",
        "train-resnet56-tf32-compiled",
    ]
    assert not set(rows) & set(vs_pytorch.all_rows("cpu"))


def test_parity_rows_of_a_gpu_are_written_as_they_are_done(load, monkeypatch, tmp_path, capsys):
    """And one that cannot be measured, as without PyTorch's compiler, costs no other."""
    vs_pytorch, gpu, works = load("vs_pytorch"), load("versus.gpu"), load("versus.works")
    done = works.Result([0.5, 0.6], 1.0, 2.0, "ms", "channels last", "1e-6")

    def fails(rounds, turn):
        raise RuntimeError("no compiler\nand so on")

    def work(name, measure):
        return works.Work(name, name, "time / PyTorch's", 0.7, 0.3, 1.0, measure)

    chosen = [work("a", lambda *_: done), work("b", fails), work("c", lambda *_: done)]
    monkeypatch.setattr(gpu, "works", lambda: {w.name: w for w in chosen})
    with cuda_backend(), pytest.raises(SystemExit, match=r"b: RuntimeError: no compiler$"):
        vs_pytorch.main(["--device", "cuda", "--results", str(tmp_path)])
    with open(tmp_path / "vs_pytorch_gpu.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["work"] for line in rows] == ["a", "c"]
    assert rows[0]["gpu"] == "a stand-in for a GPU"
    assert "a stand-in for a GPU, driver" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "vs_pytorch_gpu.png").exists()
    assert not (tmp_path / "vs_pytorch.csv").exists()


def test_parity_without_a_gpu_it_says_so(load):
    if mr.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="error: device: expected CuPy for 'cuda'"):
        load("vs_pytorch").main(["--device", "cuda"])

"""The command line with ``--device cuda``: the same work, files that say where it was done."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from gpu import CUDA, gpu
from test_cli import run

import minires as mr
from minires import cuda, data, environment
from minires.device import Device
from minires.study import StudyConfig, resume_study, run_study, runner
from minires.study.protocols import PROTOCOLS
from minires.train.job import TrainingJob

SMALL = ("train", "cifar_resnet8", "--limit", "64", "--batch-size", "32")


@pytest.fixture
def gpus():
    with cuda_backend() as backend:
        yield backend


@pytest.fixture
def few_images(monkeypatch):
    """The references, which stand in for kernels, are slow."""

    def load(config):
        return data.load("digits").limit(48), data.load("digits", train=False).limit(24)

    monkeypatch.setattr(runner, "_load", load)


def history(folder):
    with (folder / "history.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def near(here, there, but=("seconds",)):
    assert len(here) == len(there)
    for a, b in zip(here, there):
        for key in set(a) - set(but):
            assert a[key] == pytest.approx(b[key], rel=2e-3, abs=2e-3), key


def test_train_on_a_gpu_is_training(gpus, capsys, tmp_path):
    """With augmentation, whose draws do not depend on the device."""
    options = (*SMALL, "--epochs", "2", "--augment", "crop,flip")
    for device in ("cpu", "cuda"):
        code, out, err = run(capsys, *options, "--device", device, "--out", str(tmp_path / device))
        assert code == 0, err
        assert "Test error" in out
    near(history(tmp_path / "cpu"), history(tmp_path / "cuda"))
    assert "conv2d_fwd" in gpus.launches
    assert gpus.replayed, "a captured step"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CUDA])
def test_train_by_the_kernels(capsys, tmp_path, kind):
    """Compiled ones, in captured steps, on the second GPU where there are two."""
    options = ("train", "cifar_resnet8", "--limit", "24", "--batch-size", "8", "--epochs", "1")
    options += ("--augment", "crop,flip")
    with gpu():
        place = f"cuda:{cuda.device_count() - 1}"
        for device in ("cpu", place):
            folder = str(tmp_path / device[:4].strip(":"))
            code, _, err = run(
                capsys, *options, "--augment", "crop,flip", "--device", device, "--out", folder
            )
            assert code == 0, err
    near(history(tmp_path / "cpu"), history(tmp_path / "cuda"))


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda:1"), ("cuda", "cuda")])
def test_a_run_goes_on_on_another_device(gpus, capsys, tmp_path, first, then):
    job = TrainingJob("cifar_resnet8", limit=64, batch_size=32, epochs=2, device=first)

    class Stop(BaseException): ...

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        job.prepare(tmp_path / "cut").run(on_epoch=stop)
    options = (*SMALL, "--epochs", "2", "--device")
    code, _, err = run(capsys, *options, then, "--out", str(tmp_path / "cut"), "--resume")
    assert code == 0, err
    code, _, err = run(capsys, *options, first, "--out", str(tmp_path / "whole"))
    assert code == 0, err
    near(history(tmp_path / "cut"), history(tmp_path / "whole"))
    if first == then:
        a, b = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in history(tmp_path / name)]
            for name in ("cut", "whole")
        )
        assert a == b, "to the last bit on the same device"
    weights = mr.load(tmp_path / "cut" / "checkpoint.safetensors")
    assert {w.device for w in weights.values()} == {Device("cpu")}


@pytest.mark.slow
def test_depth_on_a_gpu(gpus, few_images, capsys, tmp_path):
    options = ("--depths", "8", "--kinds", "residual", "--epochs", "2")
    found = []
    for device in ("cpu", "cuda:1"):
        folder = tmp_path / device.replace(":", "")
        code, _, err = run(capsys, "depth", *options, "--device", device, "--out", str(folder))
        assert code == 0, err
        found.append(json.loads((folder / "results.json").read_text()))
        page = (folder / "report.html").read_text()
        assert ("a stand-in for a GPU" in page) == (device != "cpu")
    here, there = found
    for a, b in zip(here["runs"], there["runs"]):
        near(a["epochs"], b["epochs"])
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-2)
        norms = a["gradient_norms"]["end"], b["gradient_norms"]["end"]
        np.testing.assert_allclose(*norms, rtol=2e-2)
    assert (
        there["environment"].items()
        >= {
            "device": "cuda:1",
            "gpu": "a stand-in for a GPU",
            "cuda_of_driver": "13.0",
            "cuda_of_cupy": "13.0",
            "cupy": "14.2.0",
            "float32_matmul_precision": "highest",
        }.items()
    )
    assert "device" not in here["environment"]


def test_a_study_goes_on_where_it_was_or_elsewhere(gpus, few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "write_outputs", lambda results, path: None)
    config = StudyConfig(depths=(8,), kinds=("plain",), protocol=PROTOCOLS["quick"].with_epochs(1))
    _, folder = run_study(config, tmp_path, device="cuda")
    results, _ = resume_study(folder)
    assert "resumed_with" not in results
    with pytest.warns(UserWarning, match=r"other versions \(device cuda:0 → none"):
        results, _ = resume_study(folder, device="cpu")
    assert [e.get("device") for e in results["resumed_with"]] == [None]


def test_info_names_the_gpus(gpus, capsys):
    code, out, err = run(capsys, "info")
    assert code == 0, err
    text = " ".join(out.split())
    assert "devices cpu, cuda:0, cuda:1" in text
    assert "GPU 0 a stand-in for a GPU" in text
    assert "GPU 1 a stand-in for a GPU" in text
    assert "for CUDA 13.0; CuPy 14.2.0 for CUDA 13.0" in text


def test_gradcheck_on_a_gpu(gpus, capsys, tmp_path):
    file = tmp_path / "report.json"
    names = ("relu", "Conv2dInput", "exp")
    code, out, err = run(capsys, "gradcheck", *names, "--device", "cuda", "--report", str(file))
    assert code == 0, out + err
    assert "hold on cuda:0" in out
    report = json.loads(file.read_text())
    assert report["environment"]["gpu"] == "a stand-in for a GPU"
    assert {"relu_fwd", "conv2d_bwd_weight", "conv2d_bwd_input"} <= set(gpus.launches)


def test_what_draws_on_a_gpu_has_no_complex_step():
    from minires.gradcheck import check_module

    with gpu():
        net = mr.nn.Sequential(mr.nn.Linear(3, 4), mr.nn.Dropout(0.5)).double().to("cuda")
        x = mr.ones(2, 3, dtype="float64", device="cuda", requires_grad=True)
        report = check_module(net, x)
        assert report.ok, str(report)
        assert "no complex step: random draws on a GPU are others than on the CPU" in str(report)


def test_gradcheck_says_where_its_complex_step_was_taken(gpus):
    from minires.gradcheck import check

    x = mr.tensor([0.5, -1.5], dtype="float64", device="cuda:1", requires_grad=True)
    report = check(mr.tanh, x)
    assert report.ok
    assert report.backend == "cuda:1"
    assert "held against differences on cuda:1" in report.notes[0]
    assert not check(mr.tanh, x.cpu().detach().requires_grad_()).notes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*SMALL, "--device", "cuda:7"), ["expected a GPU from cuda:0 to cuda:1", "cuda:7"]),
        ((*SMALL, "--device", "gpu"), ["unknown device 'gpu'", "Known: cpu, cuda"]),
        (("depth", "--device", "cuda:7"), ["expected a GPU from cuda:0 to cuda:1", "cuda:7"]),
        (("depth", "--device", "tpu"), ["unknown device 'tpu'"]),
        (("gradcheck", "--device", "cuda:7"), ["one of the devices cpu, cuda:0, cuda:1"]),
    ],
)
def test_devices_that_are_not_there(gpus, capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 1
    for word in words:
        assert word in " ".join(err.split())
    assert not list(tmp_path.iterdir()), "nothing may be written"


@pytest.mark.skipif(cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("command", [SMALL, ("depth",)])
def test_without_a_gpu(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *command, "--device", "cuda")
    assert code == 1
    assert "expected CuPy for 'cuda', got none installed" in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_the_environment_of_the_cpu_is_what_it_was():
    assert not {"gpu", "device", "cupy"} & set(environment.describe())

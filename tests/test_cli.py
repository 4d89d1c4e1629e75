"""The command line: help with examples, one message per error, exit codes, what it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

import minires as mr
from minires.cli import app, main
from minires.device import _kernel_module
from minires.kernels.numba import compiler, cpu
from minires.study import figures


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of ``minires arguments``."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


COMMANDS = [
    ["depth"],
    ["train"],
    ["predict"],
    ["evaluate"],
    ["warmup"],
    ["gradcheck"],
    ["info"],
    ["data", "list"],
    ["data", "get"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert f"Example: minires {' '.join(command)}" in re.sub(r"\s+", " ", out)


def test_no_arguments_shows_the_commands(capsys):
    _, out, err = run(capsys)
    for name in ("depth", "train", "predict", "evaluate", "warmup", "gradcheck", "data", "info"):
        assert name in out + err


def test_depth_prints_the_table(capsys, tmp_path, monkeypatch):
    # drawing takes most of the time, and tests/study looks at the pictures
    monkeypatch.setattr(figures, "render", lambda *args, **options: b"<svg/>")
    folder = tmp_path / "run"
    code, out, err = run(
        *(capsys, "depth", "--depths", "8", "--limit", "64", "--epochs", "1"),
        *("--out", str(folder)),
    )
    assert code == 0, err
    assert "plain-8: epoch 1 of 1, running training error" in out
    assert "plain-8: final training error" in out
    assert "75,002" in out
    assert "report.html" in out
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_depth_interrupted_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "minires", "depth", "--depths", "8", "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell in the background makes its children deaf to it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*.safetensors")):
        assert process.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"minires depth --depths 8 --resume {folder}" in err.replace("\n", "")


def test_train_lists_trains_and_resumes(capsys, tmp_path):
    code, out, _ = run(capsys, "train", "--list")
    assert code == 0
    assert "cifar_resnet20" in out.split()
    folder = str(tmp_path / "run")
    base = ("train", "cifar_resnet8", "--limit", "96", "--batch-size", "32", "--out", folder)
    code, out, err = run(capsys, *base, "--epochs", "2")
    assert code == 0, err
    assert "epoch 2 of 2: " in out
    assert "running training loss" in out
    assert "Test error" in out
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(history) == 3
    code, _, err = run(capsys, *base, "--epochs", "2")
    assert code == 1
    assert "holds a run already" in err
    code, _, err = run(capsys, *base, "--epochs", "2", "--resume")
    assert code == 0, err
    assert (tmp_path / "run" / "history.csv").read_text().splitlines() == history


def test_train_resumed_equals_train(capsys, tmp_path):
    base = ("train", "cifar_plain8", "--limit", "64", "--batch-size", "32", "--epochs", "2")
    options = ("--optimizer", "adamw", "--lr", "0.003", "--augment", "crop,flip")
    run(capsys, *base, *options, "--out", str(tmp_path / "whole"))

    from minires.train.job import TrainingJob

    class Stop(BaseException): ...

    job = TrainingJob(
        model="cifar_plain8",
        limit=64,
        batch_size=32,
        epochs=2,
        optimizer="adamw",
        lr=0.003,
        augment=("crop", "flip"),
    )

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        job.prepare(tmp_path / "cut").run(on_epoch=stop)
    code, _, err = run(capsys, *base, *options, "--out", str(tmp_path / "cut"), "--resume")
    assert code == 0, err
    rows = [
        [line.rsplit(",", 1)[0] for line in (tmp_path / n / "history.csv").read_text().split()]
        for n in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_train_on_small_images_notes_the_stem(capsys, tmp_path):
    code, _, err = run(
        *(capsys, "train", "resnet18", "--limit", "8", "--batch-size", "4", "--epochs", "1"),
        *("--lr", "0.001", "--out", str(tmp_path)),
    )
    assert err.count("did you mean cifar_resnet(depth=20)?") == 1
    assert code == 0, err


def test_info_names_what_a_bug_report_needs(capsys):
    code, out, err = run(capsys, "info")
    assert code == 0, err
    for word in ("python", "numpy", "numba", "processor", "kernel cache", "GPU"):
        assert word in out
    assert "CuPy" in out
    assert f"{mr.get_num_threads()} of {os.cpu_count()} cores" in out
    assert cpu.instructions() in out
    assert str(compiler.cache_folder()) in re.sub(r"\s", "", out)  # long, so broken over lines


WARM_UP_AND_TRAIN = """
from minires.cli import main
from minires.kernels.numba import compiler, kernel

def ready(*arguments):
    try:
        main([*arguments])
    except SystemExit as stop:
        assert not stop.code, stop.code
    return len(kernel._compiled)

after_warmup = ready("warmup", "cifar_resnet8")
after_training = ready("train", "cifar_resnet8", "--limit", "64", "--epochs", "1")
print(f"ready after warmup: {after_warmup}, after training: {after_training}")
"""


@pytest.mark.slow
def test_warmup_readies_all_that_a_training_run_needs(tmp_path):
    """It compiles what is not kept yet, here at least one kernel, and a training run after it has
    nothing to compile or load; the second time nothing is left to compile."""
    cache = tmp_path / compiler.cache_folder().name
    if compiler.cache_folder().exists():  # or compiling all of it would take half a minute
        shutil.copytree(compiler.cache_folder(), cache, ignore=shutil.ignore_patterns("*_add_up-*"))

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    first = python("-c", WARM_UP_AND_TRAIN)
    assert re.search(r"Compiled [1-9]\d* kernels? in [\d.]+ s\. They are kept in", first), first
    assert str(cache) in first
    assert [*cache.rglob("*_add_up-*.nbc")]
    ready = re.search(r"ready after warmup: (\d+), after training: (\d+)", first)
    assert ready is not None, first
    assert int(ready.group(1)) == int(ready.group(2)) >= 10
    assert "All kernels were there already: " in python("-m", "minires", "warmup", "cifar_resnet8")


@pytest.mark.slow
def test_warmup_gives_no_advice_on_the_network(capsys):
    """Training says that probabilities are no logits; nobody asked for a training here."""
    code, out, err = run(capsys, "warmup", "keras_resnet50")
    assert (code, err) == (0, "")
    assert "They are kept in" in out


def test_warmup_names_the_kernel_it_compiles():
    from rich.console import Console

    from minires.console import WarmUpDisplay

    screen = Console(record=True, force_terminal=True, width=100)
    with WarmUpDisplay(screen, 3) as display:
        display.begin("training, 8 images", 0)
        display.kernel("_convolve")
        display._progress.refresh()
    assert "training, 8 images: compiling convolve" in screen.export_text()
    assert display.kernels == ["_convolve"]


def test_data_list_shows_what_is_here(capsys):
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    assert "digits" in out
    assert "cifar10" in out


@pytest.mark.parametrize("width", [50, 80, 100])
def test_gradcheck_prints_one_table(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = run(capsys, "gradcheck", "linear", "relu", "adaptive_avg_pool2d")
    assert code == 0, err
    lines = out.strip().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out
    headings = next(line for line in lines if "argument" in line).split()
    legend = lines[lines.index(next(line for line in lines if line.startswith("on "))) :]
    explained = [line.split()[0] for line in legend if line[:1] not in (" ", "")]
    assert headings[1:] == explained[: len(headings) - 1]
    assert ("2nd" in headings) == (width >= 80)
    assert [line.strip() for line in lines if line[:1].isalpha()][1:4] == [
        "adaptive_avg_pool2d",
        "relu",
        "linear",
    ]
    x = next(line.split() for line in lines if line.startswith("  w"))
    assert x[:3] == ["w", "numpy", "289"]  # 12 x 8 + 24 x 8 + 1
    assert x[-1] == "ok"
    assert "All 17 cases hold on numpy and numba: " in " ".join(out.split())


def test_gradcheck_folds_a_long_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(capsys, "gradcheck", "binary_cross_entropy_with_logits")
    assert code == 0, err
    assert "\nbinary_cross_entropy " in out
    assert "\n  _with_logits " in out
    assert "…" not in out


def test_gradcheck_narrowed_to_a_backend(capsys):
    code, out, err = run(capsys, "gradcheck", "relu", "neg", "--backend", "numba", "--seed", "3")
    assert code == 0, err
    assert "numpy" not in out
    assert "neg" not in out
    code, out, err = run(capsys, "gradcheck", "relu", "--device", "cpu")
    assert code == 0, err
    assert "hold on numpy and numba" in " ".join(out.split())


@pytest.mark.slow
def test_gradcheck_fails_with_what_is_wrong_below_the_table(capsys, monkeypatch, tmp_path):
    kernel = _kernel_module("conv2d", "numba")
    good = kernel.conv2d_bwd_weight

    def bad(gy, x, gw, geometry):
        good(gy, x, gw, geometry)
        if geometry.stride[1] > geometry.k_w and geometry.w_out > 1:
            gw *= 2

    monkeypatch.setattr(kernel, "conv2d_bwd_weight", bad)
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(tmp_path))
    report = tmp_path / "report.json"
    code, out, _ = run(
        *(capsys, "gradcheck", "conv2d", "--backend", "numba", "--n", "60", "--report", str(report))
    )
    assert code == 1
    table, _, texts = out.partition("\n\n")
    assert "FAIL" in table
    assert "the smallest failing case of 60 random ones, seed 0" in texts
    assert "conv2d, x (1, 1, 1, 3), w (1, 1, 1, 1), stride=(1, 2) on numba: the gradient" in texts
    assert "ratio 2" in texts
    data = json.loads(report.read_text())
    assert data["ok"] is False
    assert any("stride=(1, 2)" in text for text in data["failures"])
    assert str(report) in out.replace("\n", "")


@pytest.mark.slow
def test_gradcheck_reports_the_identity_path_of_blocks(capsys, tmp_path, monkeypatch):
    from minires.selfcheck import gallery

    small = partial(gallery.identity.singular_values, (2, 3), shape=(2, 2, 2))
    monkeypatch.setattr(gallery.identity, "singular_values", small)
    monkeypatch.setattr(
        gallery.figures, "example_split", partial(gallery.figures.example_split, 8, 2)
    )
    monkeypatch.setattr(gallery, "to_bytes", lambda *_: b"<svg/>")
    report = tmp_path / "report.json"
    code, _, err = run(capsys, "gradcheck", "PreActPlainBlock", "--report", str(report))
    assert code == 0, err
    data = json.loads(report.read_text())
    assert {proof["block"] for proof in data["identity"]["proofs"]} == {"PreActPlainBlock"}
    assert all(proof["ok"] for proof in data["identity"]["proofs"])


@pytest.mark.slow
def test_gradcheck_leaves_nothing_behind(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "HYPOTHESIS_STORAGE_DIRECTORY"}
    done = subprocess.run(
        [sys.executable, "-m", "minires", "gradcheck", "relu", "--n", "3"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


ERRORS = {
    "depth": (["depth", "--depths", "21"], ["6n+2", "20 and 26"]),
    "depths": (["depth", "--depths", "8;20"], ["--depths", "integers separated by commas"]),
    "kinds": (["depth", "--kinds", "residul"], ["did you mean residual"]),
    "protocol": (["depth", "--protocol", "papr"], ["unknown protocol 'papr'", "paper"]),
    "dataset": (["depth", "--dataset", "cifar"], ["'cifar'", "cifar10"]),
    "epochs": (["depth", "--epochs", "0"], ["epochs", "got 0"]),
    "limit": (["depth", "--limit", "0"], ["limit", "got 0"]),
    "resume": (["depth", "--resume", "nowhere"], ["no results.json"]),
    "warmup": (["warmup", "resnet19"], ["unknown model 'resnet19'", "resnet18"]),
    "model": (["train", "resnet19"], ["unknown network 'resnet19'", "resnet18"]),
    "own_size": (
        ["train", "keras_resnet50"],
        ["got keras_resnet50, made for images (3, 64, 64). Train it from Python"],
    ),
    "no_model": (["train"], ["expected the name of a network"]),
    "optimizer": (["train", "cifar_resnet8", "--optimizer", "sdg"], ["did you mean sgd"]),
    "schedule": (["train", "cifar_resnet8", "--schedule", "cos"], ["unknown schedule"]),
    "batch": (["train", "cifar_resnet8", "--batch-size", "0"], ["batch_size"]),
    "data": (["data", "get", "minst"], ["'minst'", "mnist"]),
    "gradcheck": (
        ["gradcheck", "BasicBlok"],
        ["unknown operation, layer or block 'BasicBlok'", "did you mean BasicBlock"],
    ),
    "backend": (["gradcheck", "--backend", "nump"], ["unknown backend", "did you mean numpy"]),
    "device": (["gradcheck", "--device", "cuda:9"], ["one of the devices cpu", "cuda:9"]),
    "n": (["gradcheck", "--n", "-1"], ["--n an integer >= 0", "got -1"]),
    "seed": (["gradcheck", "--seed", "-1"], ["--seed an integer >= 0", "got -1"]),
    "report": (["gradcheck", "relu", "--report", "a.pdf"], ["--report", ".html or .json", "a.pdf"]),
    "array": (["gradcheck", "neg", "--backend", "numba"], ["neg", "Use --backend numpy."]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors_are_one_message(capsys, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = case
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_missing_data_says_how_to_get_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path))
    code, _, err = run(capsys, "depth", "--dataset", "mnist")
    assert code == 1
    assert "minires data get mnist" in err
    assert str(tmp_path) in err


def test_unwritable_output_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for command in (["depth"], ["train", "cifar_resnet8"]):
        code, _, err = run(capsys, *command, "--out", str(tmp_path / "file" / "run"))
        assert code == 1
        assert err.startswith("error: ")
        assert str(tmp_path / "file") in err


def test_unwritable_report(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = run(
        capsys, "gradcheck", "relu", "--report", str(tmp_path / "file" / "report.html")
    )
    assert code == 1
    assert err.startswith("error: ")
    assert str(tmp_path / "file") in err
    assert "relu" not in out, "the path is checked before the work"


def test_help_shows_the_defaults(capsys):
    _, out, _ = run(capsys, "depth", "--help")
    text = " ".join(out.replace("│", " ").split())
    for default in ("digits", "8,20,32,56", "both", "0", "by protocol", "A", "quick"):
        assert f"(default: {default})" in text
    assert "(default: runs/depth-<date>)" in text


@pytest.mark.slow
def test_interrupted_before_anything_was_saved(tmp_path):
    code = (
        "import minires.study.runner as runner\n"
        "def stop(*args): raise KeyboardInterrupt\n"
        "runner._load = stop\n"
        "from minires.cli import main\n"
        "main(['depth', '--depths', '8'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 130
    assert "run the same command again" in done.stderr
    assert not list(tmp_path.iterdir())


def test_train_interrupted_in_its_first_epoch_resumes(capsys, tmp_path):
    from minires.train.job import TrainingJob

    class Stop(BaseException): ...

    def stop(step, loss):
        raise Stop

    options = {"limit": 64, "batch_size": 32, "epochs": 1}
    with pytest.raises(Stop):
        TrainingJob(model="cifar_resnet8", **options).prepare(tmp_path).run(on_step=stop)
    code, out, err = run(
        *(capsys, "train", "cifar_resnet8", "--limit", "64", "--batch-size", "32"),
        *("--epochs", "1", "--out", str(tmp_path), "--resume"),
    )
    assert code == 0, err
    assert "Test error" in out


def test_brackets_in_a_path_are_printed(capsys, tmp_path):
    folder = tmp_path / "a [bold]b[/bold]"
    code, out, err = run(
        *(capsys, "train", "cifar_resnet8", "--limit", "32", "--batch-size", "32"),
        *("--epochs", "1", "--out", str(folder)),
    )
    assert code == 0, err
    assert "a [bold]b[/bold]" in out


def test_help_fits_80_columns():
    """The lines of a text below the first paragraph are printed as they stand."""
    import typer

    group = typer.main.get_command(app)
    for command in (*group.commands.values(), *group.commands["data"].commands.values()):
        _, *below = command.help.split("\n\n")
        assert max((len(line) for text in below for line in text.splitlines()), default=0) <= 78
        assert "``" not in command.help


def test_every_option_has_help():
    import typer

    group = typer.main.get_command(app)
    for command in (*group.commands.values(), *group.commands["data"].commands.values()):
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"

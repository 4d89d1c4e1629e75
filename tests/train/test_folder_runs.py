"""Pictures of one's own from a folder to an answer, by the commands that people type."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from harness import raises
from PIL import Image

import minires as mr
from minires import cli
from minires.data import ImageDataset
from minires.errors import ArgumentError, CheckpointError, DataError, NaNError
from minires.optim import Optimizer
from minires.train import load_run, recipe
from minires.train.evaluation import Evaluation, evaluate_run
from minires.train.job import TrainingJob
from minires.vision import folder
from minires.vision.folder import cut_to, read_folder, split


def draw(path: Path, red: bool, seed: int, size=(9, 11)) -> None:
    """A picture of noise, rather red or rather blue."""
    pixels = np.random.default_rng([seed, red]).integers(0, 90, (*size, 3), np.uint8)
    pixels[:, :, 0 if red else 2] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("own") / "colours"
    for k in range(20):
        draw(root / "blue" / f"{k:02}.png", False, k)
        draw(root / "red" / f"{k:02}.png", True, k)
    return root


OPTIONS = ["--epochs", "2", "--batch-size", "8", "--lr", "0.05", "--image-size", "8"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of ``minires arguments``."""
    code = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), " ".join(err.split())


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "colours"
    with mr.backend("numpy"), pytest.raises(SystemExit) as stop:
        cli.main(["train", "cifar_plain8", "--data", str(pictures), *OPTIONS, "--out", str(out)])
    assert not stop.value.code
    return out


# -- predict


def test_predict_tells_the_colours(capsys, trained, tmp_path):
    draw(tmp_path / "new" / "r.png", True, 99)
    draw(tmp_path / "new" / "b.png", False, 99, (20, 14))
    code, out, err = run(capsys, "predict", trained, tmp_path / "new", "--json")
    answers = json.loads(out)
    assert (code, err) == (0, "")
    assert [Path(a["picture"]).name for a in answers] == ["b.png", "r.png"]
    for answer in answers:
        assert sum(c["probability"] for c in answer["classes"]) == pytest.approx(1, abs=1e-5)
        first, second = (c["probability"] for c in answer["classes"])
        assert first >= second
    files = [tmp_path / "new" / "b.png", tmp_path / "new" / "r.png"]
    found = load_run(trained).predict(files)
    best = [("blue", "red")[k] for k in found.argmax(1)]
    assert [a["classes"][0]["class"] for a in answers] == best
    code, out, _ = run(capsys, "predict", trained, tmp_path / "new" / "*.png", "--top", "1")
    assert code == 0
    assert out.count("%") == 2
    assert "█" in out or "▉" in out


def test_an_unreadable_picture_is_named_and_the_others_answered(capsys, trained, tmp_path):
    draw(tmp_path / "good.png", True, 5)
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:90])
    wanted = [tmp_path / name for name in ("half.png", "good.png", "none.png", "*.gif")]
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, "predict", trained, *wanted, tmp_path / "empty", "--json")
    answers = json.loads(out)
    assert code == 1
    assert ["error" in a for a in answers] == [True, False, True, True, True]
    for words in ("half.png: expected a picture", "none.png: expected a picture, got no such file"):
        assert words in err
    assert "expected files of this pattern, got none" in err
    assert "empty: expected pictures, which end in .jpg" in err


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "EXIF", "RGBA", "1"])
def test_pictures_of_every_kind(capsys, trained, tmp_path, mode):
    picture = Image.fromarray(np.full((12, 20, 3), (200, 30, 30), np.uint8))
    path, options = tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), {}
    if mode == "EXIF":
        options["exif"] = picture.getexif()
        options["exif"][0x0112] = 6
    elif mode == "I;16":
        picture = Image.fromarray(np.full((12, 20), 40_000, np.uint16))
    else:
        picture = picture.convert(mode)
    picture.save(path, **options)
    code, out, err = run(capsys, "predict", trained, path, "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)[0]["classes"]) == 2


def test_a_run_without_weights(capsys, trained, tmp_path):
    shutil.copy(trained / "run.toml", tmp_path)
    for command in (["predict", tmp_path, "x.png"], ["evaluate", tmp_path]):
        code, _, err = run(capsys, *command)
        assert code == 1
        assert "got one without weights as yet. Go on with it: minires train --resume." in err
    code, _, err = run(capsys, "predict", tmp_path / "none", "x.png")
    assert code == 1
    assert "error:" in err


# -- evaluate


def test_evaluate_writes_page_and_numbers(capsys, trained):
    code, out, _ = run(capsys, "evaluate", trained)
    assert code == 0
    assert "colours, test part, 4 images: accuracy" in out
    numbers = json.loads((trained / "evaluation.json").read_text())
    result = json.loads((trained / "result.json").read_text())
    assert numbers["error"] == pytest.approx(result["test_error"])
    assert numbers["images"] == result["test_images"] == 4
    assert np.sum(numbers["confusion"]) == 4
    assert sum(b["images"] for b in numbers["calibration"]["bins"]) == 4
    page = (trained / "evaluation.html").read_text()
    assert "default-src 'none'" in page
    assert page.count("data:image/svg+xml") == 4
    assert page.count("data:image/png") == len(numbers["mistakes"])


def test_classes_that_differ_are_named(capsys, trained, tmp_path):
    for name in ("blue", "green"):
        draw(tmp_path / name / "1.png", False, 1)
    code, _, err = run(capsys, "evaluate", trained, "--data", tmp_path)
    assert code == 1
    assert "expected the 2 classes that cifar_plain8 was trained on" in err
    assert "new 'green', missing 'red'" in err
    code, _, err = run(capsys, "evaluate", trained, "--data", tmp_path, "--dataset", "digits")
    assert code == 1
    assert "either a data set or a folder of pictures" in err


def test_another_folder_of_the_same_classes(capsys, trained, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "more")
    (tmp_path / "more" / "red" / "broken.png").write_bytes(b"no picture")
    code, _, err = run(capsys, "evaluate", trained, "--data", tmp_path / "more")
    assert code == 1
    assert "broken.png: expected a picture" in err
    found = None
    with pytest.warns(UserWarning, match=r"broken\.png"):
        found = evaluate_run(trained, tmp_path / "more", skip_unreadable=True)
    assert len(found.right) == 40


def test_a_folder_that_has_changed_has_no_test_part(trained, pictures, tmp_path):
    moved = tmp_path / "colours"
    shutil.copytree(pictures, moved)
    shutil.copytree(trained, tmp_path / "run")
    settings = (tmp_path / "run" / "run.toml").read_text().replace(str(pictures), str(moved))
    (tmp_path / "run" / "run.toml").write_text(settings)
    assert len(evaluate_run(tmp_path / "run").right) == 4
    draw(moved / "red" / "99.png", True, 99)
    with raises(DataError, "some were added, removed or changed", "--data FOLDER"):
        evaluate_run(tmp_path / "run")


def test_numbers_of_an_evaluation_by_hand(trained):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    labels = np.array([0, 0, 1, 1])
    said = np.float32([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.04, 0.96]])
    dataset = ImageDataset("x", "test", images, labels, ("blue", "red"), 255)
    found = Evaluation(load_run(trained).facts, dataset, said)
    assert found.accuracy == 0.75
    assert found.confusion.tolist() == [[1, 1], [0, 2]]
    assert [(c.recall, c.precision) for c in found.classes()] == [(0.5, 1), (1, 2 / 3)]
    assert found.confusions() == [("blue", "red", 1, 2)]
    assert found.mistakes() == [1]
    # gaps of the bins: |1 - 0.9|, |0 - 0.8|, |1 - 0.7|, |1 - 0.96|
    assert found.calibration_error == pytest.approx((0.1 + 0.8 + 0.3 + 0.04) / 4)
    assert found.interval() == pytest.approx((0.300642, 0.954413), abs=1e-5)
    assert found.loss == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.96]).mean())


def test_nan_is_not_an_answer(trained):
    run = load_run(trained)
    next(run.network.parameters()).data[...] = np.nan
    with raises(NaNError, "expected finite probabilities"):
        run.predict([Image.new("RGB", (8, 8))])


# -- settings


def test_a_file_of_settings_and_the_command_line(capsys, trained, tmp_path):
    file = tmp_path / "run.toml"
    for text, words in (
        ("learning_rat = 1", "unknown setting 'learning_rat'"),
        ("epoch = 1", "unknown setting 'epoch': did you mean epochs"),
        ('epochs = "3"', "epochs: expected a whole number from 1"),
        ("epochs = ", "expected TOML in"),
        ('augment = ["flop"]', "augment: expected [0] one of"),
    ):
        file.write_text(text)
        code, _, err = run(
            capsys, "train", "cifar_plain8", "--config", file, "--out", tmp_path / "r"
        )
        assert code == 1
        assert words in err.replace(": expected", " expected") or words in err
    text = (trained / "run.toml").read_text()
    file.write_text(text)
    job = TrainingJob.from_file(file, {"epochs": 7, "optimizer": "adam"})
    assert (job.epochs, job.optimizer, job.momentum, job.batch_size) == (7, "adam", None, 8)
    assert tomllib.loads(text)["momentum"] == 0.9


def test_momentum_and_rate_by_optimizer(tmp_path):
    job = TrainingJob("cifar_plain8", limit=8, optimizer="rmsprop")._checked()
    assert (job.lr, job.momentum) == (0.001, 0.0)
    with raises(ArgumentError, "expected no momentum for adam, got 0.9", "sgd or rmsprop"):
        TrainingJob("cifar_plain8", optimizer="adam", momentum=0.9).prepare(tmp_path)


def test_one_class(capsys, tmp_path):
    draw(tmp_path / "cats" / "1.png", True, 1)
    code, _, err = run(capsys, "train", "cifar_plain8", "--data", tmp_path, "--out", tmp_path / "r")
    assert code == 1
    assert "expected two classes or more in" in err
    assert "got cats. Give each class a folder of its own" in err


def test_truncated_pictures_are_skipped_only_on_request(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "c")
    whole = (tmp_path / "c" / "red" / "00.png").read_bytes()
    (tmp_path / "c" / "red" / "00.png").write_bytes(whole[:100])
    with raises(DataError, "00.png: expected a picture"):
        read_folder(tmp_path / "c")
    with pytest.warns(UserWarning, match=r"00\.png"):
        read = read_folder(tmp_path / "c", skip_unreadable=True)
    assert len(read["train"]) == 39


@pytest.mark.parametrize("schedule", recipe.SCHEDULES)
def test_every_schedule_runs_an_epoch(tmp_path, schedule):
    job = TrainingJob("cifar_plain8", limit=8, batch_size=4, epochs=2, schedule=schedule)
    rows = job.prepare(tmp_path).run()
    assert len(rows) == 2
    assert all(row["lr"] <= 0.1 for row in rows)


@pytest.mark.parametrize("optimizer", recipe.OPTIMIZERS)
def test_every_optimizer_runs_an_epoch(tmp_path, optimizer):
    job = TrainingJob("cifar_plain8", limit=8, batch_size=4, epochs=1, optimizer=optimizer)
    prepared = job.prepare(tmp_path)
    assert type(prepared.optimizer) is recipe.OPTIMIZERS[optimizer]
    assert isinstance(prepared.optimizer, Optimizer)
    assert len(prepared.run()) == 1


@pytest.mark.parametrize("name", recipe.AUGMENTATIONS)
def test_every_augmentation_changes_images_by_seed_and_epoch(pictures, name):
    train = read_folder(pictures, 16)["train"]
    plain = mr.data.Normalize((0, 0, 0), (1, 1, 1))

    def images(epoch):
        loader = recipe.training_loader(train, plain, (name,), batch_size=40, seed=3)
        loader.set_epoch(epoch)
        x, _ = next(iter(loader))
        return x.data

    assert images(0).shape == (40, 3, 16, 16)
    np.testing.assert_array_equal(images(0), images(0))
    assert not np.array_equal(images(0), images(1))
    order = recipe.training_loader(train, plain, (), batch_size=40, seed=3)
    assert not np.array_equal(images(0), next(iter(order))[0].data)


# -- folders


def test_the_split_is_stratified_and_the_same_again(pictures):
    train = read_folder(pictures)["train"]
    rest, held = split(train, 0.1, 7, "val")
    assert np.bincount(held.labels).tolist() == [2, 2]
    assert len(rest) == 36
    assert {*rest.files} | {*held.files} == {*train.files}
    assert split(train, 0.1, 7, "val")[1].files == held.files
    assert split(train, 0.1, 8, "val")[1].files != held.files
    assert train.limit(3).files == train.files[:3]


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (1, 40), (40, 1), (16, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_cut_to_gives_the_size(size, channels):
    found = cut_to(Image.new("RGB", size, (10, 200, 30)), 12, 7, channels)
    assert (found.shape, found.dtype) == ((12, 7, channels), np.uint8)


def test_more_than_memory_is_refused_before_it_is_read(pictures, monkeypatch):
    monkeypatch.setattr(folder, "ROOM", 1000)
    monkeypatch.setattr(folder, "cut_to", None)  # what would be called to read
    with raises(DataError, "40 pictures of 64x64", "Take a smaller size"):
        read_folder(pictures, 64)
    with raises(ArgumentError, "1 or 3 channels"):
        read_folder(pictures, channels=2)


def test_resume_goes_on(capsys, trained, pictures, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    command = ["train", "cifar_plain8", "--data", pictures, *OPTIONS, "--out", tmp_path / "run"]
    code, _, err = run(capsys, *command)
    assert code == 1
    assert "holds a run already" in err
    assert run(capsys, *command, "--resume")[0] == 0
    code, _, err = run(capsys, *command, "--resume", "--augment", "flip")
    assert code == 1
    assert "the settings that" in err
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    assert run(capsys, *command, "--resume")[0] == 0
    after = load_run(tmp_path / "run").network.state_dict()
    for name, value in load_run(trained).network.state_dict().items():
        np.testing.assert_array_equal(after[name].data, value.data)


def test_weights_alone_are_no_run(tmp_path):
    mr.save({"a": mr.zeros(1)}, tmp_path / "best.safetensors")
    with raises(CheckpointError, "weights alone, without their classes"):
        load_run(tmp_path)

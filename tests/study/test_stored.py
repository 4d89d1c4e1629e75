"""State files whose values were changed and signed again: taken sensibly, or refused in one line.

Each field of each file is removed, given another type, NaN, a negative, a huge number, or a field
beside it that does not belong there.
"""

from __future__ import annotations

import copy
import json
import tomllib
import warnings

import pytest
import tomli_w
from harness import raises

import minires as mr
from minires.errors import CheckpointError, MiniresError
from minires.interop.safetensors_ import read_safetensors, write_safetensors
from minires.study import PROTOCOLS, StudyConfig, network, resume_study, run_study, runner, store
from minires.study.stored import results as schema_of_results
from minires.train import load_checkpoint, schema
from minires.train.fit import read_history
from minires.train.job import TrainingJob

SMALL = StudyConfig(depths=(8,), limit=16, protocol=PROTOCOLS["quick"].with_epochs(1))

REMOVED, EXTRA = object(), object()
CHANGES = {
    "removed": REMOVED,
    "extra": EXTRA,
    "null": None,
    "text": "abc",
    "empty": "",
    "surrogate": "\ud800",
    "list": [1],
    "object": {"a": 1},
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative": -1,
    "fraction": 0.5,
    "huge": 10**400,
    "large": 2**62,
    "true": True,
}


def places(value, path=()):
    """The path to every field and item, the first of each list standing for all."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield (*path, name)
            yield from places(entry, (*path, name))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from places(value[0], (*path, 0))


def changed(value, path, change):
    """A copy with one place changed."""
    result = copy.deepcopy(value)
    holder = result
    for step in path[:-1]:
        holder = holder[step]
    if change is REMOVED:
        del holder[path[-1]]
    elif change is EXTRA and isinstance(holder, dict):
        holder["surplus"] = 1
    elif change is EXTRA:
        holder.insert(0, "surplus")
    else:
        holder[path[-1]] = change
    return result


def one_line(error):
    return "\n" not in str(error) and len(str(error)) < 1500


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


@pytest.fixture
def finished(make_results):
    results = make_results((8,), epochs=1)
    results["config"]["limit"] = None
    for run in results["runs"]:
        run["test_loss"] = run["train_loss"]
    results["checksum"] = store._checksum(results)
    return results


def refusal(value):
    """What is said of a results.json; nothing if it fits."""
    try:
        schema.check(schema_of_results, value, "resume results.json")
    except CheckpointError as error:
        return str(error)
    return ""


def test_what_studies_write_fits(finished):
    started = {**finished, "runs": []}
    begun = {"kind": "plain", "depth": 8, "seed": 0, "finished": False, "epochs": []}
    diverged = {**begun, "diverged": "the loss is nan"}
    resumed = {**finished, "resumed_with": [finished["environment"]]}
    for value in (finished, started, {**started, "runs": [begun]}, resumed):
        assert refusal(value) == ""
    assert refusal({**started, "runs": [diverged]}) == ""


def test_a_real_study_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")
    results, _ = run_study(SMALL, tmp_path / "run")
    assert refusal(store.load(tmp_path / "run")) == ""
    assert results["runs"][0]["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_changed_field_of_a_study_is_taken_or_refused(finished, tmp_path, monkeypatch, name):
    class Trains(Exception):
        """A network is missing, and would be trained: that is sensible."""

    def fit(*arguments, **options):
        raise Trains

    monkeypatch.setattr(network, "fit", fit)
    monkeypatch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")
    refused, wrong = 0, []
    for path in places({key: v for key, v in finished.items() if key != "checksum"}):
        value = changed(finished, path, CHANGES[name])
        said = refusal(value)
        if not said:  # then nothing may go wrong with it
            value["checksum"] = store._checksum(value)
            (tmp_path / store.FILE).write_text(json.dumps(value))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    resume_study(tmp_path)
            except MiniresError as error:
                said = str(error)
            except Trains:
                said = ""
            except Exception as error:
                wrong.append(f"{path}: {type(error).__name__}: {error}")
        if "\n" in said or len(said) > 1500:
            wrong.append(f"{path}: {said}")
        refused += bool(said)
    assert not wrong, "\n".join(wrong)
    assert refused >= 25


RELATIONS = {
    "a finished network without its end": (("runs", 0, "gradient_norms", "end"), REMOVED),
    "another number of epochs": (("config", "protocol", "epochs"), 2),
    "a network that was not planned": (("runs", 0, "depth"), 14),
    "another seed": (("runs", 0, "seed"), 3),
    "epochs out of order": (("runs", 0, "epochs", 0, "epoch"), 2),
    "an error above 1": (("runs", 0, "train_error"), 1.5),
    "norms of other layers": (("runs", 0, "layers"), ["conv1"]),
    "other images": (("config", "image_shape"), [3, 8, 8]),
    "the same depth twice": (("config", "depths"), [8, 8]),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_fields_that_do_not_go_together(finished, tmp_path, name):
    value = changed(finished, *RELATIONS[name])
    store.save(value, tmp_path)
    with pytest.raises(MiniresError) as caught:
        resume_study(tmp_path)
    assert one_line(caught.value)


def test_the_same_network_twice(finished, tmp_path):
    store.save({**finished, "runs": [*finished["runs"], finished["runs"][0]]}, tmp_path)
    with raises(CheckpointError, "each network once"):
        resume_study(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "nul", "[]", "1", '"x"', "{}"])
def test_what_is_no_study_at_all(tmp_path, text):
    (tmp_path / store.FILE).write_bytes(text.encode("latin-1"))
    with raises(CheckpointError, "is damaged"):
        resume_study(tmp_path)


# -- trainings


JOB = TrainingJob("cifar_plain8", limit=8, batch_size=8, epochs=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "run"
    with mr.backend("numpy"):
        JOB.prepare(folder).run()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_changed_field_of_a_job_is_refused(trained, tmp_path, name):
    job = tomllib.loads((trained / "run.toml").read_text())
    for path in places(job):
        value = changed(job, path, CHANGES[name])
        try:
            text = tomli_w.dumps(value).encode()
        except (TypeError, ValueError):  # TOML has neither null nor lone surrogates
            continue
        (tmp_path / "run.toml").write_bytes(text)
        if value == job:
            continue
        with pytest.raises(CheckpointError) as caught:
            JOB.prepare(tmp_path, resume=True)
        assert one_line(caught.value), path
        assert "expected" in str(caught.value) or name == "extra"


def test_another_job_does_not_go_on(trained, tmp_path):
    (tmp_path / "run.toml").write_text((trained / "run.toml").read_text())
    other = TrainingJob("cifar_plain8", limit=8, batch_size=4, epochs=1)
    with raises(CheckpointError, "the settings that", "batch_size 8 there and 4 here", "--out"):
        other.prepare(tmp_path, resume=True)
    assert tomllib.loads((tmp_path / "run.toml").read_text())["batch_size"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_changed_field_of_a_checkpoint_is_taken_or_refused(trained, tmp_path, name):
    arrays, metadata, _, _ = read_safetensors(trained / "checkpoint.safetensors", "test")
    content = json.loads(metadata["content"])
    file = tmp_path / "checkpoint.safetensors"
    prepared = JOB.prepare(tmp_path / "other")
    wrong, refused = [], 0
    for path in places(content):
        value = changed(content, path, CHANGES[name])
        write_safetensors(file, arrays, {**metadata, "content": json.dumps(value)})
        said = ""
        try:
            read_history(file)
            load_checkpoint(
                file,
                model=prepared.network,
                optimizer=prepared.optimizer,
                schedule=prepared.schedule,
            )
        except MiniresError as error:
            said = str(error)
        except Exception as error:
            wrong.append(f"{path}: {type(error).__name__}: {error}")
        if "\n" in said or len(said) > 1500:
            wrong.append(f"{path}: {said}")
        refused += bool(said)
    assert not wrong, "\n".join(wrong)
    assert refused >= 10

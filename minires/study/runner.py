"""Runs a study: trains each network, keeps every number on disk, goes on where it was stopped.

A run folder holds ``results.json`` (everything, rewritten after every epoch), ``checkpoints/``
with the states of the networks in training, and at the end the CSV, the figures and the report.
All files are replaced atomically, so whatever moment the process dies at, the folder is whole.

Started by a launcher (``mpiexec``), all processes call the same function. The networks are spread
over them; rank 0 alone reads and writes the folder, but for the checkpoints.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from minires import data, environment
from minires.device import CPU, Device, existing
from minires.distributed.group import Group, current_group
from minires.errors import CheckpointError, message
from minires.files import claimed
from minires.report.figures import FORMATS, matplotlib
from minires.study import figures, protocols, report, spread, store, tables, words
from minires.study.config import StudyConfig, from_json, networks
from minires.study.network import Job, Order, checkpoint_of, compile_networks, multiply_adds
from minires.study.record import Progress, Record, Silent
from minires.study.results import Results, StudyResults
from minires.train.job import STARTED
from minires.train.together import own_device
from minires.vision.folder import digest


def run_study(
    config: StudyConfig,
    folder: str | Path | None = None,
    *,
    command: str = "minires.study.run_study",
    progress: Progress | None = None,
    device: str | Device = CPU,
    lang: str = "en",
) -> tuple[StudyResults, Path]:
    """Train every network of a study in a new folder and write its results there.

    Collective where several processes were started: all call it with the same arguments, and get
    the same results, or the same error.

    Args:
        config: the study.
        folder: a folder that holds no study yet; ``runs/depth-<date and time>`` by default.
        command: how the study was started, for the report.
        progress: told how it goes on, on rank 0.
        device: where the networks are trained; of several processes on a machine ``"cuda"`` gives
            each a GPU of its own, if there are so many, and ``"cuda:0"`` all the same one.
        lang: the language of report, table and figures, ``"en"`` or ``"vi"``.

    Returns:
        The results (the content of ``results.json``, which shows itself) and the folder.

    Raises:
        ArgumentError, DataError, DeviceError: a study that cannot be run, or an unknown language;
            before anything is written.
        CheckpointError: the folder cannot be written, or holds a study already.
    """
    group = current_group()
    lang = spread.agreed(group, words.language, lang)
    job = spread.agreed(group, _prepared, group, config, device)
    _check_same(group, job)

    def lead(train: spread.Train) -> tuple[StudyResults, Path]:
        created = datetime.now()
        path = store.new_folder() if folder is None else Path(folder)
        results: Results = {
            "format": store.FORMAT,
            "created": f"{created:%Y-%m-%dT%H:%M:%S}",
            "command": command,
            "lang": lang,
            "config": {
                **config.to_json(),
                "train_size": len(job.train),
                "test_size": len(job.test),
                "image_shape": list(job.train.shape),
            },
            "environment": _environment(group, job.device),
            "runs": [],
        }
        with claimed(path, "study", _owned(config, path)):
            if (path / store.FILE).exists():
                raise CheckpointError(
                    f"study: {path} holds a study already. Go on with it by --resume {path}, or "
                    "choose another folder."
                )
            if (path / STARTED).exists():
                raise CheckpointError(
                    f"study: {path} holds a training run. Choose another folder by --out."
                )
            store.save(results, path)
            return _go_on(results, path, job, progress or Silent(), train), path

    return spread.led(group, job, lead)


def resume_study(
    folder: str | Path,
    *,
    expect: dict[str, Any] | None = None,
    progress: Progress | None = None,
    device: str | Device | None = None,
    lang: str | None = None,
) -> tuple[StudyResults, Path]:
    """Go on with a study from the last finished epoch of the network that was in training.

    The numbers become, bit for bit, those of a study that was never stopped, if it goes on on the
    same device; the number of processes may be another. Collective, as :func:`run_study` is.

    Args:
        folder: the study's folder.
        expect: settings that the stored configuration must have, by name.
        progress: told how it goes on, on rank 0.
        device: where the networks are trained; by default where they were before, and of several
            processes each on a GPU of its own if that was a GPU.
        lang: the language of report, table and figures; by default the one before.

    Raises:
        ArgumentError: the language is not there.
        DeviceError: the device is not there.
        CheckpointError: no study there, a damaged file, or settings that differ.
    """
    group = current_group()
    path = Path(folder)
    lang = None if lang is None else spread.agreed(group, words.language, lang)
    config, before = group.first(_stored, path, expect or {})
    if group.size > 1 and before.startswith("cuda"):
        before = "cuda"
    job = spread.agreed(group, _prepared, group, config, before if device is None else device)
    _check_same(group, job)

    def lead(train: spread.Train) -> tuple[StudyResults, Path]:
        _check_data(store.load(path)["config"], job.train, job.test, path)
        with claimed(path, "study", _owned(config, path)):
            results = store.load(path)  # once more: another process may just have finished it
            if lang is not None and lang != results.get("lang", "en"):
                results["lang"] = lang
                store.save(results, path)
            _note_other_versions(results, _environment(group, job.device))
            return _go_on(results, path, job, progress or Silent(), train), path

    return spread.led(group, job, lead)


def _prepared(group: Group, config: StudyConfig, device: str | Device) -> Job:
    """What a rank trains with, after a check of all that is given."""
    config.check()
    place = existing(own_device(group, device))
    train, test = _load(config)
    return Job(config, train, test, place)


def _check_same(group: Group, job: Job) -> None:
    """Refuse ranks with other settings, versions or images than rank 0."""
    if group.size > 1:
        images = digest({"train": job.train, "test": job.test})
        facts = {"settings": job.config, "versions": environment.versions(), "images": images}
        spread.check_same(group, facts)


def _environment(group: Group, device: Device) -> dict[str, Any]:
    ranks = {"ranks": group.size} if group.size > 1 else {}
    return {**environment.describe(device), **ranks}


def _stored(path: Path, expect: dict[str, Any]) -> tuple[StudyConfig, str]:
    """The settings of a stored study, which must have those in ``expect``, and its device."""
    results = store.load(path)
    config = from_json(results["config"])
    for name, value in expect.items():
        if name == "protocol":
            have: Any = config.protocol.name
        elif name == "epochs" or name in protocols.RECIPE:
            have = getattr(config.protocol, name)
        else:
            have = getattr(config, name)
        if have != value:
            raise CheckpointError(
                message(
                    f"resume {path}",
                    f"the settings it was started with, {name} {_shown(have)}",
                    f"{name} {_shown(value)}",
                    fix="Leave the option out, or start a new study.",
                )
            )
    last = [results["environment"], *results.get("resumed_with", [])][-1]
    return config, last.get("device", "cpu")


def _check_data(stored: dict[str, Any], train: Any, test: Any, path: Path) -> None:
    """Refuse to go on with other images than the study was started with."""
    before = stored["train_size"], stored["test_size"], tuple(stored["image_shape"])
    now = len(train), len(test), tuple(train.shape)
    if before != now:
        kind = "training and test images, and their shape"
        raise CheckpointError(message(f"resume {path}", f"{kind}: {before}, as at the start", now))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


# Of the environment what does not change numbers: they are the same for any number of threads, and
# each network is trained by one process.
NUMBERS_KEEP = ("commit", "threads", "ranks")


def _note_other_versions(results: Results, now: dict[str, Any]) -> None:
    """Say, and keep, that a study goes on with other versions than it was started with, or
    elsewhere."""
    before = [results["environment"], *results.get("resumed_with", [])][-1]
    keys = [key for key in {**before, **now} if key not in NUMBERS_KEEP]
    differ = [key for key in keys if now.get(key) != before.get(key)]
    if now != before:
        results.setdefault("resumed_with", []).append(now)
    if differ:
        changes = ", ".join(
            f"{key} {before.get(key, 'none')} → {now.get(key, 'none')}" for key in differ
        )
        warnings.warn(
            f"the study was started with other versions ({changes}): the numbers to come may "
            "differ in their last digits from those of an uninterrupted run.",
            UserWarning,
            stacklevel=3,
        )


def _load(config: StudyConfig) -> tuple[data.ImageDataset, data.ImageDataset]:
    train, test = data.load(config.dataset), data.load(config.dataset, train=False)
    return (train if config.limit is None else train.limit(config.limit)), test


def _go_on(
    results: Results, path: Path, job: Job, progress: Progress, train: spread.Train
) -> StudyResults:
    """Train what is not finished yet, then write everything that is derived from the results."""
    matplotlib()  # if it cannot be imported, that is to be known before all training
    planned = networks(job.config)
    job = replace(job, path=path, stored=results["config"])
    costs = {key: multiply_adds(job.config, key, job.train.shape) for key in planned}
    record = Record(results, job, costs, progress)
    known = record.runs
    finished = {key for key, run in known.items() if run["finished"] or "diverged" in run}
    progress.plan(
        path,
        sum(cost * job.in_all for cost in costs.values()),
        sum(costs[key] * job.in_all for key in finished),
    )
    if job.device.type == "cuda" and len(finished) < len(planned):
        compile_networks(job, progress.ready)
    for key, run in known.items():
        if run["finished"]:  # and killed before its checkpoint was removed
            checkpoint_of(path, key).unlink(missing_ok=True)
    epochs = {key: len(run["epochs"]) for key, run in known.items()}
    left = [key for key in planned if key not in finished]
    train(job, [Order(key, costs[key], epochs.get(key, 0)) for key in left], record)
    write_outputs(results, path)
    with contextlib.suppress(OSError):  # empty by now, unless the user keeps something there
        (path / "checkpoints").rmdir()
    return StudyResults(results, path)


def write_outputs(results: Results, path: Path) -> None:
    """Write ``results.csv``, the figures and ``report.html`` into the study's folder."""
    tables.write_csv(results, path / "results.csv")
    figures.draw_all(results, path)
    report.write_report(results, path)


def _owned(config: StudyConfig, path: Path) -> list[Path]:
    """Every file that a study writes."""
    drawn = [f"{name}.{end}" for name in figures.FIGURES for end in FORMATS]
    names = [store.FILE, "results.csv", "report.html", *drawn]
    return [path / name for name in names] + [checkpoint_of(path, key) for key in networks(config)]

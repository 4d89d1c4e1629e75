"""Runs a study: trains each network, keeps every number on disk, goes on where it was stopped.

A run folder holds ``results.json`` (everything, rewritten after every epoch), ``checkpoints/``
with the state of the network in training, and at the end the CSV, the figures and the report.
All files are replaced atomically, so whatever moment the process dies at, the folder is whole.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from minires import arguments, data, environment
from minires.device import CPU, Device, existing
from minires.errors import ArgumentError, CheckpointError, NaNError, message, quoted
from minires.files import claimed
from minires.models import cifar_plain, cifar_resnet
from minires.models.cifar import blocks_per_stage
from minires.nn import CrossEntropyLoss, Module, summary
from minires.random import manual_seed
from minires.report.figures import FORMATS, matplotlib
from minires.study import figures, measures, protocols, report, store, tables, words
from minires.study.results import Results, StudyResults
from minires.study.tables import KINDS
from minires.train import Running, evaluate, fit, recipe
from minires.train.ahead import compile_ahead, training_and_inference
from minires.train.fit import read_history
from minires.train.job import STARTED

EVALUATION_BATCH = 500
PASSES = 3  # over a network for an image that it learns from: one forward, and as much as two back


@dataclass(frozen=True)
class StudyConfig:
    """What a study compares, on which data, by which recipe. Checked by :meth:`check`."""

    dataset: str = "digits"
    depths: tuple[int, ...] = (8, 20, 32, 56)
    kinds: tuple[str, ...] = KINDS
    seeds: tuple[int, ...] = (0,)
    shortcut: str = "A"
    protocol: protocols.Protocol = protocols.PROTOCOLS["quick"]
    limit: int | None = None

    def check(self) -> None:
        """Raise for anything that would fail later.

        Raises:
            ArgumentError: a depth that is not 6n+2, an unknown kind, shortcut or data set, a
                negative seed, or an empty list.
        """
        data.find_source(self.dataset)
        for name in ("depths", "kinds", "seeds"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise ArgumentError(message("study", f"{name} as a tuple", quoted(values)))
            if not values:
                raise ArgumentError(message("study", f"at least one of {name}", "none"))
            if len(set(values)) != len(values):
                raise ArgumentError(message("study", f"each of {name} once", values))
        for depth in self.depths:
            blocks_per_stage(depth)
        for kind in self.kinds:
            arguments.choice("kind of network", kind, KINDS)
        for seed in self.seeds:
            arguments.integer("study", "seed", seed, 0, 2**64 - 1)
        arguments.choice("shortcut", self.shortcut, ("A", "B"))
        if self.limit is not None:
            arguments.integer("study", "limit", self.limit, 1)
        if not isinstance(self.protocol, protocols.Protocol):
            got = quoted(self.protocol)
            raise ArgumentError(message("study", "a protocol of study.PROTOCOLS", got))


class Progress(Protocol):
    """Told how a study goes on; the command line draws it. Work is counted in multiply-adds."""

    def plan(self, folder: Path, total: int, done: int) -> None:
        """Where the results go; the whole work, and how much is done already."""

    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None:
        """Training of a network begins, or goes on after ``done`` epochs; its whole work, and how
        much of it is done."""

    def batch(self, work: int, running: Running) -> None:
        """A batch is done, of training, testing or the final evaluation."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done, and on disk."""

    def evaluating(self) -> None:
        """The last epoch is done: the final errors are being measured."""

    def finished(self, run: dict[str, Any]) -> None:
        """A network's final numbers are there."""

    def ready(self, name: str, done: int, asked: int) -> None:
        """A CUDA kernel is ready, one of so many that are known to be needed by now. Called by
        several threads, one at a time."""


class _Silent:
    def plan(self, folder: Path, total: int, done: int) -> None: ...
    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None: ...
    def batch(self, work: int, running: Running) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def evaluating(self) -> None: ...
    def finished(self, run: dict[str, Any]) -> None: ...
    def ready(self, name: str, done: int, asked: int) -> None: ...


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

    Args:
        config: the study.
        folder: a folder that holds no study yet; ``runs/depth-<date and time>`` by default.
        command: how the study was started, for the report.
        progress: told how it goes on.
        device: where the networks are trained.
        lang: the language of report, table and figures, ``"en"`` or ``"vi"``.

    Returns:
        The results (the content of ``results.json``, which shows itself) and the folder.

    Raises:
        ArgumentError, DataError, DeviceError: a study that cannot be run, or an unknown language;
            before anything is written.
        CheckpointError: the folder cannot be written, or holds a study already.
    """
    config.check()
    lang = words.language(lang)
    place = existing(device)
    train, test = _load(config)
    created = datetime.now()
    path = store.new_folder() if folder is None else Path(folder)
    results: Results = {
        "format": store.FORMAT,
        "created": f"{created:%Y-%m-%dT%H:%M:%S}",
        "command": command,
        "lang": lang,
        "config": {
            **asdict(config),
            **{name: list(getattr(config, name)) for name in ("depths", "kinds", "seeds")},
            "protocol": config.protocol.to_json(),
            "train_size": len(train),
            "test_size": len(test),
            "image_shape": list(train.shape),
        },
        "environment": environment.describe(place),
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
        return _go_on(config, results, path, train, test, progress or _Silent(), place), path


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
    same device.

    Args:
        folder: the study's folder.
        expect: settings that the stored configuration must have, by name.
        progress: told how it goes on.
        device: where the networks are trained; by default where they were before.
        lang: the language of report, table and figures; by default the one before.

    Raises:
        ArgumentError: the language is not there.
        DeviceError: the device is not there.
        CheckpointError: no study there, a damaged file, or settings that differ.
    """
    path = Path(folder)
    lang = None if lang is None else words.language(lang)
    results = store.load(path)
    config = _config(results)
    last = [results["environment"], *results.get("resumed_with", [])][-1]
    place = existing(last.get("device", "cpu") if device is None else device)
    for name, value in (expect or {}).items():
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
    train, test = _load(config)
    _check_data(results["config"], train, test, path)
    with claimed(path, "study", _owned(config, path)):
        results = store.load(path)  # once more: another process may just have finished it
        if lang is not None and lang != results.get("lang", "en"):
            results["lang"] = lang
            store.save(results, path)
        _note_other_versions(results, place)
        return _go_on(config, results, path, train, test, progress or _Silent(), place), path


def _check_data(stored: dict[str, Any], train: Any, test: Any, path: Path) -> None:
    """Refuse to go on with other images than the study was started with."""
    before = stored["train_size"], stored["test_size"], tuple(stored["image_shape"])
    now = len(train), len(test), tuple(train.shape)
    if before != now:
        kind = "training and test images, and their shape"
        raise CheckpointError(message(f"resume {path}", f"{kind}: {before}, as at the start", now))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _config(results: Results) -> StudyConfig:
    """The configuration that a stored study describes."""
    stored = results["config"]
    config = StudyConfig(
        dataset=stored["dataset"],
        depths=tuple(stored["depths"]),
        kinds=tuple(stored["kinds"]),
        seeds=tuple(stored["seeds"]),
        shortcut=stored["shortcut"],
        protocol=protocols.Protocol.from_json(stored["protocol"]),
        limit=stored["limit"],
    )
    config.check()
    return config


def _note_other_versions(results: Results, device: Device) -> None:
    """Say, and keep, that a study goes on with other versions than it was started with, or
    elsewhere."""
    now = environment.describe(device)
    before = [results["environment"], *results.get("resumed_with", [])][-1]
    keys = [key for key in {**before, **now} if key != "commit"]
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
    config: StudyConfig,
    results: Results,
    path: Path,
    train: data.ImageDataset,
    test: data.ImageDataset,
    progress: Progress,
    device: Device,
) -> StudyResults:
    """Train what is not finished yet, then write everything that is derived from the results."""
    matplotlib()  # if it cannot be imported, that is to be known before all training
    planned = _planned(config)
    steps = -(-len(train) // config.protocol.batch_size)
    costs = {key: _multiply_adds(config, key, train.shape) for key in planned}
    images = len(train) + len(test)  # of the final evaluation
    images += config.protocol.epochs * (PASSES * len(train) + len(test))
    known = {(run["depth"], run["kind"], run["seed"]): run for run in results["runs"]}
    finished = {key for key, run in known.items() if run["finished"] or "diverged" in run}
    progress.plan(
        path,
        sum(cost * images for cost in costs.values()),
        sum(costs[key] * images for key in finished),
    )
    if device.type == "cuda" and len(finished) < len(planned):
        _compile_ahead(config, train, test, progress, device)
    for key in planned:
        run = known.get(key)
        if run is not None and run["finished"]:  # and killed before its checkpoint was removed
            _checkpoint(path, key).unlink(missing_ok=True)
        if key in finished:
            continue
        if run is None:
            run = {"kind": key[1], "depth": key[0], "seed": key[2], "finished": False, "epochs": []}
            results["runs"].append(run)
        try:
            _train_one(config, run, costs[key], steps, results, path, train, test, progress, device)
        except NaNError as error:  # the other networks' results are worth having all the same
            run["diverged"] = str(error)
            store.save(results, path)
            warnings.warn(f"{key[1]}-{key[0]}: {error}", UserWarning, stacklevel=2)
    write_outputs(results, path)
    with contextlib.suppress(OSError):  # empty by now, unless the user keeps something there
        (path / "checkpoints").rmdir()
    return StudyResults(results, path)


def _compile_ahead(
    config: StudyConfig,
    train: data.ImageDataset,
    test: data.ImageDataset,
    progress: Progress,
    device: Device,
) -> None:
    """Compile what the networks need on a GPU before the first of them would wait for each kernel.

    Deep networks repeat the blocks of shallow ones. With 20 layers a stage has a first, a middle
    and a last block; with the fewest one may be all of these.
    """
    size = config.protocol.batch_size
    training = {min(size, len(train)), len(train) % size} - {0}
    images = [(part, EVALUATION_BATCH) for part in (train, test)]
    inference = {n for part, most in images for n in (min(most, len(part)), len(part) % most) if n}
    shallow = {min(config.depths), min(20, max(config.depths))}

    def work() -> None:
        for depth in sorted(shallow):
            for kind in config.kinds:
                net = _network(config, (depth, kind, 0), train.shape[0]).to(device)
                optimizer = protocols.make_optimizer(config.protocol, net.parameters())
                training_and_inference(net, optimizer, training, inference, train.shape)

    compile_ahead(device, work, progress.ready)


def write_outputs(results: Results, path: Path) -> None:
    """Write ``results.csv``, the figures and ``report.html`` into the study's folder."""
    tables.write_csv(results, path / "results.csv")
    figures.draw_all(results, path)
    report.write_report(results, path)


def _planned(config: StudyConfig) -> list[tuple[int, str, int]]:
    """(depth, kind, seed) of every network, in the order of training."""
    return [(d, k, s) for d in config.depths for s in config.seeds for k in config.kinds]


def _owned(config: StudyConfig, path: Path) -> list[Path]:
    """Every file that a study writes."""
    drawn = [f"{name}.{end}" for name in figures.FIGURES for end in FORMATS]
    names = [store.FILE, "results.csv", "report.html", *drawn]
    return [path / name for name in names] + [_checkpoint(path, key) for key in _planned(config)]


def _checkpoint(path: Path, key: tuple[int, str, int]) -> Path:
    depth, kind, seed = key
    return path / "checkpoints" / f"{kind}-{depth}-seed{seed}.safetensors"


def _network(config: StudyConfig, key: tuple[int, str, int], channels: int) -> Module:
    depth, kind, seed = key
    manual_seed(seed)
    if kind == "plain":
        return cifar_plain(depth, in_channels=channels)
    return cifar_resnet(depth, shortcut=config.shortcut, in_channels=channels)


def _multiply_adds(config: StudyConfig, key: tuple[int, str, int], shape: tuple[int, ...]) -> int:
    return summary(_network(config, key, shape[0]), (1, *shape)).total_mult_adds


def _train_one(
    config: StudyConfig,
    run: dict[str, Any],
    cost: int,
    steps: int,
    results: Results,
    path: Path,
    train: data.ImageDataset,
    test: data.ImageDataset,
    progress: Progress,
    device: Device,
) -> None:
    """Train one network to the end, or from where its checkpoint left it."""
    protocol, seed = config.protocol, run["seed"]
    key = (run["depth"], run["kind"], seed)
    name = f"{run['kind']}-{run['depth']}" + (f" seed {seed}" if len(config.seeds) > 1 else "")
    checkpoint = _checkpoint(path, key)
    normalize = protocols.make_normalize(protocol, train)
    loader = recipe.training_loader(
        train,
        normalize,
        protocol.augment,
        batch_size=protocol.batch_size,
        seed=seed,
        device=device,
    )
    seen, unseen = (
        data.DataLoader(part, EVALUATION_BATCH, transform=normalize, device=device)
        for part in (train, test)
    )
    probes = data.DataLoader(train, protocol.batch_size, transform=normalize, device=device)
    probe = next(iter(probes))

    model = _network(config, key, train.shape[0]).to(device)
    run["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    run["multiply_adds"] = cost
    run["layers"] = measures.conv_names(model)
    run["gradient_norms"] = {"start": measures.gradient_norms(model, *probe)}
    optimizer = protocols.make_optimizer(protocol, model.parameters())
    schedule = protocols.make_schedule(protocol, optimizer, steps, run["depth"])
    rule = schedule if isinstance(schedule, protocols.StepsWithWarmUp) else None
    history: list[dict[str, Any]] = []
    if checkpoint.exists():
        history = read_history(checkpoint)
    elif run["epochs"]:
        warnings.warn(
            f"{checkpoint} is missing: {name} starts again from its first epoch.",
            UserWarning,
            stacklevel=2,
        )
    if rule is not None:
        for row in history:
            rule.observe(row["train_error"])
    run["epochs"] = history
    one = cost * (PASSES * len(train) + len(test))  # an epoch
    total = cost * (len(train) + len(test)) + one * protocol.epochs
    progress.network(name, protocol.epochs, len(history), total, one * len(history))

    def after_batch(running: Running) -> None:
        progress.batch(cost * running.batch * (PASSES if running.training else 1), running)

    def after_epoch(row: dict[str, Any]) -> None:
        if rule is not None:
            rule.observe(row["train_error"])
        store.save(results, path)
        progress.epoch(row)

    store.save(results, path)
    fit(
        model,
        loader,
        unseen,
        optimizer,
        epochs=protocol.epochs,
        loss_fn=CrossEntropyLoss(label_smoothing=protocol.label_smoothing),
        schedule=schedule,
        checkpoint=checkpoint,
        resume=True,
        config={"study": {**results["config"]}, "network": list(key)},
        history=history,
        on_epoch=after_epoch,
        watch=after_batch,
        capture=True,
        progress=False,  # the study has a display of its own
    )
    start = time.perf_counter()
    progress.evaluating()
    final_train, final_test = (evaluate(model, part, watch=after_batch) for part in (seen, unseen))
    run["gradient_norms"]["end"] = measures.gradient_norms(model, *probe)
    run["train_error"], run["train_loss"] = final_train.error, final_train.loss
    run["test_error"], run["test_loss"] = final_test.error, final_test.loss
    run["seconds"] = sum(row["seconds"] for row in history) + time.perf_counter() - start
    run["finished"] = True
    store.save(results, path)
    checkpoint.unlink()  # all that is wanted of it is in the results now
    progress.finished(run)

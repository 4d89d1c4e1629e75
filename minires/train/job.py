"""One training run by name: a network of the zoo on a data set or a folder of pictures, with the
best weights kept, checkpoints and resume."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from minires import interop, models
from minires.arguments import choice, flag, integer, number
from minires.data import DataLoader, ImageDataset, Normalize, find_source, load
from minires.data.transforms import MAX_SEED
from minires.device import existing
from minires.distributed import current_group
from minires.errors import ArgumentError, CheckpointError, DataError, message
from minires.files import as_path, check_writable, claimed, write_json_atomic
from minires.models.registry import options_of
from minires.nn import CrossEntropyLoss, Module, SyncBatchNorm
from minires.ops import cross_entropy
from minires.optim import Optimizer, no_decay_groups
from minires.optim.swa_utils import AveragedModel, get_ema_avg_fn
from minires.random import manual_seed
from minires.train import recipe, schema, settings
from minires.train.callbacks import Callback, EarlyStopping, ModelCheckpoint, Run, best_epoch
from minires.train.fit import differing, fit, read_history
from minires.train.loop import Running, run_evaluation
from minires.train.together import own_device, together
from minires.train.trained import BEST, Facts
from minires.train.writers import CSVLogger
from minires.vision.folder import Watch, digest, read_folder, split

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"
STARTED = "run.toml"  # what a run was asked to do; there from its start
RESULT = "result.json"  # what came of it; there when it is done


@dataclass(frozen=True)
class TrainingJob:
    """What ``minires train`` is asked to do; the fields are its options, and the lines of a file
    for ``--config``.

    Attributes:
        model: a name from the zoo.
        dataset: the name of a data set; or with ``data`` nothing.
        data: a folder of pictures, see :func:`minires.vision.folder.read_folder`.
        image_size: height and width that pictures of a folder are cut to; None is the median of
            their shorter sides, at most 64.
        skip_unreadable: leave out pictures of a folder that cannot be read.
        validation: the share of the training images, of each class alike, that is held out: the
            weights that do best on it are kept. With 0 the weights of the last epoch are.
        epochs, batch_size, weight_decay: as usual.
        optimizer, schedule: names, see :mod:`minires.train.recipe`.
        lr: the highest learning rate; None is 0.1 for ``sgd`` and 0.001 for the others.
        momentum: of ``sgd`` (None is 0.9) and ``rmsprop`` (None is 0).
        warmup_epochs: in which the rate rises to its peak; None is 1, or 0 before ``plateau``.
        label_smoothing: the share of the uniform distribution in the targets.
        ema: the decay of an exponential moving average of the weights, which is then what is
            evaluated and kept; 0 is none.
        patience: epochs without progress on the validation images after which training ends; 0 is
            never.
        augment: names, see :mod:`minires.train.recipe`.
        limit: train on the first so many images only.
        seed: of weights, order, augmentation, and of what is held out.
        device: ``cpu``, ``cuda:0``; with several ranks ``cuda`` gives each one its own GPU.
        sync_bn: with several ranks, let batch norms use the statistics of the whole batch.
    """

    model: str
    dataset: str | None = None
    data: str | None = None
    image_size: int | None = None
    skip_unreadable: bool = False
    validation: float = 0.1
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    ema: float = 0.0
    patience: int = 0
    augment: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    sync_bn: bool = False

    @classmethod
    def from_file(cls, path: Path, given: Mapping[str, Any]) -> TrainingJob:
        """The job of a file of settings, with those in ``given`` in place of the file's.

        Raises:
            CheckpointError: no such file, or a setting that is unknown or out of range.
            ArgumentError: no model in either.
        """
        op = "train --config"
        values = {**settings.read_settings(path, _FIELDS, op), **given}
        if "data" in given or "dataset" in given:  # the one replaces the other
            values.pop("dataset" if "data" in given else "data", None)
        if "momentum" not in given and given.get("optimizer", "sgd") not in recipe.MOMENTA:
            values.pop("momentum", None)  # the file's was another optimiser's
        if "model" not in values:
            fix = 'Such as model = "cifar_resnet20".'
            raise ArgumentError(message(op, f"the setting model in {path}", "none", fix=fix))
        return cls(**values)

    def settings(self) -> dict[str, Any]:
        """All that a run depends on but the device, so that it may go on on another one; as they
        come back from a file."""
        values = asdict(self)
        del values["device"]
        if not self.sync_bn:  # as in runs from before there was this
            del values["sync_bn"]
        values["augment"] = list(self.augment)
        return values

    def default_name(self) -> str:
        """What the folder of the run is called unless it is given."""
        images = Path(self.data).name if self.data else self.dataset or "digits"
        return f"{self.model}-{images or 'pictures'}"

    def prepare(self, folder: Path, resume: bool = False, watch: Watch | None = None) -> Prepared:
        """Check everything and build network, loaders, optimiser and schedule.

        Args:
            folder: of the run.
            resume: go on with the run in it.
            watch: called with how many pictures of a folder are read, and how many there are.

        Raises:
            ArgumentError: an unknown name or an option out of range.
            DataError, DeviceError: the data set or the device is not there.
            CheckpointError: the folder cannot be written, or holds a run and ``resume`` is off.
        """
        resume = flag("train", "resume", resume)
        return self._checked()._prepare(as_path("train", folder), resume, watch)

    def _checked(self) -> TrainingJob:
        """The same job, its fields plain Python values in range."""
        op = "train"
        if self.data is not None and self.dataset is not None:
            got = f"{self.dataset} and {self.data}"
            raise ArgumentError(message(op, "either a data set or a folder of pictures", got))
        schedule = choice("schedule", self.schedule, recipe.SCHEDULES)
        optimizer = choice("optimizer", self.optimizer, recipe.OPTIMIZERS)
        lr = recipe.RATES[optimizer] if self.lr is None else self.lr
        warmup = self.warmup_epochs
        if warmup is None:
            warmup = 0.0 if schedule == "plateau" else 1.0
        dataset = "digits" if self.dataset is None else self.dataset
        return TrainingJob(
            model=choice("network", self.model, models.list_models()),
            dataset=find_source(dataset).name if self.data is None else None,
            data=None if self.data is None else os.path.abspath(as_path(op, self.data)),
            image_size=_optional(op, "image_size", self.image_size, 8),
            skip_unreadable=flag(op, "skip_unreadable", self.skip_unreadable),
            validation=number(op, "validation", self.validation, least=0, most=0.5),
            epochs=integer(op, "epochs", self.epochs, 1),
            batch_size=integer(op, "batch_size", self.batch_size, 1),
            optimizer=optimizer,
            lr=number(op, "lr", lr, least=0),
            momentum=recipe.momentum_of(optimizer, self.momentum),
            weight_decay=number(op, "weight_decay", self.weight_decay, least=0),
            schedule=schedule,
            warmup_epochs=number(op, "warmup_epochs", warmup, least=0),
            label_smoothing=number(op, "label_smoothing", self.label_smoothing, least=0, below=1),
            ema=number(op, "ema", self.ema, least=0, below=1),
            patience=integer(op, "patience", self.patience, 0),
            augment=recipe.augmentations(self.augment),
            limit=_optional(op, "limit", self.limit, 1),
            seed=integer(op, "seed", self.seed, 0, MAX_SEED),
            device=str(existing(own_device(current_group(), self.device))),
            sync_bn=flag(op, "sync_bn", self.sync_bn),
        )

    def _prepare(self, folder: Path, resume: bool, watch: Watch | None) -> Prepared:
        manual_seed(self.seed)
        if "num_classes" not in options_of(self.model):
            c, h, w = models.create(self.model).image_shape
            raise ArgumentError(
                message(
                    "train",
                    "a network for the images of these data sets",
                    f"{self.model}, made for images ({c}, {h}, {w})",
                    fix=f"Train it from Python: minires.models.create({self.model!r}).",
                )
            )
        current_group().first(self._check_folder, folder, resume)
        images = self._images(watch)
        train, held = images["train"], images["val" if "val" in images else "test"]
        options = {"num_classes": len(train.classes), "in_channels": train.shape[0]}
        network = models.create(self.model, **options).to(self.device)
        if self.sync_bn:
            network = SyncBatchNorm.convert_sync_batchnorm(network)
        mean, std = train.mean(), tuple(s or 1.0 for s in train.std())
        normalize = Normalize(mean, std)
        loader = recipe.training_loader(
            train,
            normalize,
            self.augment,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
        )
        together("train").part_of("train_loader", loader)  # refuses batches too small for ranks
        held_loader, test_loader = (
            DataLoader(part, 500, transform=normalize, device=self.device)
            for part in (held, images["test"])
        )
        optimizer = recipe.make_optimizer(
            self.optimizer,
            no_decay_groups(network, self.weight_decay),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        total = self.epochs * len(loader)
        warmup = round(min((self.warmup_epochs or 0.0) * len(loader), total // 2))
        current_group().first(check_writable, folder / CHECKPOINT)
        averaged = None
        if self.ema:
            averaged = AveragedModel(network, get_ema_avg_fn(self.ema), use_buffers=True)
        return Prepared(
            job=self,
            folder=folder,
            images=images,
            network=network,
            facts=Facts(
                model=self.model,
                options=options,
                classes=train.classes,
                shape=train.shape,
                mean=mean,
                std=std,
                trained_on=train.name,
                images=digest(images),
            ),
            train_loader=loader,
            held_loader=held_loader,
            test_loader=test_loader,
            optimizer=optimizer,
            schedule=recipe.make_schedule(self.schedule, optimizer, total, warmup),
            averaged=averaged,
            batches=(len(loader), len(held_loader)),
            resume=resume,
        )

    def test_images(self, facts: Facts, watch: Watch | None = None) -> ImageDataset:
        """The images that a run of this job was tested with.

        Raises:
            DataError: the images of the run are not there, or others than those it began with.
        """
        # a size that was the usual one may be another by now
        images = replace(self._checked(), image_size=facts.shape[1])._images(watch)
        if digest(images) != facts.images:
            fix = "Name pictures that it has not seen: --data FOLDER."
            expected = f"the images that {facts.model} was trained and tested with"
            got = f"others in {self.data or self.dataset}: some were added, removed or changed"
            raise DataError(message("evaluate", expected, got, fix=fix))
        return images["test"]

    def _images(self, watch: Watch | None) -> dict[str, ImageDataset]:
        """Images to train with, to test with, and unless the share is 0 to validate with."""
        if self.data is not None:
            images = read_folder(
                self.data, self.image_size, skip_unreadable=self.skip_unreadable, watch=watch
            )
            if "test" not in images:
                share = self.validation or 0.1
                images["train"], images["test"] = split(images["train"], share, self.seed, "test")
        else:
            name = self.dataset or "digits"
            images = {"train": load(name), "test": load(name, train=False)}
        if self.limit is not None:
            images["train"] = images["train"].limit(self.limit)
        if self.validation and "val" not in images:
            # other images than a test part by the same seed would hold
            parts = split(images["train"], self.validation, self.seed + 1, "val")
            images["train"], images["val"] = parts
        return images

    def _check_folder(self, folder: Path, resume: bool) -> None:
        """Refuse a folder with a run that this job may not go on with."""
        checkpoint = folder / CHECKPOINT
        if not resume and checkpoint.exists():
            raise CheckpointError(
                f"train: {folder} holds a run already. Go on with it by --resume, or choose "
                "another folder by --out."
            )
        if not resume:
            return
        if not checkpoint.exists() and not (folder / STARTED).exists():
            raise CheckpointError(
                f"train: expected a run to resume in {folder}, got none. Leave out --resume to "
                "start, or name the folder by --out."
            )
        if (folder / STARTED).exists():
            self._check_started(folder / STARTED)
        if checkpoint.exists():
            read_history(checkpoint)  # it is one of fit's

    def _check_started(self, path: Path) -> None:
        """Refuse to go on with other settings than the run was started with."""
        fix = f"Remove {path.name} to go on without what it says."
        try:
            started = settings.read_settings(path, _FIELDS, "train")
        except CheckpointError as error:
            raise CheckpointError(f"{error} {fix}") from error
        wanted = self.settings()
        difference = differing({**dict.fromkeys(wanted), **started}, wanted)
        if difference:
            fix = "Resume with the same settings, or choose another folder by --out."
            expected = f"the settings that {path.parent} was started with"
            raise CheckpointError(message("train", expected, difference, fix=fix))


def _optional(op: str, name: str, value: int | None, least: int) -> int | None:
    return None if value is None else integer(op, name, value, least)


_SIZE = schema.whole(1, 2**31 - 1)
_FIELDS = {  # of a file of settings
    "model": schema.text,
    "dataset": schema.text,
    "data": schema.text,
    "image_size": _SIZE,
    "skip_unreadable": schema.flag,
    "validation": schema.real(0, 0.5),
    "epochs": _SIZE,
    **recipe.SETTINGS,
    "ema": schema.real(0, 1),
    "patience": schema.whole(0, 2**31 - 1),
    "limit": _SIZE,
    "seed": schema.whole(0, MAX_SEED),
    "device": schema.text,
    "sync_bn": schema.flag,
}


class _End(Callback):
    """Remembers why training ended early, if it did."""

    stopped = ""

    def on_fit_end(self, run: Run) -> None:
        self.stopped = run.stopped


@dataclass
class Prepared:
    """A training run that is ready to go."""

    job: TrainingJob
    folder: Path
    images: dict[str, ImageDataset]  # by part: train, val, test
    network: Module
    facts: Facts
    train_loader: DataLoader
    held_loader: DataLoader  # of what is evaluated after each epoch
    test_loader: DataLoader
    optimizer: Optimizer
    schedule: recipe.Schedule
    averaged: AveragedModel | None
    batches: tuple[int, int]  # of an epoch, to train and to evaluate
    resume: bool = False
    result: dict[str, Any] = field(default_factory=dict)  # what :meth:`run` writes at its end
    _end: _End = field(default_factory=_End)

    def summary(self) -> str:
        """What it is going to work with, in a line."""
        train, shape = self.images["train"], " x ".join(map(str, self.facts.shape))
        held = f"{len(self.images['val']):,} to validate, " if "val" in self.images else ""
        return (
            f"{self.facts.model} on {self.facts.trained_on}, {len(self.facts.classes)} classes, "
            f"images {shape}: {len(train):,} to train, {held}{len(self.images['test']):,} to test"
        )

    def outcome(self) -> str:
        """What came of it, in a few lines."""
        result = self.result
        stopped = f"Stopped early: {result['stopped']}.\n" if result["stopped"] else ""
        return (
            f"{stopped}Test error {100 * result['test_error']:.2f} % of {result['test_images']:,} "
            f"images, with the weights of epoch {result['best_epoch']}. Results in {self.folder}"
        )

    def run(
        self,
        on_step: Callable[[int, float], object] | None = None,
        on_epoch: Callable[[dict[str, Any]], object] | None = None,
        watch: Callable[[Running], object] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> list[dict[str, Any]]:
        """Train to the end, and test the best weights once; returns one row per epoch.

        Beside the checkpoint there are then ``best.safetensors`` (for :func:`load_run`), the rows
        in ``history.csv``, and ``result.json``.

        Raises:
            CheckpointError: another process works in the folder, or has just trained there.
        """
        names = (CHECKPOINT, STARTED, HISTORY, BEST, RESULT)
        owned = [self.folder / name for name in names]
        group = current_group()
        with contextlib.ExitStack() as claims:  # of rank 0
            group.first(lambda: claims.enter_context(claimed(self.folder, "train", owned)))
            # once more, now that nobody else may
            group.first(self.job._check_folder, self.folder, self.resume)
            history = self._train(on_step, on_epoch, watch, callbacks)
            self._test(history)
            group.first(claims.close)
            return history

    def _train(
        self,
        on_step: Callable[[int, float], object] | None,
        on_epoch: Callable[[dict[str, Any]], object] | None,
        watch: Callable[[Running], object] | None,
        callbacks: Sequence[Callback],
    ) -> list[dict[str, Any]]:
        job = self.job
        history: list[dict[str, Any]] = []
        current_group().first(settings.write_settings, self.folder / STARTED, job.settings())

        monitor, mode = self._kept_by()
        heard: list[Callback] = [
            ModelCheckpoint(
                self.folder / BEST, monitor=monitor, mode=mode, metadata=self.facts.metadata()
            ),
            CSVLogger(self.folder / HISTORY),
        ]
        if job.patience:
            heard.append(EarlyStopping(job.patience))
        heard += [self._end, *callbacks]
        fit(
            self.network,
            self.train_loader,
            self.held_loader,
            self.optimizer,
            epochs=job.epochs,
            loss_fn=CrossEntropyLoss(label_smoothing=job.label_smoothing),
            schedule=self.schedule,
            averaged=self.averaged,
            callbacks=heard,
            evaluated="val" if "val" in self.images else "test",
            checkpoint=self.folder / CHECKPOINT,
            resume=True,
            config={**job.settings(), "images": self.facts.images},
            history=history,
            on_step=on_step,
            on_epoch=on_epoch,
            watch=watch,
            capture=True,
            progress=False,  # the command line has a display of its own
        )
        return history

    def _kept_by(self) -> tuple[str, str]:
        """The column of the history by which weights are kept, and which end of it is good."""
        return ("val_loss", "min") if "val" in self.images else ("epoch", "max")

    def _test(self, history: list[dict[str, Any]]) -> None:
        """Test the weights that were kept, and write down what came of the run."""
        group = current_group()
        best = models.create(self.facts.model, **self.facts.options)
        best.load_state_dict(group.first(interop.load, self.folder / BEST))
        with_others = together("evaluate")
        part = with_others.part_of("test_loader", self.test_loader, empty=True)
        model = best.to(self.job.device)
        work = with_others.work(model, cross_entropy, None, capture=False)
        tested = run_evaluation(work, part, None, None)
        row = history[best_epoch(history, *self._kept_by())]
        self.result = {
            "best_epoch": row["epoch"],
            "epochs": len(history),
            "stopped": self._end.stopped,
            "test_loss": tested.loss,
            "test_error": tested.error,
            "test_images": tested.examples,
            "seconds": sum(row["seconds"] for row in history),
            "ranks": group.size,
        }
        group.first(write_json_atomic, self.folder / RESULT, self.result)

"""One training run by name: a network of the zoo on a data set, with checkpoints and resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minires import data, models, optim
from minires.arguments import choice, flag, integer, number
from minires.data.transforms import MAX_SEED
from minires.device import existing
from minires.errors import ArgumentError, CheckpointError, message
from minires.files import as_path, check_writable, claimed, write_atomic, write_json_atomic
from minires.models.registry import options_of
from minires.nn import Module
from minires.random import manual_seed
from minires.train import schema
from minires.train.fit import differing, fit, read_history
from minires.train.loop import Running

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "steps", "constant")
CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"
STARTED = "job.json"  # what a run was asked to do; there from its start


@dataclass(frozen=True)
class TrainingJob:
    """What ``minires train`` is asked to do; the fields are its options."""

    model: str
    dataset: str = "digits"
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    augment: bool = False
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree in: all but the device, so that a run may go on on another
        one."""
        settings = asdict(self)
        del settings["device"]
        return settings

    def prepare(self, folder: Path, resume: bool = False) -> Prepared:
        """Check everything and build network, loaders, optimiser and schedule.

        Raises:
            ArgumentError: an unknown name or an option out of range.
            DataError, DeviceError: the data set or the device is not there.
            CheckpointError: the folder cannot be written, or holds a run and ``resume`` is off.
        """
        return self._checked()._prepare(as_path("train", folder), flag("train", "resume", resume))

    def _checked(self) -> TrainingJob:
        """The same job, its fields plain Python values in range."""
        op = "train"
        return TrainingJob(
            model=choice("network", self.model, models.list_models()),
            dataset=self.dataset,  # data.load looks at it
            epochs=integer(op, "epochs", self.epochs, 1),
            batch_size=integer(op, "batch_size", self.batch_size, 1),
            optimizer=choice("optimizer", self.optimizer, OPTIMIZERS),
            lr=number(op, "lr", self.lr, least=0),
            momentum=number(op, "momentum", self.momentum, least=0, below=1),
            weight_decay=number(op, "weight_decay", self.weight_decay, least=0),
            schedule=choice("schedule", self.schedule, SCHEDULES),
            warmup_epochs=number(op, "warmup_epochs", self.warmup_epochs, least=0),
            augment=flag(op, "augment", self.augment),
            limit=None if self.limit is None else integer(op, "limit", self.limit, 1),
            seed=integer(op, "seed", self.seed, 0, MAX_SEED),
            device=str(existing(self.device)),
        )

    def _prepare(self, folder: Path, resume: bool) -> Prepared:
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
        train, test = data.load(self.dataset), data.load(self.dataset, train=False)
        if self.limit is not None:
            train = train.limit(self.limit)
        network = models.create(
            self.model, num_classes=len(train.classes), in_channels=train.shape[0]
        ).to(self.device)
        checkpoint = folder / CHECKPOINT
        done = self._epochs_done(folder, resume)
        normalize = data.Normalize(train.mean(), [s or 1.0 for s in train.std()])
        augment: Any = normalize
        if self.augment:
            augment = data.Compose(
                [normalize, data.RandomCrop(padding=4), data.RandomHorizontalFlip()]
            )
        loader = data.DataLoader(
            train,
            self.batch_size,
            shuffle=True,
            transform=augment,
            seed=self.seed,
            device=self.device,
        )
        test_loader = data.DataLoader(test, 500, transform=normalize, device=self.device)
        optimizer = self._optimizer(network)
        check_writable(checkpoint)
        return Prepared(
            job=self,
            folder=folder,
            network=network,
            train_loader=loader,
            test_loader=test_loader,
            optimizer=optimizer,
            schedule=self._schedule(optimizer, len(loader)),
            batches=len(loader) + len(test_loader),
            epochs_done=min(done, self.epochs),
            resume=resume,
        )

    def _epochs_done(self, folder: Path, resume: bool) -> int:
        """How far the run in the folder is; refuses one that this job may not go on with."""
        checkpoint = folder / CHECKPOINT
        if not resume and checkpoint.exists():
            raise CheckpointError(
                f"train: {folder} holds a run already. Go on with it by --resume, or choose "
                "another folder by --out."
            )
        if not resume:
            return 0
        if not checkpoint.exists() and not (folder / STARTED).exists():
            raise CheckpointError(
                f"train: expected a run to resume in {folder}, got none. Leave out --resume to "
                "start, or name the folder by --out."
            )
        if (folder / STARTED).exists():
            self._check_started(folder / STARTED)
        return len(read_history(checkpoint)) if checkpoint.exists() else 0

    def _check_started(self, path: Path) -> None:
        """Refuse to go on with other settings than the run was started with."""
        fix = f"Remove {path.name} to go on without what it says."
        started = schema.read_json(path, _SCHEMA, "train", fix)
        difference = differing(started, self.settings())
        if difference:
            fix = "Resume with the same settings, or choose another folder by --out."
            expected = f"the settings that {path.parent} was started with"
            raise CheckpointError(message("train", expected, difference, fix=fix))

    def _optimizer(self, network: Module) -> optim.Optimizer:
        groups = optim.no_decay_groups(network, self.weight_decay)
        if self.optimizer == "sgd":
            return optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        kind = optim.Adam if self.optimizer == "adam" else optim.AdamW
        return kind(groups, lr=self.lr)

    def _schedule(self, optimizer: optim.Optimizer, steps: int) -> optim.LRScheduler:
        total = self.epochs * steps
        warmup = round(min(self.warmup_epochs * steps, total // 2))
        main: optim.LRScheduler
        if self.schedule == "cosine":
            main = optim.CosineAnnealingLR(optimizer, T_max=total - warmup)
        elif self.schedule == "steps":
            milestones = [m - warmup for m in (total // 2, total * 3 // 4) if m > warmup]
            main = optim.MultiStepLR(optimizer, milestones=sorted(set(milestones)) or [total])
        else:
            main = optim.ConstantLR(optimizer, factor=1.0, total_iters=0)
        if not warmup:
            return main
        rise = optim.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        return optim.SequentialLR(optimizer, [rise, main], [warmup])


_SIZE = schema.whole(1, 2**31 - 1)
_SCHEMA = schema.record(  # of job.json
    {
        "model": schema.text,
        "dataset": schema.text,
        "epochs": _SIZE,
        "batch_size": _SIZE,
        "optimizer": schema.one_of(OPTIMIZERS),
        "lr": schema.real(0),
        "momentum": schema.real(0),
        "weight_decay": schema.real(0),
        "schedule": schema.one_of(SCHEDULES),
        "warmup_epochs": schema.real(0),
        "augment": schema.flag,
        "limit": schema.optional(_SIZE),
        "seed": schema.whole(0, 2**128 - 1),
    }
)


@dataclass
class Prepared:
    """A training run that is ready to go."""

    job: TrainingJob
    folder: Path
    network: Module
    train_loader: data.DataLoader
    test_loader: data.DataLoader
    optimizer: optim.Optimizer
    schedule: optim.LRScheduler
    batches: int  # of an epoch, to train and to test
    epochs_done: int
    resume: bool = False

    def run(
        self,
        on_step: Callable[[int, float], object] | None = None,
        on_epoch: Callable[[dict[str, Any]], object] | None = None,
        watch: Callable[[Running], object] | None = None,
    ) -> list[dict[str, Any]]:
        """Train to the end; returns one row per epoch, and keeps them in ``history.csv``.

        Raises:
            CheckpointError: another process works in the folder, or has just trained there.
        """
        owned = [self.folder / name for name in (CHECKPOINT, STARTED, HISTORY)]
        with claimed(self.folder, "train", owned):
            self.job._epochs_done(self.folder, self.resume)  # once more, now that nobody else may
            return self._run(on_step, on_epoch, watch)

    def _run(
        self,
        on_step: Callable[[int, float], object] | None,
        on_epoch: Callable[[dict[str, Any]], object] | None,
        watch: Callable[[Running], object] | None,
    ) -> list[dict[str, Any]]:
        history: list[dict[str, Any]] = []
        write_json_atomic(self.folder / STARTED, self.job.settings())

        def after_epoch(row: dict[str, Any]) -> None:
            self._write_history(history)
            if on_epoch is not None:
                on_epoch(row)

        fit(
            self.network,
            self.train_loader,
            self.test_loader,
            self.optimizer,
            epochs=self.job.epochs,
            schedule=self.schedule,
            checkpoint=self.folder / CHECKPOINT,
            resume=True,
            config=self.job.settings(),
            history=history,
            on_step=on_step,
            on_epoch=after_epoch,
            watch=watch,
            capture=True,
        )
        self._write_history(history)
        return history

    def _write_history(self, history: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomic(self.folder / HISTORY, text.getvalue())

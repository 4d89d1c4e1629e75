"""One network of a study: made, trained to its end, and measured.

Nothing here writes results. What comes of a network is returned, how it goes on is told; so the
caller may be this process, or another one on another machine.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minires import data
from minires.device import Device
from minires.models import cifar_plain, cifar_resnet
from minires.nn import CrossEntropyLoss, Module, summary
from minires.random import manual_seed
from minires.study import measures, protocols
from minires.study.config import Key, StudyConfig, name_of
from minires.train import Running, evaluate, fit, recipe
from minires.train.ahead import Ready, compile_ahead, training_and_inference
from minires.train.fit import read_history

EVALUATION_BATCH = 500
PASSES = 3  # over a network for an image that it learns from: one forward, and as much as two back

Run = dict[str, Any]  # a network's entry in results.json


@dataclass(frozen=True)
class Job:
    """What all networks of a study are trained with.

    Attributes:
        config: the study.
        train, test: the images.
        device: where this process trains.
        path: the study's folder.
        stored: the settings as results.json has them, which checkpoints hold too.
    """

    config: StudyConfig
    train: data.ImageDataset
    test: data.ImageDataset
    device: Device
    path: Path = Path()
    stored: dict[str, Any] | None = None

    @property
    def of_an_epoch(self) -> int:
        """Passes of images through a network in an epoch."""
        return PASSES * len(self.train) + len(self.test)

    @property
    def in_all(self) -> int:
        """Passes of images through a network until it is finished."""
        return len(self.train) + len(self.test) + self.config.protocol.epochs * self.of_an_epoch


@dataclass(frozen=True)
class Order:
    """A network to be trained.

    Attributes:
        key: which one.
        cost: the multiply-adds of one image.
        done: how many of its epochs results.json has.
    """

    key: Key
    cost: int
    done: int = 0


class Tell(Protocol):
    """Told how the training of a network goes on."""

    def begun(self, key: Key, run: Run) -> None:
        """Training begins, or goes on after the epochs that ``run`` has."""

    def batch(self, key: Key, work: int, running: Running) -> None:
        """A batch is done, of training, testing or the final evaluation: so many multiply-adds."""

    def epoch(self, key: Key, row: dict[str, Any]) -> None:
        """An epoch is done, and in the checkpoint."""

    def evaluating(self, key: Key) -> None:
        """The last epoch is done: the final errors are being measured."""


def make_network(config: StudyConfig, key: Key, channels: int) -> Module:
    """The network as it is before training."""
    depth, kind, seed = key
    manual_seed(seed)
    if kind == "plain":
        return cifar_plain(depth, in_channels=channels)
    return cifar_resnet(depth, shortcut=config.shortcut, in_channels=channels)


def multiply_adds(config: StudyConfig, key: Key, shape: tuple[int, ...]) -> int:
    """Of one image of this shape (c, h, w)."""
    return summary(make_network(config, key, shape[0]), (1, *shape)).total_mult_adds


def checkpoint_of(path: Path, key: Key) -> Path:
    """The file with the state of a network in training."""
    depth, kind, seed = key
    return path / "checkpoints" / f"{kind}-{depth}-seed{seed}.safetensors"


def compile_networks(job: Job, ready: Ready) -> None:
    """Compile what the networks need on a GPU before the first of them would wait for each kernel.

    Deep networks repeat the blocks of shallow ones. With 20 layers a stage has a first, a middle
    and a last block; with the fewest one may be all of these.
    """
    config, train, test = job.config, job.train, job.test
    size = config.protocol.batch_size
    training = {min(size, len(train)), len(train) % size} - {0}
    images = [(part, EVALUATION_BATCH) for part in (train, test)]
    inference = {n for part, most in images for n in (min(most, len(part)), len(part) % most) if n}
    shallow = {min(config.depths), min(20, max(config.depths))}

    def work() -> None:
        for depth in sorted(shallow):
            for kind in config.kinds:
                net = make_network(config, (depth, kind, 0), train.shape[0]).to(job.device)
                optimizer = protocols.make_optimizer(config.protocol, net.parameters())
                training_and_inference(net, optimizer, training, inference, train.shape)

    compile_ahead(job.device, work, ready)


def train_network(job: Job, order: Order, tell: Tell) -> Run:
    """Train one network to the end, or from where its checkpoint left it.

    Its checkpoint, rewritten after every epoch, is all that it writes, and is still there at the
    end: the caller removes it once the results are safe.

    Args:
        job: the study.
        order: the network.
        tell: told how it goes on, in this thread.

    Returns:
        Everything that results.json has about the network.

    Raises:
        NaNError: training diverged.
        CheckpointError: the checkpoint cannot be written, or is not one of this network.
    """
    config, train, test, device = job.config, job.train, job.test, job.device
    protocol, key, cost = config.protocol, order.key, order.cost
    depth, kind, seed = key
    checkpoint = checkpoint_of(job.path, key)
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

    model = make_network(config, key, train.shape[0]).to(device)
    norms = {"start": measures.gradient_norms(model, *probe)}
    optimizer = protocols.make_optimizer(protocol, model.parameters())
    steps = -(-len(train) // protocol.batch_size)
    schedule = protocols.make_schedule(protocol, optimizer, steps, depth)
    rule = schedule if isinstance(schedule, protocols.StepsWithWarmUp) else None
    history: list[dict[str, Any]] = []
    if checkpoint.exists():
        history = read_history(checkpoint)
    elif order.done:
        warnings.warn(
            f"{checkpoint} is missing: {name_of(config, key)} starts again from its first epoch.",
            UserWarning,
            stacklevel=2,
        )
    if rule is not None:
        for row in history:
            rule.observe(row["train_error"])
    run: Run = {
        "kind": kind,
        "depth": depth,
        "seed": seed,
        "finished": False,
        "epochs": list(history),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": cost,
        "layers": measures.conv_names(model),
        "gradient_norms": norms,
    }

    def after_batch(running: Running) -> None:
        tell.batch(key, cost * running.batch * (PASSES if running.training else 1), running)

    def after_epoch(row: dict[str, Any]) -> None:
        if rule is not None:
            rule.observe(row["train_error"])
        tell.epoch(key, row)

    tell.begun(key, run)
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
        config={"study": {**(job.stored or {})}, "network": list(key)},
        history=history,
        on_epoch=after_epoch,
        watch=after_batch,
        capture=True,
        progress=False,  # the study has a display of its own
    )
    start = time.perf_counter()
    tell.evaluating(key)
    final_train, final_test = (evaluate(model, part, watch=after_batch) for part in (seen, unseen))
    return {
        **run,
        "finished": True,
        "epochs": history,
        "gradient_norms": {**norms, "end": measures.gradient_norms(model, *probe)},
        "train_error": final_train.error,
        "train_loss": final_train.loss,
        "test_error": final_test.error,
        "test_loss": final_test.loss,
        "seconds": sum(row["seconds"] for row in history) + time.perf_counter() - start,
    }

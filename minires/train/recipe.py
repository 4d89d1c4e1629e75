"""Optimisers, schedules, augmentation by name: what options of ``minires train`` stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minires import arguments, data, optim
from minires.data.transforms import Transform
from minires.errors import ArgumentError, message, quoted, unknown
from minires.train import schema
from minires.vision import transforms

Schedule = optim.LRScheduler | optim.ReduceLROnPlateau

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
}
RATES = {"sgd": 0.1, "adam": 0.001, "adamw": 0.001, "rmsprop": 0.001}  # unless one is asked for
MOMENTA = {"sgd": 0.9, "rmsprop": 0.0}  # of those that have momentum
SCHEDULES = ("cosine", "steps", "constant", "linear", "exponential", "one-cycle", "plateau")

# By name: what is done to single pictures, and then to whole batches, always in this order.
PICTURES: dict[str, Callable[[int, int], Any]] = {
    "resized-crop": lambda h, w: transforms.RandomResizedCrop((h, w), scale=(0.5, 1.0)),
    "rotate": lambda h, w: transforms.RandomRotation(15),
    "color": lambda h, w: transforms.ColorJitter(0.2, 0.2, 0.2),
    "erase": lambda h, w: transforms.RandomErasing(),
}
BATCHES: dict[str, Callable[[], Any]] = {
    "crop": lambda: data.RandomCrop(padding=4),
    "flip": data.RandomHorizontalFlip,
}
AUGMENTATIONS = (*PICTURES, *BATCHES)

SETTINGS: dict[str, schema.Schema] = {  # of a recipe, in a file
    "batch_size": schema.whole(1, 2**31 - 1),
    "optimizer": schema.one_of(OPTIMIZERS),
    "lr": schema.real(0),
    "momentum": schema.real(0, 1),
    "weight_decay": schema.real(0),
    "schedule": schema.one_of(SCHEDULES),
    "warmup_epochs": schema.real(0),
    "label_smoothing": schema.real(0, 1),
    "augment": schema.listing(schema.one_of(AUGMENTATIONS)),
}


def augmentations(names: Any) -> tuple[str, ...]:
    """Names of augmentations in the order in which they are applied, each once.

    Raises:
        ArgumentError: an unknown name, or no names.
    """
    given = names.split(",") if isinstance(names, str) else names
    if not isinstance(given, list | tuple):
        expected = f"augment names of {', '.join(AUGMENTATIONS)}"
        raise ArgumentError(message("train", expected, quoted(names)))
    given = [name.strip() if isinstance(name, str) else name for name in given]
    for name in given:
        if not isinstance(name, str) or name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    return tuple(name for name in AUGMENTATIONS if name in given)


class Pictures(data.Dataset):
    """The images of a data set, each changed at random as a PIL image before it becomes numbers."""

    def __init__(self, dataset: data.ImageDataset, names: Sequence[str]) -> None:
        self.dataset, self.names = dataset, tuple(names)
        _, h, w = dataset.shape
        steps = {name: PICTURES[name](h, w) for name in names}
        after = [steps.pop("erase")] if "erase" in steps else []  # works on numbers
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), *steps.values(), transforms.ToTensor(), *after]
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels, labels = self.dataset.pixels([index])
        if self.dataset.scale != 255:  # the digits count to 16
            pixels = (pixels.astype("float32") * (255 / self.dataset.scale)).astype("uint8")
        return self.transform(pixels[0]), int(labels[0])


def training_loader(
    dataset: data.ImageDataset, normalize: Transform, names: Sequence[str], **options: Any
) -> data.DataLoader:
    """A loader of shuffled, augmented and normalised batches; ``options`` are the loader's."""
    single = [name for name in names if name in PICTURES]
    batched = [BATCHES[name]() for name in names if name in BATCHES]
    return data.DataLoader(
        Pictures(dataset, single) if single else dataset,
        shuffle=True,
        transform=data.Compose([normalize, *batched]) if batched else normalize,
        **options,
    )


def momentum_of(optimizer: str, momentum: float | None) -> float | None:
    """The momentum of an optimiser: the one that is given, or its usual one; None if it has none.

    Raises:
        ArgumentError: a momentum out of range, or for an optimiser that has none.
    """
    if momentum is None:
        return MOMENTA.get(optimizer)
    if optimizer not in MOMENTA:
        fix = f"Leave momentum out, or choose {' or '.join(MOMENTA)}."
        raise ArgumentError(message("train", f"no momentum for {optimizer}", momentum, fix=fix))
    return arguments.number("train", "momentum", momentum, least=0, below=1)


def make_optimizer(
    name: str,
    parameters: Any,
    *,
    lr: float | None,
    momentum: float | None,
    weight_decay: float,
) -> optim.Optimizer:
    """An optimiser by name, of parameters or groups of them; None is its usual value."""
    usual = momentum_of(name, momentum)
    options = {} if usual is None else {"momentum": usual}
    lr = RATES[name] if lr is None else lr
    return OPTIMIZERS[name](parameters, lr=lr, weight_decay=weight_decay, **options)


def make_schedule(name: str, optimizer: optim.Optimizer, total: int, warmup: int) -> Schedule:
    """A schedule of ``total`` steps, of which in the first ``warmup`` the rate rises to its peak.

    Raises:
        ArgumentError: a warm-up before "plateau", which counts epochs and not steps.
    """
    if name == "plateau":
        if warmup:
            fix = "Set warmup_epochs to 0, or choose another schedule."
            raise ArgumentError(message("train", "no warm-up before 'plateau'", warmup, fix=fix))
        return optim.ReduceLROnPlateau(optimizer, patience=3)
    if name == "one-cycle":
        peak = [group["lr"] for group in optimizer.param_groups]
        share = warmup / total if warmup else 0.3
        return optim.OneCycleLR(optimizer, peak[0], total, pct_start=share, cycle_momentum=False)
    main = _falling(name, optimizer, max(total - warmup, 1), total, warmup)
    if not warmup:
        return main
    rise = optim.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return optim.SequentialLR(optimizer, [rise, main], [warmup])


def _falling(
    name: str, optimizer: optim.Optimizer, steps: int, total: int, warmup: int
) -> optim.LRScheduler:
    """The rate after the warm-up."""
    if name == "cosine":
        return optim.CosineAnnealingLR(optimizer, T_max=steps)
    if name == "linear":
        return optim.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    if name == "exponential":  # down to a thousandth
        return optim.ExponentialLR(optimizer, gamma=0.001 ** (1 / steps))
    if name == "steps":  # to a tenth at a half and at three quarters, as in He et al. 2015
        milestones = [m - warmup for m in (total // 2, total * 3 // 4) if m > warmup]
        return optim.MultiStepLR(optimizer, milestones=sorted(set(milestones)) or [total])
    return optim.ConstantLR(optimizer, factor=1.0, total_iters=0)

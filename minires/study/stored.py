"""What a study's ``results.json`` must hold; its checksum does not tell who wrote it."""

from __future__ import annotations

from typing import Any

from minires.study.protocols import FORMER, PROTOCOLS, SCHEDULES
from minires.study.tables import KINDS
from minires.study.words import LANGUAGES
from minires.train import recipe
from minires.train.schema import (
    anything,
    demand,
    flag,
    history,
    listing,
    one_of,
    optional,
    real,
    record,
    text,
    whole,
)

DEEPEST = 10_000  # layers
_SIZE = whole(1, 2**31 - 1)
_SEED = whole(0, 2**64 - 1)


def _augment(value: Any, where: str) -> None:
    """Names of augmentations, or the single name that studies had before."""
    schema = one_of(tuple(FORMER)) if isinstance(value, str) else _NAMES
    schema(value, where)


_NAMES = listing(one_of(recipe.AUGMENTATIONS))
_PROTOCOL = record(
    {
        "name": one_of(tuple(PROTOCOLS)),
        "epochs": whole(1, 1_000_000),
        "batch_size": _SIZE,
        "lr": real(0, 1e6),
        "momentum": optional(real(0, 1)),
        "weight_decay": real(0, 1e6),
        "schedule": one_of(SCHEDULES),
        "warmup_epochs": real(0, 1e6),
        "warmup_rule": one_of(("linear", "80%")),
        "normalize": one_of(("channel", "pixel")),
        "augment": _augment,
        "description": text,
    },
    {"optimizer": one_of(recipe.OPTIMIZERS), "label_smoothing": real(0, 0.999)},
)

_CONFIG = record(
    {
        "dataset": text,
        "depths": listing(whole(8, DEEPEST), 1),
        "kinds": listing(one_of(KINDS), 1),
        "seeds": listing(_SEED, 1),
        "shortcut": one_of(("A", "B")),
        "protocol": _PROTOCOL,
        "limit": optional(_SIZE),
        "train_size": _SIZE,
        "test_size": _SIZE,
        "image_shape": listing(_SIZE, 3, 3),
    }
)

SETTINGS = {  # of a study, in a file for --config
    **recipe.SETTINGS,
    "schedule": one_of(SCHEDULES),
    "dataset": text,
    "depths": listing(whole(8, DEEPEST), 1),
    "kinds": listing(one_of(KINDS), 1),
    "seeds": listing(_SEED, 1),
    "shortcut": one_of(("A", "B")),
    "protocol": one_of(tuple(PROTOCOLS)),
    "epochs": whole(1, 1_000_000),
    "limit": _SIZE,
    "device": text,
}

_TEXTS = ("minires", "python", "numpy", "numba", "platform", "cpu")
_OF_GPU = ("device", "gpu", "driver", "cuda_of_driver", "cuda_of_cupy", "cupy")
_ENVIRONMENT = record(
    {**dict.fromkeys(_TEXTS, text), "threads": whole(1), "commit": optional(text)},
    {**dict.fromkeys((*_OF_GPU, "float32_matmul_precision"), text), "ranks": whole(2)},
)

_FINAL = {
    "train_error": real(0, 1),
    "train_loss": real(),
    "test_error": real(0, 1),
    "test_loss": real(),
    "seconds": real(0),
}
_NORMS = listing(real(0), 1)
_RUN = record(
    {"kind": one_of(KINDS), "depth": whole(8, DEEPEST), "seed": _SEED, "finished": flag,
     "epochs": history},
    {
        "parameters": whole(1),
        "multiply_adds": whole(1),
        "layers": listing(text, 1),
        "gradient_norms": record({"start": _NORMS}, {"end": _NORMS}),
        "diverged": text,
        **_FINAL,
    },
)  # fmt: skip
_BEGUN = ("parameters", "multiply_adds", "layers", "gradient_norms")  # what training starts with

_RESULTS = record(
    {
        "format": whole(1),
        "created": text,
        "command": text,
        "config": _CONFIG,
        "environment": _ENVIRONMENT,
        "runs": listing(_RUN),
        "checksum": anything,  # compared by who reads the file
    },
    {"resumed_with": listing(_ENVIRONMENT), "lang": one_of(tuple(LANGUAGES))},
)


def results(value: Any, where: str) -> None:
    """The schema of ``results.json``."""
    _RESULTS(value, where)
    config = value["config"]
    seen = set()
    for index, run in enumerate(value["runs"]):
        at = f"runs[{index}]"
        key = run["depth"], run["kind"], run["seed"]
        for name, entry in zip(("depth", "kind", "seed"), key):
            planned = f"config.{name}s"
            demand(entry in config[f"{name}s"], f"{at}.{name}", f"one of {planned}", entry)
        demand(key not in seen, at, "each network once", key)
        seen.add(key)
        _check_run(run, config["protocol"]["epochs"], at)


def _check_run(run: dict[str, Any], epochs: int, at: str) -> None:
    """That the fields of one network go together."""
    done = len(run["epochs"])
    demand(done <= epochs, f"{at}.epochs", f"at most {epochs}", done)
    needed = [*_BEGUN, *_FINAL] if run["finished"] else _BEGUN if done else ()
    missing = [name for name in needed if name not in run]
    demand(not missing, at, f"the fields {', '.join(needed)}", f"none called {missing[:1]}")
    norms = run.get("gradient_norms", {})
    for when, values in norms.items():
        layers = len(run.get("layers", ()))
        demand(len(values) == layers, f"{at}.gradient_norms.{when}", f"{layers} norms", len(values))
    if run["finished"]:
        demand(done == epochs, f"{at}.epochs", f"{epochs} of a finished network", done)
        demand(
            "end" in norms, f"{at}.gradient_norms", "start and end of a finished network", "start"
        )
        demand("diverged" not in run, at, "a finished network or a diverged one", "both")

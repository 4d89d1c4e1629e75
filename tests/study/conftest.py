"""Made-up but realistic studies: small networks learn, plain-56 gets stuck."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def _run(kind: str, depth: int, seed: int, epochs: int, done: int) -> dict[str, Any]:
    rng = np.random.default_rng([depth, seed, kind == "plain"])
    n = (depth - 2) // 6
    patience = depth / 14 if kind == "plain" else depth / 40
    stuck = 0.84 if kind == "plain" and depth >= 56 else 0.0
    records = []
    for epoch in range(1, done + 1):
        error = stuck + (0.9 - stuck) * np.exp(-1.3 * epoch / patience) + 0.005 * rng.random()
        test = error + 0.03 + 0.01 * rng.random()
        records.append(
            {
                "epoch": epoch,
                "lr": float(0.05 * (1 + np.cos(np.pi * epoch / epochs))),
                "train_loss": float(2.3 * error + 0.004),
                "train_error": round(error * 1500) / 1500,
                "test_loss": float(2.3 * test),
                "test_error": round(test * 297) / 297,
                "seconds": float(0.05 * depth + 0.1 * rng.random()),
            }
        )
    names = [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(n) for c in (1, 2)]
    layers = ["conv1", *names]
    back = np.linspace(1, 0, len(layers))
    growth = depth / 16 if kind == "plain" else 0.5
    noise = np.exp(0.1 * rng.standard_normal(len(layers)))
    run: dict[str, Any] = {
        "kind": kind,
        "depth": depth,
        "seed": seed,
        "parameters": 4714 + 24_000 * n,
        "multiply_adds": 2_500_000 * n,
        "finished": done == epochs,
        "epochs": records,
        "layers": layers,
        "gradient_norms": {"start": (0.3 * 10 ** (growth * back) * noise).tolist()},
    }
    if run["finished"]:
        run |= {key: records[-1][key] for key in ("train_error", "train_loss", "test_error")}
        run["seconds"] = sum(record["seconds"] for record in records)
        run["gradient_norms"]["end"] = (0.02 * 10 ** (0.3 * back) * noise).tolist()
    return run


@pytest.fixture(scope="session")
def make_results() -> Callable[..., dict[str, Any]]:
    """``make_results(depths, kinds, seeds, epochs, done)``: the dictionary of ``minires depth``.

    ``done`` maps (kind, depth, seed) to the epochs of a run cut short, or to None for a run that
    has not started.
    """

    def make(
        depths=(8, 20, 32, 56), kinds=("plain", "residual"), seeds=(0,), epochs=12, done=None
    ) -> dict[str, Any]:
        done = done or {}
        results = {
            "format": 1,
            "created": "2026-11-21T10:00:00",
            "command": "minires depth",
            "config": {
                "dataset": "digits",
                "train_size": 1500,
                "test_size": 297,
                "image_shape": [1, 8, 8],
                "depths": list(depths),
                "kinds": list(kinds),
                "seeds": list(seeds),
                "shortcut": "A",
                "protocol": {
                    "name": "quick",
                    "epochs": epochs,
                    "batch_size": 128,
                    "lr": 0.1,
                    "momentum": 0.9,
                    "weight_decay": 1e-4,
                    "schedule": "cosine",
                    "warmup_epochs": 2,
                    "warmup_rule": "linear",
                    "normalize": "channel",
                    "augment": "none",
                    "description": "A short schedule for a laptop.",
                },
            },
            "environment": {
                "minires": "0.1.0",
                "python": "3.11.7",
                "numpy": "2.4.6",
                "numba": "0.68.1",
                "cpu": "Example CPU @ 3 GHz",
                "threads": 2,
                "platform": "Linux-6.1-x86_64",
                "commit": None,
            },
            "runs": [
                _run(kind, depth, seed, epochs, done.get((kind, depth, seed), epochs))
                for seed in seeds
                for depth in depths
                for kind in kinds
                if done.get((kind, depth, seed), epochs) is not None
            ],
        }
        return json.loads(json.dumps(results, allow_nan=False))  # what a reader of the file gets

    return make

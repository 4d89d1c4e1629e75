"""Keeps the results of a study as its networks are trained, on disk and in planned order, and tells
whoever watches."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

from minires.study import store
from minires.study.config import Key, name_of, networks
from minires.study.network import Job, Run, checkpoint_of
from minires.study.results import Results
from minires.train import Running


class Progress(Protocol):
    """Told how a study goes on; the command line draws it. Work is counted in multiply-adds.

    Several networks may be in training at the same time, on several processes. Each has a name.
    """

    def plan(self, folder: Path, total: int, done: int) -> None:
        """Where the results go; the whole work, and how much is done already."""

    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None:
        """Training of a network begins, or goes on after ``done`` epochs; its whole work, and how
        much of it is done."""

    def batch(self, name: str, work: int, running: Running) -> None:
        """A batch is done, of training, testing or the final evaluation; or a few of them."""

    def epoch(self, name: str, row: dict[str, Any]) -> None:
        """An epoch is done, and on disk."""

    def evaluating(self, name: str) -> None:
        """The last epoch is done: the final errors are being measured."""

    def finished(self, name: str, run: dict[str, Any]) -> None:
        """A network's final numbers are there."""

    def diverged(self, name: str) -> None:
        """A network met NaN, and is given up."""

    def ready(self, name: str, done: int, asked: int) -> None:
        """A CUDA kernel is ready, one of so many that are known to be needed by now. Called by
        several threads, one at a time."""


class Silent:
    """Tells nobody."""

    def plan(self, folder: Path, total: int, done: int) -> None: ...
    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None: ...
    def batch(self, name: str, work: int, running: Running) -> None: ...
    def epoch(self, name: str, row: dict[str, Any]) -> None: ...
    def evaluating(self, name: str) -> None: ...
    def finished(self, name: str, run: dict[str, Any]) -> None: ...
    def diverged(self, name: str) -> None: ...
    def ready(self, name: str, done: int, asked: int) -> None: ...


class Record:
    """The results of a study; ``results.json`` is rewritten at every event that adds to them.

    Args:
        results: all of results.json; its runs are kept in planned order, whichever is begun first.
        job: the study.
        costs: the multiply-adds of an image, by network.
        progress: told of everything.
    """

    def __init__(
        self, results: Results, job: Job, costs: dict[Key, int], progress: Progress
    ) -> None:
        self._results, self._job, self._costs, self._progress = results, job, costs, progress
        self.runs = {(run["depth"], run["kind"], run["seed"]): run for run in results["runs"]}
        self._warned: set[tuple[str, type[Warning]]] = set()

    def _keep(self, key: Key, run: Run) -> None:
        self.runs[key] = run
        planned = networks(self._job.config)
        self._results["runs"] = [self.runs[key] for key in planned if key in self.runs]
        self._save()

    def _save(self) -> None:
        store.save(self._results, self._job.path)

    def _name(self, key: Key) -> str:
        return name_of(self._job.config, key)

    def begun(self, key: Key, run: Run) -> None:
        job, cost, done = self._job, self._costs[key], len(run["epochs"])
        total, gone = cost * job.in_all, cost * job.of_an_epoch * done
        self._keep(key, run)
        self._progress.network(self._name(key), job.config.protocol.epochs, done, total, gone)

    def batch(self, key: Key, work: int, running: Running) -> None:
        self._progress.batch(self._name(key), work, running)

    def epoch(self, key: Key, row: dict[str, Any]) -> None:
        self.runs[key]["epochs"].append(row)
        self._save()
        self._progress.epoch(self._name(key), row)

    def evaluating(self, key: Key) -> None:
        self._progress.evaluating(self._name(key))

    def finished(self, key: Key, run: Run) -> None:
        """A network is trained to its end: all that is wanted of its checkpoint is in ``run``."""
        self._keep(key, run)
        checkpoint_of(self._job.path, key).unlink(missing_ok=True)
        self._progress.finished(self._name(key), run)

    def diverged(self, key: Key, why: str) -> None:
        """A network met NaN; the other networks' results are worth having all the same."""
        depth, kind, seed = key
        blank = {"kind": kind, "depth": depth, "seed": seed, "finished": False, "epochs": []}
        self._keep(key, {**self.runs.get(key, blank), "diverged": why})
        self._progress.diverged(self._name(key))
        warnings.warn(f"{kind}-{depth}: {why}", UserWarning, stacklevel=2)

    def warned(self, text: str, category: type[Warning]) -> None:
        """Something that another process was warned of: said here, once."""
        if (text, category) not in self._warned:
            self._warned.add((text, category))
            warnings.warn(text, category, stacklevel=2)

"""The study's numbers: one row per depth and kind, as a table, as sentences, as CSV.

Everything here reads the ``results`` dictionary that ``minires depth`` stores as ``results.json``.
There are two measures of the training error. The *running* one, ``train_error`` of each entry of a
run's ``epochs``, is counted during the epoch, in training mode, each batch before its own step. The
*final* one, ``train_error`` of the run itself, is measured after the last epoch, in evaluation
mode, over all images. Test errors are always of evaluation mode. Errors are fractions in there
and percent wherever a person reads them; "points" are percentage points. Only finished runs enter
a row: an error taken in mid-schedule is not the final error of anything, so runs cut short are
named (:func:`unfinished`) rather than averaged in.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.files import write_atomic
from minires.study import words
from minires.study.words import Words, sentence

if TYPE_CHECKING:
    from rich.console import Console

KINDS = ("plain", "residual")
MEASURES = ("train_error", "test_error", "train_loss", "seconds")
RECIPE = (
    "epochs",
    "batch_size",
    "lr",
    "momentum",
    "weight_decay",
    "schedule",
    "warmup_epochs",
    "warmup_rule",
    "normalize",
    "augment",
    "optimizer",
    "label_smoothing",
)
VERSIONS = ("minires", "commit", "python", "numpy", "numba", "platform", "cpu", "threads")
CSV_COLUMNS = (
    "dataset",
    "train_size",
    "test_size",
    "kind",
    "depth",
    "shortcut",
    "seed",
    "parameters",
    "epoch",
    "lr",
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "seconds",
    "protocol",
    *(f"protocol_{name}" for name in RECIPE),
    *VERSIONS,
)


def groups(results: Mapping[str, Any]) -> dict[tuple[int, str], list[Mapping[str, Any]]]:
    """The runs by (depth, kind): depths ascending, plain before residual, seeds ascending."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run in sorted(
        results["runs"], key=lambda r: (r["depth"], KINDS.index(r["kind"]), r["seed"])
    ):
        found.setdefault((run["depth"], run["kind"]), []).append(run)
    return found


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One dictionary per (depth, kind), aggregated over the seeds whose run has finished.

    Keys: ``depth``, ``kind``, ``parameters``, ``multiply_adds``, ``seeds`` (finished runs),
    ``unfinished`` (runs cut short), and for each of ``train_error``, ``test_error`` (fractions),
    ``train_loss`` (nats per image), all final ones, and ``seconds`` a dictionary of ``mean``,
    ``min``, ``max`` and ``std`` (sample standard deviation, 0 for a single seed), or None where no
    run has finished.
    """
    table = []
    for (depth, kind), runs in groups(results).items():
        finished = [run for run in runs if run["finished"]]
        row: dict[str, Any] = {
            "depth": depth,
            "kind": kind,
            "parameters": runs[0]["parameters"],
            "multiply_adds": runs[0]["multiply_adds"],
            "seeds": len(finished),
            "unfinished": len(runs) - len(finished),
        }
        for measure in MEASURES:
            row[measure] = _spread([run[measure] for run in finished]) if finished else None
        table.append(row)
    return table


def unfinished(results: Mapping[str, Any]) -> list[str]:
    """The planned runs without a final result, in words, e.g. ``plain-56 (7 of 12 epochs)``."""
    config, say = results["config"], words.of(results)
    epochs = config["protocol"]["epochs"]
    by_name = {(run["depth"], run["kind"], run["seed"]): run for run in results["runs"]}
    planned = {
        (depth, kind, seed)
        for depth in config["depths"]
        for kind in config["kinds"]
        for seed in config["seeds"]
    }
    names = []
    for depth, kind, seed in sorted(planned | by_name.keys()):
        run = by_name.get((depth, kind, seed))
        if run is not None and run["finished"]:
            continue
        done = len(run["epochs"]) if run is not None else 0
        which = say.network(kind, depth)
        if len(config["seeds"]) > 1:
            which = say("network.seed", network=which, seed=seed)
        if done:
            names.append(say("cut short", network=which, done=done, epochs=epochs))
        else:
            names.append(say("not started", network=which))
    return names


def findings(results: Mapping[str, Any]) -> list[str]:
    """What the numbers show, in sentences computed from them; the first is the headline.

    Errors are rounded to a tenth of a percent before they are subtracted, so that the difference
    a reader works out from the sentence is the one it states.
    """
    say = words.of(results)
    finished = {(row["depth"], row["kind"]): row for row in rows(results) if row["seeds"]}
    if not finished:
        return [say("nothing")]
    by_kind = {k: {d: row for (d, kind), row in finished.items() if kind == k} for k in KINDS}
    both = sorted(by_kind["plain"].keys() & by_kind["residual"].keys())
    sentences = []
    if both:
        plain, residual = by_kind["plain"][both[-1]], by_kind["residual"][both[-1]]
        sentences.append(_comparison(say, plain, residual))
    else:
        row = finished[max(finished)]
        text = say(
            "alone",
            network=say.network(row["kind"], row["depth"]),
            train=_tenth(row["train_error"]),
            test=_tenth(row["test_error"]),
            seeds=_seeds(say, [row]),
        )
        sentences.append(sentence(text))
    if trends := _trends(say, by_kind):
        sentences.append(trends)
    return sentences


def degradation(results: Mapping[str, Any], kind: str = "plain") -> float | None:
    """By how many points the deepest finished network of ``kind`` has a higher mean final
    training error than the best shallower one (negative: it trains better); None with fewer than
    two depths.

    This is the paper's degradation measure: a deeper network *contains* the shallower one, so any
    positive value is a failure to optimise, not a lack of capacity (He et al. 2015, Sec. 1).
    """
    errors = [
        (row["depth"], row["train_error"]["mean"])
        for row in rows(results)
        if row["kind"] == kind and row["seeds"]
    ]
    if len(errors) < 2:
        return None
    *shallower, (_, deepest) = sorted(errors)
    return 100 * (deepest - min(error for _, error in shallower))


def percent(spread: Mapping[str, float] | None, seeds: int) -> str:
    """A fraction as percent with two decimals, as in the paper's tables: ``6.61 ± 0.16``."""
    if spread is None:
        return "–"
    text = f"{100 * spread['mean']:.2f}"
    return f"{text} ± {100 * spread['std']:.2f}" if seeds > 1 else text


def mean(spread: Mapping[str, float] | None, digits: int) -> str:
    """The mean with ``digits`` after the point; – for None."""
    return "–" if spread is None else f"{spread['mean']:.{digits}f}"


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print depth × kind with parameters, errors in percent, loss and seconds, then the findings.

    With several seeds errors are mean ± standard deviation and the rest means. Runs without a
    final result are listed below the table. Fits a terminal of 80 columns.
    """
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    config, say = results["config"], words.of(results)
    table = Table(
        title=Text(title(results)),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=HORIZONTALS,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column(say("column.depth"), justify="right")
    table.add_column(say("column.kind"))
    table.add_column(say("column.parameters"), justify="right")
    for measure in MEASURES:
        table.add_column(say(f"column.{measure}"), justify="right", no_wrap=True)
    previous = None
    for row in rows(results):
        if previous not in (None, row["depth"]):
            table.add_section()
        table.add_row(
            str(row["depth"]) if row["depth"] != previous else "",
            say.kind(row["kind"]),
            f"{row['parameters']:,}",
            percent(row["train_error"], row["seeds"]),
            percent(row["test_error"], row["seeds"]),
            mean(row["train_loss"], 4),
            mean(row["seconds"], 1),
        )
        previous = row["depth"]
    console.print(table)
    lines = [say("table.final"), *findings(results)]
    if len(config["seeds"]) > 1:
        lines.append(say("table.spread"))
    if names := unfinished(results):
        lines.append(say("table.unfinished", names=", ".join(names)))
    for line in lines:
        console.print(line, markup=False, highlight=False)


def title(results: Mapping[str, Any]) -> str:
    """The heading of the table and the report, e.g. ``Plain versus residual networks: digits``."""
    config = results["config"]
    kinds = set(config["kinds"])
    which = "both" if len(kinds) > 1 else kinds.pop()
    return words.of(results)(f"title.{which}", dataset=config["dataset"])


def write_csv(results: Mapping[str, Any], path: str | Path) -> None:
    """Write every epoch of every run, one line each, columns :data:`CSV_COLUMNS`.

    ``train_loss`` and ``train_error`` are the running ones of the epoch; the final ones are in
    ``results.json``. Floats are written with ``repr``, which is exact: two runs are the same bit
    for bit if and only if these files agree (but for ``seconds``). A plain network has no shortcut,
    so its ``shortcut`` is ``none``. The file is replaced atomically.
    """
    config, recipe = results["config"], results["config"]["protocol"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for runs in groups(results).values():
        for run in runs:
            known = {
                **results["environment"],
                **{f"protocol_{name}": _cell(recipe.get(name)) for name in RECIPE},
                **{name: config[name] for name in ("dataset", "train_size", "test_size")},
                **run,
                "protocol": recipe["name"],
                "shortcut": config["shortcut"] if run["kind"] == "residual" else "none",
            }
            for epoch in run["epochs"]:
                values = {**known, **epoch}
                writer.writerow(
                    repr(float(v)) if isinstance(v := values[c], float) else v for c in CSV_COLUMNS
                )
    write_atomic(Path(path), text.getvalue())


def _cell(value: Any) -> Any:
    """A setting as a cell: lists as their names; nothing for what a study has not stored."""
    if isinstance(value, list):
        return ",".join(value) or "none"
    return "" if value is None else value


def _spread(values: list[float]) -> dict[str, float]:
    """Mean, range and sample standard deviation; not-a-number if any value is."""
    if not all(math.isfinite(value) for value in values):
        return dict.fromkeys(("mean", "min", "max", "std"), math.nan)
    return {
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def _tenth(spread: Mapping[str, float]) -> float:
    return round(100 * spread["mean"], 1)


def _seeds(say: Words, some: Iterable[Mapping[str, Any]]) -> str:
    counts = sorted({row["seeds"] for row in some})
    if counts == [1]:
        return say("seeds.one")
    return say("seeds.mean", counts=say("and").join(map(str, counts)))


def _comparison(say: Words, plain: Mapping[str, Any], residual: Mapping[str, Any]) -> str:
    """The headline: the two kinds at the deepest depth where both have finished."""
    depth, p, r = plain["depth"], _tenth(plain["train_error"]), _tenth(residual["train_error"])
    gap = round(p - r, 1)
    verdict = say("worse" if gap > 0 else "better" if gap < 0 else "equal", gap=abs(gap))
    note = _seeds(say, [plain, residual])
    if plain["seeds"] > 1 and residual["seeds"] > 1 and gap:
        low, high = (plain, residual) if gap < 0 else (residual, plain)
        apart = low["train_error"]["max"] < high["train_error"]["min"]
        note += ", " + say("apart" if apart else "overlap")
    return say("comparison", depth=depth, plain=p, residual=r, verdict=verdict, note=note)


def _trends(say: Words, by_kind: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """How the final training error of each kind moves from the shallowest to the deepest."""
    clauses: list[str] = []
    for kind, by_depth in by_kind.items():
        if len(by_depth) < 2:
            continue
        first, last = min(by_depth), max(by_depth)
        before, after = (_tenth(by_depth[depth]["train_error"]) for depth in (first, last))
        way = "same" if before == after else "rises" if after > before else "falls"
        moves = say(f"trend.{way}", first=first, last=last, before=before, after=after)
        place = "next" if clauses else "first"
        clauses.append(say(f"trend.{place}", kind=say.kind(kind), moves=moves))
    return "; ".join(clauses) + "." if clauses else ""

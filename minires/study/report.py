"""The study's report: one HTML file that carries its figures, numbers, recipe and versions.

The words and the markup are in ``report/templates/study.html``; all numbers in the prose are
computed here. Every figure is embedded twice, side by side for a desk and stacked for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minires.files import write_atomic
from minires.report.page import render
from minires.study import figures, tables

# Points of training error from which the prose speaks of degradation rather than of chance.
CLEAR = 1.0

RECIPE_NAMES = {
    "name": "protocol",
    "lr": "learning rate",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
    "warmup_epochs": "warm-up epochs",
    "augment": "augmentation",
}


def write_report(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write ``report.html`` into ``folder`` (which must exist) and return its path.

    Works for a study in progress: rows and figures show what has finished, and the report lists
    what has not. An existing report is replaced atomically.
    """
    path = Path(folder) / "report.html"
    write_atomic(path, html(results))
    return path


def html(results: Mapping[str, Any]) -> str:
    """The whole report as one self-contained HTML document."""
    config = results["config"]
    headline, *more = tables.findings(results)
    return render(
        "study.html",
        title=tables.title(results),
        headline=headline,
        more=" ".join(more),
        unfinished=tables.unfinished(results),
        rows_by_depth=_rows_by_depth(results),
        seeds=len(config["seeds"]),
        epochs=config["protocol"]["epochs"],
        train_size=config["train_size"],
        test_size=config["test_size"],
        train_image=_points(1 / config["train_size"]),
        test_image=_points(1 / config["test_size"]),
        figures=[_figure(results, name) for name in figures.FIGURES],
        degradation=_degradation(results),
        description=config["protocol"].get("description", ""),
        recipe=_recipe(config),
        command=results["command"],
        environment=_environment(results),
    )


def _rows_by_depth(results: Mapping[str, Any]) -> dict[int, list[dict[str, str]]]:
    """The table of final numbers: for each depth, one row for each kind."""
    grouped: dict[int, list[dict[str, str]]] = {}
    for row in tables.rows(results):
        shown = {
            "kind": row["kind"],
            "parameters": f"{row['parameters']:,}",
            "train_error": tables.percent(row["train_error"], row["seeds"]),
            "test_error": tables.percent(row["test_error"], row["seeds"]),
            "train_loss": tables.mean(row["train_loss"], 4),
            "seconds": tables.mean(row["seconds"], 1),
            "multiply_adds": f"{row['multiply_adds'] / 1e6:,.2f} M",
        }
        grouped.setdefault(row["depth"], []).append(shown)
    return grouped


def _figure(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A figure in both layouts, as SVG, with its words."""
    return {
        "name": name,
        "wide": figures.render(results, name, "svg"),
        "narrow": figures.render(results, name, "svg", narrow=True),
        "alternative": ALTERNATIVES[name],
        "caption": CAPTIONS[name](results),
    }


def _curves_caption(results: Mapping[str, Any]) -> str:
    text = (
        "Running training error (dashed) and test error (solid) by epoch, as in the paper's Fig. "
        "6; the deeper the network, the darker its line. The running training error is counted in "
        "the epoch, in training mode, each batch before its own step. It can end far from the "
        "final training error of the table and of Figure 2, which is measured in evaluation mode. "
        "Test errors are measured after each epoch, in evaluation mode."
    )
    if (seeds := len(results["config"]["seeds"])) > 1:
        text += f" Lines are means over {seeds} seeds, bands their range."
    return text


def _depth_caption(results: Mapping[str, Any]) -> str:
    text = (
        "Final training and test error against depth. The scale is linear up to 1% and "
        "logarithmic above, so that both 0% and 90% can be read."
    )
    for kind in results["config"]["kinds"]:
        points = tables.degradation(results, kind)
        if points is None:
            continue
        size = f"{abs(points):.1f} points"
        if round(points, 1) > 0:
            text += f" The deepest {kind} network trains {size} worse than the best shallower one."
        elif round(points, 1) < 0:
            text += f" The deepest {kind} network trains {size} better than the best shallower one."
        else:
            text += f" The deepest {kind} network trains as well as the best shallower one."
    return text


def _gradient_caption(results: Mapping[str, Any]) -> str:
    text = (
        "Norm of the loss gradient with respect to the weight of each convolution, from the first "
        "to the last, at the start and at the end of training."
    )
    ratios = []
    for kind in results["config"]["kinds"]:
        runs = [
            run
            for run in results["runs"]
            if run["kind"] == kind and run.get("gradient_norms", {}).get("start")
        ]
        if not runs:
            continue
        run = max(runs, key=lambda run: (run["depth"], -run["seed"]))
        first, *_, last = run["gradient_norms"]["start"]
        if first > 0 and last > 0:
            ratio = first / last
            shown = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"
            ratios.append(f"{shown} in {kind}-{run['depth']}")
    if ratios:
        text += (
            f" At the start, the norm of the first layer over that of the last is "
            f"{' and '.join(ratios)}: above 1, gradients grow on their way back; far below 1, "
            f"they vanish."
        )
    return text


CAPTIONS = {
    "curves": _curves_caption,
    "error_by_depth": _depth_caption,
    "gradient_norms": _gradient_caption,
}
ALTERNATIVES = {
    "curves": "Line charts of running training error and test error by epoch, one panel per kind",
    "error_by_depth": "Line charts of final training and test error against depth",
    "gradient_norms": "Line charts of the gradient norm of each layer at start and end of training",
}


def _degradation(results: Mapping[str, Any]) -> str:
    """Whether deeper plain networks train worse in these results, in one sentence."""
    points = tables.degradation(results, "plain")
    if points is None:
        return "This study has too few finished plain networks to show it."
    if points >= CLEAR:
        return (
            f"It is in these results: the deepest plain network ends {points:.1f} points of "
            f"final training error above the best shallower one."
        )
    if round(points, 1) > 0:
        return (
            f"These results hardly show it: the deepest plain network ends {points:.1f} points of "
            f"final training error above the best shallower one, which may be chance."
        )
    return (
        "It is not in these results: the deepest plain network trains no worse than the best "
        "shallower one. Deeper networks or harder data would be needed."
    )


def _recipe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The data and every setting of the protocol, as names and values."""
    facts = [
        ("data set", config["dataset"]),
        ("images", f"{config['train_size']:,} for training, {config['test_size']:,} for testing"),
        ("image shape", " × ".join(str(size) for size in config["image_shape"])),
        ("depths", ", ".join(map(str, config["depths"]))),
        ("shortcut", f"option {config['shortcut']} (residual networks only)"),
        ("seeds", ", ".join(map(str, config["seeds"]))),
    ]
    for key, value in config["protocol"].items():
        if key != "description":
            facts.append((RECIPE_NAMES.get(key, key.replace("_", " ")), _value(value)))
    return facts


def _environment(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("created", results["created"]), *results["environment"].items()]
    return [(k.replace("_", " "), "unknown" if v is None else _value(v)) for k, v in facts]


def _value(value: object) -> str:
    """A setting as a person writes it: 0.0001, not 0.0001000; lists without brackets."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2g}"

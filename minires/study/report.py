"""The study's report: one HTML file that carries its figures, numbers, recipe and versions.

The markup is in ``report/templates/study.html``, the words are in ``study/words``; all numbers in
the prose are computed here. Every figure is embedded twice, side by side for a desk and stacked for
a phone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minires.files import write_atomic
from minires.report.page import render
from minires.study import figures, tables, words

# Points of training error from which the prose speaks of degradation rather than of chance.
CLEAR = 1.0

COLUMNS = ("depth", "kind", "parameters", *tables.MEASURES, "multiply_adds")


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
    from markupsafe import Markup  # comes with Jinja

    config, spoken = results["config"], words.of(results)

    def say(key: str, **values: Any) -> Markup:
        """Words that may hold markup, with values that may not."""
        return Markup(spoken.table[key]).format(**values)

    headline, *more = tables.findings(results)
    return render(
        "study.html",
        lang=spoken.lang,
        say=say,
        columns=COLUMNS,
        title=tables.title(results),
        headline=headline,
        more=" ".join(more),
        unfinished=tables.unfinished(results),
        rows_by_depth=_rows_by_depth(results),
        seeds=len(config["seeds"]),
        epochs=spoken.epochs(config["protocol"]["epochs"]),
        train_size=config["train_size"],
        test_size=config["test_size"],
        train_image=_points(1 / config["train_size"]),
        test_image=_points(1 / config["test_size"]),
        figures=[_figure(results, name) for name in figures.FIGURES],
        degradation=_degradation(results),
        description=_description(results),
        recipe=_recipe(results),
        command=results["command"],
        environment=_environment(results),
    )


def _rows_by_depth(results: Mapping[str, Any]) -> dict[int, list[dict[str, str]]]:
    """The table of final numbers: for each depth, one row for each kind."""
    grouped: dict[int, list[dict[str, str]]] = {}
    say = words.of(results)
    for row in tables.rows(results):
        shown = {
            "kind": say.kind(row["kind"]),
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
        "alternative": words.of(results)(f"alternative.{name}"),
        "caption": CAPTIONS[name](results),
    }


def _curves_caption(results: Mapping[str, Any]) -> str:
    say, seeds = words.of(results), len(results["config"]["seeds"])
    text = say("caption.curves")
    return text if seeds == 1 else f"{text} {say('caption.seeds', count=seeds)}"


def _depth_caption(results: Mapping[str, Any]) -> str:
    say = words.of(results)
    sentences = [say("caption.depth")]
    for kind in results["config"]["kinds"]:
        points = tables.degradation(results, kind)
        if points is None:
            continue
        rounded = round(points, 1)
        key = "worse" if rounded > 0 else "better" if rounded < 0 else "equal"
        sentences.append(say(f"caption.{key}", kind=say.kind(kind), points=abs(points)))
    return " ".join(sentences)


def _gradient_caption(results: Mapping[str, Any]) -> str:
    say = words.of(results)
    text, ratios = say("caption.norms"), []
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
            ratios.append(
                say("caption.ratio", ratio=shown, network=say.network(kind, run["depth"]))
            )
    if ratios:
        text += " " + say("caption.ratios", ratios=say("and").join(ratios))
    return text


CAPTIONS = {
    "curves": _curves_caption,
    "error_by_depth": _depth_caption,
    "gradient_norms": _gradient_caption,
}


def _degradation(results: Mapping[str, Any]) -> str:
    """Whether deeper plain networks train worse in these results, in one sentence."""
    say, points = words.of(results), tables.degradation(results, "plain")
    if points is None:
        return say("degraded.unknown")
    if points >= CLEAR:
        return say("degraded.clear", points=points)
    if round(points, 1) > 0:
        return say("degraded.hardly", points=points)
    return say("degraded.no")


def _description(results: Mapping[str, Any]) -> str:
    """The protocol in a sentence: ours in the study's language, any other as it was stored."""
    protocol = results["config"]["protocol"]
    key, text = f"about.{protocol['name']}", protocol.get("description", "")
    return words.of(results)(key) if text == words.ENGLISH.get(key) else text


def _recipe(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The data and every setting of the protocol, as names and values."""
    config, say = results["config"], words.of(results)
    sizes = say("recipe.sizes", train=config["train_size"], test=config["test_size"])
    facts = [
        (say("recipe.dataset"), config["dataset"]),
        (say("recipe.images"), sizes),
        (say("recipe.shape"), " × ".join(str(size) for size in config["image_shape"])),
        (say("recipe.depths"), ", ".join(map(str, config["depths"]))),
        (say("recipe.shortcut"), say("recipe.option", option=config["shortcut"])),
        (say("recipe.seeds"), ", ".join(map(str, config["seeds"]))),
    ]
    for key, value in config["protocol"].items():
        if key != "description":
            facts.append((say.name(f"recipe.{key}"), _value(value)))
    return facts


def _environment(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("created", results["created"]), *results["environment"].items()]
    say = words.of(results)
    unknown = say("unknown")
    return [(say.name(f"environment.{k}"), unknown if v is None else _value(v)) for k, v in facts]


def _value(value: object) -> str:
    """A setting as a person writes it: 0.0001, not 0.0001000; lists without brackets."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or value == []:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2g}"

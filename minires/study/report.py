"""The study's report: one HTML file that carries its figures, numbers, recipe and versions.

Every figure is embedded twice, side by side for a desk and stacked for a phone. All text from the
results is escaped; all numbers in the prose are computed from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from minires.files import write_atomic
from minires.report.page import document, paragraph, svg_uri
from minires.report.page import facts as facts_table
from minires.study import figures, tables

PAPER = "https://arxiv.org/abs/1512.03385"

CSS = """
tbody.depth { border-bottom: 1px solid #dfe3e8; }
@media (max-width: 640px) { .spread { display: block; color: #59636e; } }
"""

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
    title = escape(tables.title(results))
    headline, *more = tables.findings(results)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="finding">{escape(headline)}</p>',
        paragraph(" ".join(more)) if more else "",
        _unfinished(results),
        "<h2>Final numbers</h2>",
        _numbers(results),
        "<h2>Figures</h2>",
        *(_figure(results, name) for name in figures.FIGURES),
        "<h2>How to read these figures</h2>",
        _reading(results),
        "<h2>Recipe</h2>",
        _recipe(results),
        "<h2>Environment</h2>",
        _environment(results),
    ]
    body = "\n".join(part for part in parts if part)
    return document(title, body, CSS)


# -- sections ----------------------------------------------------------------------------------


def _unfinished(results: Mapping[str, Any]) -> str:
    names = tables.unfinished(results)
    if not names:
        return ""
    return (
        f'<p class="warning"><strong>Not every run has finished.</strong> Without a final result: '
        f"{escape(', '.join(names))}. They are missing from the final numbers; curves of runs that "
        f"were cut short end in a cross.</p>"
    )


def _numbers(results: Mapping[str, Any]) -> str:
    config = results["config"]
    bodies: list[str] = []
    table = tables.rows(results)
    for depth in dict.fromkeys(row["depth"] for row in table):
        same_depth = [row for row in table if row["depth"] == depth]
        lines = []
        for i, row in enumerate(same_depth):
            span = f'<th scope="rowgroup" rowspan="{len(same_depth)}">{depth}</th>'
            cells = (
                f"{row['parameters']:,}",
                _breakable(tables.percent(row["train_error"], row["seeds"])),
                _breakable(tables.percent(row["test_error"], row["seeds"])),
                tables.mean(row["train_loss"], 4),
                tables.mean(row["seconds"], 1),
                f"{row['multiply_adds'] / 1e6:,.2f} M",
            )
            lines.append(
                f'<tr>{span if i == 0 else ""}<td class="text">{escape(row["kind"])}</td>'
                f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            )
        bodies.append(f'<tbody class="depth">{"".join(lines)}</tbody>')
    n_seeds = len(config["seeds"])
    note = (
        "Errors are mean ± standard deviation over the finished seeds, the other columns means."
        if n_seeds > 1
        else "One seed."
    )
    return (
        '<div class="scroll"><table class="numbers"><thead><tr><th scope="col">depth</th>'
        '<th scope="col" class="text">kind</th><th scope="col">parameters</th>'
        '<th scope="col">final training<br>error %</th><th scope="col">final test<br>error %</th>'
        '<th scope="col">final training<br>loss</th><th scope="col">seconds</th>'
        '<th scope="col">multiply-adds<br>per image</th></tr></thead>'
        f"{''.join(bodies)}</table></div>"
        f'<p class="note">{note} Final: measured after the last epoch, with the networks in '
        f"evaluation mode, over all {config['train_size']:,} training and "
        f"{config['test_size']:,} test images: one image is {_points(1 / config['train_size'])} "
        f"and {_points(1 / config['test_size'])} points.</p>"
    )


def _figure(results: Mapping[str, Any], name: str) -> str:
    """A figure in both layouts with its caption; the browser picks by the width of the page."""
    wide, narrow = (
        svg_uri(figures.render(results, name, "svg", narrow=narrow)) for narrow in (False, True)
    )
    number = list(figures.FIGURES).index(name) + 1
    caption = CAPTIONS[name](results)
    return (
        f'<figure id="{name}"><picture>'
        f'<source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{escape(ALTERNATIVES[name])}"></picture>'
        f"<figcaption><strong>Figure {number}.</strong> {escape(caption)}</figcaption></figure>"
    )


def _curves_caption(results: Mapping[str, Any]) -> str:
    text = (
        "Running training error (thin) and test error (bold) by epoch; plain networks dashed, "
        "residual networks solid, colour is depth. The running training error is counted during "
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


def _reading(results: Mapping[str, Any]) -> str:
    """Two paragraphs: what degradation is and whether it is here; what this run cannot say."""
    config = results["config"]
    protocol = config["protocol"]
    points = tables.degradation(results, "plain")
    if points is None:
        here = "This study has too few finished plain networks to show it."
    elif points >= CLEAR:
        here = (
            f"It is in these results: the deepest plain network ends {points:.1f} points of "
            f"final training error above the best shallower one."
        )
    elif round(points, 1) > 0:
        here = (
            f"These results hardly show it: the deepest plain network ends {points:.1f} points of "
            f"final training error above the best shallower one, which may be chance."
        )
    else:
        here = (
            "It is not in these results: the deepest plain network trains no worse than the best "
            "shallower one. Deeper networks or harder data would be needed."
        )
    first = (
        "<strong>Look at the final training error first.</strong> A plain network is the residual "
        "network with its shortcuts taken out: the same layers and the same recipe. A deeper plain "
        "network can represent whatever a shallower one can, since its extra layers could pass "
        "their input on unchanged; so if it ends with a <em>higher final training error</em>, it "
        "did not overfit (that would be a low training error and a high test error): the optimiser "
        f'failed to find a solution that exists. He et al. (<a href="{PAPER}">2015, '
        "arXiv:1512.03385</a>, Sec. 4.2 and Fig. 6) call this degradation. With shortcuts it goes "
        "away. "
        f"{escape(here)}"
    )
    seeds = len(config["seeds"])
    spread = (
        "with one seed there is no telling how much of a difference is luck"
        if seeds == 1
        else f"{seeds} seeds show the size of the spread but are too few for fine differences"
    )
    one_image = _points(1 / config["test_size"])
    second = (
        "<strong>Then look at the gradients, with care.</strong> The usual suspect is the "
        "vanishing gradient, but the paper argues against it: with batch normalisation the signals "
        "of its plain networks keep healthy norms forward and backward, and three times as many "
        "iterations did not cure them. So read Figure 3 beside Figure 2 and not in its place; a "
        "gradient norm far from that of the other layers tells of a hard start, not by itself of "
        "a bad end. And mind the size of this study: "
        f"{config['train_size']:,} training images and {protocol['epochs']} "
        f"epoch{'s' if protocol['epochs'] > 1 else ''} can show that one kind of network trains "
        "under this recipe where the other does not. They cannot show that the plain network would "
        "never get there with a longer schedule or a recipe of its own, test errors on "
        f"{config['test_size']:,} images move in steps of {one_image} points, and {spread}."
    )
    return f"<p>{first}</p>\n<p>{second}</p>"


def _recipe(results: Mapping[str, Any]) -> str:
    config = results["config"]
    protocol = dict(config["protocol"])
    description = protocol.pop("description", "")
    facts = [
        ("data set", config["dataset"]),
        ("images", f"{config['train_size']:,} for training, {config['test_size']:,} for testing"),
        ("image shape", " × ".join(str(size) for size in config["image_shape"])),
        ("depths", ", ".join(map(str, config["depths"]))),
        ("shortcut", f"option {config['shortcut']} (residual networks only)"),
        ("seeds", ", ".join(map(str, config["seeds"]))),
    ]
    facts += [(RECIPE_NAMES.get(k, k.replace("_", " ")), _value(v)) for k, v in protocol.items()]
    intro = "Every network was trained with this recipe, whatever its kind and depth."
    return paragraph(f"{intro} {description}".strip()) + facts_table(facts)


def _environment(results: Mapping[str, Any]) -> str:
    facts = [("created", results["created"]), *results["environment"].items()]
    shown = [(k.replace("_", " "), "unknown" if v is None else _value(v)) for k, v in facts]
    return (
        f"<p>Command: <code>{escape(results['command'])}</code></p>"
        + facts_table(shown)
        + '<p class="note">Every epoch of every run is in <code>results.csv</code>, everything '
        "above in <code>results.json</code>, both next to this file.</p>"
    )


# -- small parts -------------------------------------------------------------------------------


def _value(value: object) -> str:
    """A setting as a person writes it: 0.0001, not 0.0001000; lists without brackets."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _breakable(text: str) -> str:
    """``mean ± spread`` whose spread goes on a line of its own where the page is narrow."""
    mean, plus_minus, spread = text.partition(" ± ")
    return f'{mean}<span class="spread">{plus_minus}{spread}</span>' if plus_minus else mean


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2g}"

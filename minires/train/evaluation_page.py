"""The page of an evaluation: ``evaluation.html``, with its figures and its pictures in it.

The words and the markup are in ``report/templates/evaluation.html``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from minires.report import figures
from minires.report.figures import GREY, INK, KIND_COLOURS, layout, styled, to_bytes
from minires.report.page import render
from minires.train.evaluation import BINS, Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED = KIND_COLOURS["residual"], KIND_COLOURS["plain"]
COUNTED = 12  # classes up to which the matrix has room for its numbers
NAMED = 40  # classes up to which it has room for their names
SHOWN = 96  # pixels of the longer side of a small picture on the page, at least


def html(evaluation: Evaluation, environment: Mapping[str, Any], command: str) -> str:
    """The whole page as one self-contained HTML document."""
    low, high = evaluation.interval()
    return render(
        "evaluation.html",
        title=f"{evaluation.facts.model} on {evaluation.images.name}",
        evaluation=evaluation,
        low=low,
        high=high,
        unit=_pictures(len(evaluation.right)),
        bins=BINS,
        figures=[
            {
                "name": name,
                "wide": to_bytes(draw(evaluation), "svg"),
                "narrow": to_bytes(draw(evaluation, narrow=True), "svg"),
                "alternative": alternative,
                "caption": caption,
            }
            for name, draw, alternative, caption in (
                ("confusion", draw_confusion, CONFUSION, CONFUSION_CAPTION),
                ("reliability", draw_reliability, RELIABILITY, RELIABILITY_CAPTION),
            )
        ],
        mistakes=[_mistake(evaluation, index) for index in evaluation.mistakes()],
        environment=[
            (k.replace("_", " "), "unknown" if v is None else v) for k, v in environment.items()
        ],
        command=command,
    )


CONFUSION = "A table of colours: classes by rows, what they were taken for by columns"
CONFUSION_CAPTION = (
    "Rows are the classes of the images, columns what the network took them for; colour is the "
    "share of the row, numbers are images. All that is off the diagonal is mistaken."
)
RELIABILITY = "Bars of accuracy by confidence beside the diagonal, and how many images there are"
RELIABILITY_CAPTION = (
    "Of images that the network is 80 % sure of, 80 % should be told right: bars on the diagonal. "
    "Below it the network is too sure of itself, above it not sure enough. Below, how many images "
    "there are of each confidence: bars of few images say little."
)


def _pictures(n: int) -> str:
    return f"{n:,} image" + ("" if n == 1 else "s")


def _mistake(evaluation: Evaluation, index: int) -> dict[str, Any]:
    """A picture that was told wrong, and what was said of it."""
    names, label = evaluation.facts.classes, int(evaluation.images.labels[index])
    return {
        "png": _png(evaluation, index),
        "called": evaluation.called(index),
        "of": names[label],
        "taken_for": names[evaluation.predicted[index]],
        "confidence": float(evaluation.confidence[index]),
        "own": float(evaluation.probabilities[index, label]),
    }


def _png(evaluation: Evaluation, index: int) -> bytes:
    """A picture as the network saw it; a small one with its pixels as squares."""
    pixels, _ = evaluation.images.pixels([index])
    if evaluation.images.scale != 255:  # the digits count to 16
        pixels = (pixels.astype(np.float32) * (255 / evaluation.images.scale)).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if pixels.shape[3] == 3 else pixels[0, :, :, 0])
    factor = -(-SHOWN // max(picture.size))
    if factor > 1:
        size = picture.width * factor, picture.height * factor
        picture = picture.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


@styled
def draw_confusion(evaluation: Evaluation, narrow: bool = False) -> Figure:
    """The confusion matrix; colours are shares of the rows."""
    from matplotlib.figure import Figure

    table, names = evaluation.confusion, evaluation.facts.classes
    k = len(names)
    side = min(max(1.9 + 0.42 * k, 3.4), 3.9 if narrow else 7.5)
    figure = Figure(figsize=(side + 0.5, side), layout=layout())
    axes = figure.add_subplot()
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    size = 9 if k <= COUNTED else 6
    if k <= NAMED:
        short = [name if len(name) <= 16 else name[:15] + "…" for name in names]
        upright = k > 3 or max(map(len, short)) > 8
        axes.set_xticks(range(k), short, rotation=90 if upright else 0, size=size, parse_math=False)
        axes.set_yticks(range(k), short, size=size, parse_math=False)
    if k <= COUNTED and not (narrow and k > 6 and table.max() > 999):
        for i, j in np.ndindex(k, k):
            colour = "white" if share[i, j] > 0.5 else INK
            axes.text(j, i, f"{table[i, j]}", ha="center", va="center", color=colour, size=size)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    return figure


@styled
def draw_reliability(evaluation: Evaluation, narrow: bool = False) -> Figure:
    """The reliability diagram, and below it how many images each confidence has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 4.4) if narrow else (5.6, 5.2), layout=layout())
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins, width = evaluation.bins(), 1 / BINS
    left = [b.low for b in bins]
    upper.bar(
        left,
        [b.accuracy for b in bins],
        width,
        align="edge",
        color=BLUE,
        edgecolor="white",
        label="accuracy",
    )
    upper.plot(
        [b.confidence for b in bins],
        [b.confidence for b in bins],
        "o",
        color=RED,
        markersize=4,
        label="mean confidence",
    )
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 1.6)), linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share told right")
    upper.legend(loc="upper left")
    lower.bar(left, [b.images for b in bins], width, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="confidence", ylabel="images")
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter(figures.plain_number)
    return figure

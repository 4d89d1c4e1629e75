"""``grad_cam`` and ``saliency``: on what of a picture the score of a class depends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import enable_grad, grad
from minires.errors import GraphError, message
from minires.nn.trace import initialized
from minires.ops import interpolate, softmax
from minires.report.figures import GREY, heading, layout, styled
from minires.show.given import Given, given, on_host
from minires.show.running import layer_name, maps_of, no_maps, target_of, watched
from minires.show.shown import SMALL, Shown, bare, colour_bar, draw_picture
from minires.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class GradCAM(Shown):
    """Of :func:`grad_cam`.

    Attributes:
        figure: a Matplotlib figure.
        layer: the layer's name.
        target: the class, by its number.
        score: of the class, as the network returns it.
        probability: the softmax of the scores there.
        weights: (c,), how much the score rises with each map.
        cam: (h', w') of the maps' size: where the maps raise the score, >= 0.
        heatmap: (h, w), the same scaled up to the picture, bilinear.
        picture: (h, w) or (h, w, 3) in 0..1, as it is shown.
    """

    layer: str
    target: int
    score: float
    probability: float
    weights: np.ndarray
    cam: np.ndarray
    heatmap: np.ndarray
    picture: np.ndarray

    def facts(self) -> str:
        where = f"layer {self.layer!r}" if self.layer else "the network's maps"
        return f"Grad-CAM at {where} for class {self.target}: cam {self.cam.shape}"


def grad_cam(
    net: Any,
    x: Any,
    target: int | str | None = None,
    layer: Any = None,
    *,
    normalize: Any = None,
    size: Any = None,
) -> GradCAM:
    """Where in a picture the feature maps of a layer raise the score of a class.

    With A the maps of the layer, (c, h', w'), and s the score of the class, before any softmax::

        weights[k] = mean over places (i, j) of ∂s/∂A[k, i, j]
        cam = relu(sum over k of weights[k] * A[k])

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2. The network runs in evaluation mode.

    Args:
        net, x, normalize, size: see :func:`feature_maps`.
        target: the number of a class, or for a run its name; by default the one with the highest
            score.
        layer: whose maps, by its name or itself; by default the last one that returns maps, as in
            the paper. Of one that is called several times the last call counts.

    Raises:
        ArgumentError: no such layer (names the nearest), one that is not called, or no network
            with maps; no such class; no picture.
        ShapeError: a layer that returns no maps; a network that returns no scores (1, classes);
            several pictures.
        GraphError: the score does not depend on the maps in a way that can be differentiated.
        DataError: a file that is no picture.
    """
    op = "grad_cam"
    what = _ready(given(op, net, x, normalize, size))
    name = None if layer is None else layer_name(op, what.net, layer)
    with enable_grad():
        seen = watched(what)
        if name is None:
            found = seen.maps()
            if not found:
                raise no_maps(op, what.net)
            name = found[-1][0]
        maps = maps_of(op, seen, name)
        label = target_of(op, seen.output, target, what.classes)
        score = seen.output[0, label]
        slope = _slope(op, score, maps, f"the maps of {name!r}")
    a, g = on_host(maps)[0], on_host(slope)[0]  # (c, h', w')
    weights = g.mean((1, 2))
    cam = np.maximum(np.tensordot(weights, a, 1), 0)  # (h', w')
    h, w = what.x.shape[2:]
    heatmap = on_host(interpolate(Tensor(cam[None, None]), size=(h, w), mode="bilinear"))[0, 0]
    probability = _probability(seen.output, label)
    title = f"Grad-CAM at {name or 'the last maps'}"
    figure = _over(what.picture, heatmap, title, _class(label, what.classes), probability)
    return GradCAM(
        figure, name, label, float(score.item()), probability, weights, cam, heatmap, what.picture
    )


@dataclass(frozen=True, eq=False, repr=False)
class Saliency(Shown):
    """Of :func:`saliency`.

    Attributes:
        figure: a Matplotlib figure.
        target: the class, by its number.
        score: of the class, as the network returns it.
        probability: the softmax of the scores there.
        gradient: (c, h, w), of the score with respect to what the network was given.
        saliency: (h, w), the largest |gradient| of the channels.
        picture: (h, w) or (h, w, 3) in 0..1, as it is shown.
    """

    target: int
    score: float
    probability: float
    gradient: np.ndarray
    saliency: np.ndarray
    picture: np.ndarray

    def facts(self) -> str:
        return f"Saliency for class {self.target}: gradient {self.gradient.shape}"


def saliency(
    net: Any,
    x: Any,
    target: int | str | None = None,
    *,
    normalize: Any = None,
    size: Any = None,
) -> Saliency:
    """Which pixels move the score of a class most::

        saliency[i, j] = max over channels k of |∂score/∂x[k, i, j]|

    Simonyan et al. 2013, arXiv:1312.6034, section 3.1. The network runs in evaluation mode.

    Args:
        net, x, normalize, size: see :func:`feature_maps`.
        target: see :func:`grad_cam`.

    Raises:
        ArgumentError: no such class; no picture.
        ShapeError: a network that returns no scores (1, classes); several pictures.
        GraphError: the score does not depend on the picture in a way that can be differentiated.
        DataError: a file that is no picture.
    """
    op = "saliency"
    what = _ready(given(op, net, x, normalize, size))
    with enable_grad():
        seen = watched(what)
        label = target_of(op, seen.output, target, what.classes)
        score = seen.output[0, label]
        slope = _slope(op, score, what.x, "the picture")
    gradient = on_host(slope)[0]  # (c, h, w)
    largest = np.abs(gradient).max(0)
    probability = _probability(seen.output, label)
    figure = _over(
        what.picture, largest, "Saliency", _class(label, what.classes), probability, blend=False
    )
    return Saliency(
        figure, label, float(score.item()), probability, gradient, largest, what.picture
    )


def _ready(what: Given) -> Given:
    """With an input that requires grad, so that frozen networks have gradients too."""
    net = initialized(what.net, [what.x])
    return Given(net, what.x.requires_grad_(), what.picture, what.classes)


def _slope(op: str, score: Tensor, x: Tensor, name: str) -> Tensor:
    """∂score/∂x."""
    slope = None
    if score.requires_grad and x.requires_grad:
        (slope,) = grad(score, x, allow_unused=True)
    if slope is None:
        fix = "Detached tensors and no_grad() inside forward() cut the way."
        got = "one that backward does not reach"
        raise GraphError(message(op, f"a score that depends on {name}", got, fix=fix))
    return slope


def _probability(output: Tensor, label: int) -> float:
    return float(softmax(output.detach(), 1)[0, label].item())


def _class(label: int, classes: tuple[str, ...]) -> str:
    return classes[label] if classes else f"class {label}"


@styled
def _over(
    picture: Any, heat: Any, what: str, label: str, probability: float, blend: bool = True
) -> Figure:
    """The picture, and the heat, over the picture where ``blend`` says so."""
    from matplotlib.figure import Figure

    h, w = heat.shape
    panel = 2.9
    tall = min(max(panel * h / w, 1.2), 6.0)
    figure = Figure(figsize=(2 * panel + 1.2, tall + 1.1), layout=layout())
    left, right = figure.subplots(1, 2)
    draw_picture(left, picture)
    top = float(np.nan_to_num(heat, posinf=0.0).max()) or 1.0
    if blend:
        grey = picture if picture.ndim == 2 else picture.mean(2)
        draw_picture(right, grey)
    smooth = "nearest" if max(h, w) < SMALL else "antialiased"
    image = right.imshow(
        heat / top, cmap="inferno", vmin=0, vmax=1, alpha=0.6 if blend else 1, interpolation=smooth
    )
    bare(right)
    colour_bar(figure, image, right, "of the largest")
    left.set_title(f"{label}: {100 * probability:.1f}%", fontweight="normal", color=GREY)
    notes = []
    if not np.isfinite(heat).all():
        notes.append("NaN or infinity among the gradients")
    elif not heat.any():
        notes.append("nothing here raises the score" if blend else "no pixel moves the score")
    heading(figure, f"{what}: {label}", notes)
    return figure

"""Looking inside a network: each picture is one call, and has its numbers with it.

>>> import minires as mr
>>> from minires import nn
>>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
>>> shown = mr.show.filters(net)
>>> shown
Filters of layer '0': weights (4, 3, 3, 3). .figure is the picture, .save(path) writes it.

In a notebook the picture shows itself. The network is left as it was: its modes, buffers and
gradients, its hooks and the random state.
"""

from minires.show.gradients import Flow, gradient_flow
from minires.show.maps import Activations, FeatureMaps, activations, feature_maps
from minires.show.reasons import GradCAM, Saliency, grad_cam, saliency
from minires.show.weights import Filters, filters

__all__ = [
    "Activations",
    "FeatureMaps",
    "Filters",
    "Flow",
    "GradCAM",
    "Saliency",
    "activations",
    "feature_maps",
    "filters",
    "grad_cam",
    "gradient_flow",
    "saliency",
]

"""Packing of many weights in one launch, as a graph does it."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import CUDA, gpu, put
from harness import host

from minires.captured.recorder import Graph
from minires.device import Device
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import Conv2dGeometry, cuda_pack

# (c_out, c_in, k): of which some need several blocks; two more than one launch has room for
SIZES = [(1 + 13 * k % 40, 1 + k % 5, 1 + k % 3) for k in range(cuda_pack.MOST + 2)]


@pytest.fixture(params=[CUDA], autouse=True)
def _on_gpu(request):
    with gpu():
        yield


def packed(number, w):
    c_in = SIZES[number][1]
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    g = Conv2dGeometry.from_shapes((1, c_in, 9, 9), w.shape, **options)
    taps = cuda_pack.forward_taps(g)
    return cuda_pack.packed(PackedWeights(w), g, taps, number % 2 == 1, "Fp32")


def test_packs_that_follow_each_other_are_few_launches_with_the_same_bits():
    rng = np.random.default_rng(0)
    weights = [put(rng.random((o, c, k, k), "f4")) for o, c, k in SIZES]
    graph = Graph(Device("cuda"))
    with graph.recorded():
        together = [packed(number, w) for number, w in enumerate(weights)]
    for w in weights:
        w *= 2
    alone = [packed(number, w) for number, w in enumerate(weights)]
    graph.join()
    for result in together:
        result[...] = 7
    graph.replay()
    for a, b in zip(alone, together):
        np.testing.assert_array_equal(host(a), host(b))
    (graphed,) = graph.nodes
    works = [work for part in graphed.parts for work, _ in part.one_by_one()]
    assert [work.name for work in works] == ["conv2d.conv2d_pack"] * 2
    assert sum(work.bytes for work in works) == sum(a.nbytes for a in (*weights, *together))

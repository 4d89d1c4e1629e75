"""How many nodes the CUDA graph of a training step has: each one costs 1.5 to 2 us."""

from __future__ import annotations

from collections import Counter

MOST = 205  # of a ResNet-20; who lowers the number lowers this one


def test_a_training_step_has_few_nodes(load):
    gpu_nodes = load("gpu_nodes")
    with gpu_nodes.idle_gpu():
        nodes = gpu_nodes.nodes_of(gpu_nodes.step_of(20))
    counts = Counter(work.name for work in nodes)
    weights = "conv2d.conv2d_bwd_weight", "conv2d.conv2d_bwd_weight_rows"
    assert sum(counts[name] for name in weights) == 19  # all layers are there
    assert counts["update.update_sgd"] == 1
    assert len(nodes) <= MOST, counts.most_common()

"""Do exported networks give the same numbers elsewhere? Every model of the zoo, at full size.

Each model is exported from a batch of 2 images of the size that it was made for, and the file is
run by onnxruntime on batches of 1 and 3. Prints the table of docs/export.md; exits with an error if
a model is off by 1e-4 of its largest output or more. Takes a while, so that no test does it.

The weights are random, and a random network of a hundred layers turns a rounding error of 1e-7 into
1e-4 whoever runs it. So the networks are brought nearer to trained ones: every residual branch ends
in a fifth of its usual scale, and running statistics are drawn near 0 and 1.

    python benchmarks/onnx_agreement.py 'cifar_*'
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import minires as mr
from minires.models import create, list_models

ALLOWED = 1e-4
SCALE = 0.2  # of the last layer of a residual branch


def prepared(name: str) -> mr.nn.Module:
    """A model in evaluation mode, with random weights and running statistics."""
    mr.manual_seed(0)
    net = create(name)
    for module in net.modules():
        if hasattr(module, "skip") and hasattr(module, "zero_residual"):
            _calm(module)
    for key, buffer in net.named_buffers():
        if key.endswith("running_mean"):
            buffer.copy_(mr.randn(*buffer.shape) * 0.1)
        elif key.endswith("running_var"):
            buffer.copy_(mr.rand(*buffer.shape) * 0.4 + 0.8)
    return net.eval()


@mr.no_grad()
def _calm(block: mr.nn.Module) -> None:
    """Scale what ``zero_residual`` would set to 0."""
    before = {key: param.clone() for key, param in block.named_parameters()}
    block.zero_residual()
    for key, param in block.named_parameters():
        if not param.any() and before[key].any():
            param.copy_(before[key] * SCALE)


def compare(name: str) -> tuple[str, float]:
    """A row of the table, and the largest difference relative to the largest output."""
    net = prepared(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        mr.export_onnx(net, mr.randn(2, *net.image_shape), path)
        size = path.stat().st_size
        nodes = len(onnx.load(path).graph.node)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for n in (1, 3):
        x = mr.randn(n, *net.image_shape)
        with mr.no_grad():
            ours = net(x).numpy()
        (theirs,) = session.run(None, {"input": x.numpy()})
        difference = np.abs(ours - theirs).max() / np.abs(ours).max()
        worst = np.maximum(worst, difference)  # unlike max(), this keeps a NaN
    image = "x".join(map(str, net.image_shape))
    return f"| `{name}` | {image} | {nodes:,} | {size / 1e6:,.1f} MB | {worst:.1e} |", float(worst)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*", help="names of models, as in 'resnet*'")
    chosen = list_models(parser.parse_args(arguments).pattern)
    print(f"minires {mr.__version__}, onnx {onnx.__version__}, onnxruntime ", end="")
    print(f"{onnxruntime.__version__}, {len(chosen)} models\n")
    print("| model | image | operators | file | largest difference |")
    print("|---|---|---:|---:|---:|")
    wrong = 0
    for name in chosen:
        row, difference = compare(name)
        print(row, flush=True)
        wrong += not difference < ALLOWED
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())

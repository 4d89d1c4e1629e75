"""Where a training step of a residual network spends its time on a GPU: a table of its kernels.

A step of ResNet-20 (batch 128), and one of ResNet-50 (batch 32, 224x224), each captured and
replayed under :func:`minires.profile`, launch by launch. Needs a GPU and CuPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import minires as mr
from minires import models, optim
from minires.errors import MiniresError
from minires.nn import functional as F

NETS = {
    "ResNet-20": (lambda: models.cifar_resnet(20), (128, 3, 32, 32), 10),
    "ResNet-50": (lambda: models.resnet50(), (32, 3, 224, 224), 1000),
}
WARM_UP = 4  # steps: the first ones record and prove


def profiled(name: str, device: str) -> Any:
    """The profile of one replayed step."""
    make, shape, classes = NETS[name]
    mr.manual_seed(0)
    net = make().to(device)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step(x: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    captured = mr.capture(step, net, optimizer)
    x = mr.randn(*shape, device=device)
    labels = mr.randint(classes, (shape[0],)).to(device)
    for _ in range(WARM_UP):
        captured(x, labels)
    with mr.profile() as profile:
        captured(x, labels)
    return profile


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/gpu_profile.py --nets ResNet-20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--device", default="cuda", help="[cuda]")
    options = parser.parse_args(arguments)
    try:
        for name in options.nets:
            print(f"{name}, one captured training step on {options.device}\n")
            print(profiled(name, options.device).table(), flush=True)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

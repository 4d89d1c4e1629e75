"""Train the network of resnet_pytorch.py, ResNet-18 for one channel, on Fashion-MNIST.

python docs/tutorials/pytorch_way.py           # three epochs
python docs/tutorials/pytorch_way.py --quick   # a few steps
"""

from __future__ import annotations

from collections.abc import Sequence

import resnet_pytorch as tutorial
from tutorial_tools import Clock, images, options, progress

import minires as torch
import minires.nn as nn
from minires.data import DataLoader, Normalize


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    chosen = options(__doc__.splitlines()[0], epochs=3, argv=argv)
    torch.manual_seed(chosen.seed)
    train_set, test_set = images("fashion-mnist", chosen)
    scale = Normalize(train_set.mean(), train_set.std())
    batch = 32 if chosen.quick else 128
    train = DataLoader(train_set, batch, shuffle=True, transform=scale, seed=chosen.seed)
    test = DataLoader(test_set, 500, transform=scale)

    model = tutorial.resnet18(num_classes=len(train_set.classes))
    print(f"ResNet-18, {sum(p.numel() for p in model.parameters()):,} parameters")
    criterion = nn.CrossEntropyLoss()
    optimizer, scheduler = tutorial.make_optimizer(model)
    for epoch in range(1, chosen.epochs + 1):
        clock = Clock()
        steps = progress(train, f"epoch {epoch} of {chosen.epochs}")
        losses = tutorial.train_epoch(model, steps, criterion, optimizer)
        scheduler.step()
        accuracy = tutorial.evaluate(model, test)
        loss = sum(losses) / len(losses)
        print(f"epoch {epoch}: loss {loss:.4f}, test accuracy {accuracy:.2%}, {clock}", flush=True)
    return {"loss": loss, "accuracy": accuracy}


if __name__ == "__main__":
    main()

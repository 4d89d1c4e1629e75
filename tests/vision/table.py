"""Write ``table.json``: what torchvision computes in the cases of ``vision.cases``.

The tests compare with it where torchvision is not installed. Make it anew with::

    python -m venv tv && tv/bin/pip install torch==2.14.1 torchvision==0.29.1
    PYTHONPATH=tests tv/bin/python tests/vision/table.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import PIL
import torch
import torchvision
import torchvision.utils
from vision.cases import CASES, CLASSES, DATASETS, FUNCTIONS, UTILS, Side, facts, shown

PATH = Path(__file__).with_suffix(".json")
THEIRS = Side(
    torchvision.transforms,
    torchvision.transforms.functional,
    torchvision.utils,
    torch.from_numpy,
    lambda name: getattr(torch, name),
)


def signatures() -> dict[str, str]:
    """The arguments of all that minires has, too."""
    places = {
        torchvision.transforms: CLASSES,
        torchvision.transforms.functional: FUNCTIONS,
        torchvision.utils: UTILS,
        torchvision.datasets: DATASETS,
    }
    return {
        name: shown(inspect.signature(getattr(place, name)))
        for place, names in places.items()
        for name in names
    }


if __name__ == "__main__":
    values = {name: facts(function(THEIRS)) for name, function in CASES.items()}
    made_with = {"torchvision": torchvision.__version__, "Pillow": PIL.__version__}
    content = {**made_with, "signatures": signatures(), "values": values}
    PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{len(values)} cases")

"""Programs in the idiom of known tutorials, data lines included, under minires and under PyTorch.

The files in ``field`` import PyTorch and torchvision. Nothing but these import lines is exchanged.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from data.conftest import idx_bytes
from PIL import Image
from vision.pickles import pickled

from minires.data import load
from minires.errors import DataError
from minires.models import keras_resnet50
from minires.vision import datasets, transforms, utils

FIELD = Path(__file__).parent / "field"
PROGRAMS = {
    "fashion_quickstart": "FashionMNIST",
    "mnist_resnet": "MNIST",
    "d2l_resnet": "FashionMNIST",
    "cifar10_classifier": "CIFAR10",
    "signs_resnet50": "signs",
}
EXCHANGED = [
    (r"^import torchvision$", "import minires.vision as torchvision"),
    (r"^(import|from) torchvision\.models\b", r"\1 minires.models"),
    (r"^(import|from) torchvision\b", r"\1 minires.vision"),
    (r"^import torch$", "import minires as torch"),
    (r"^(import|from) torch\b", r"\1 minires"),
]


def run(name: str, library: str) -> ModuleType:
    """The program, run in the current folder."""
    source = (FIELD / f"{name}.py").read_text(encoding="utf-8")
    if library == "minires":
        for old, new in EXCHANGED:
            source = re.sub(old, new, source, flags=re.MULTILINE)
    module = ModuleType(f"{name}_for_{library}")
    exec(compile(source, f"{name}.py for {library}", "exec"), module.__dict__)
    return module


def some(name: str, train: bool, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images (n, h, w, c) of the real files if they are there, else drawn ones."""
    try:
        real = load(name, train)
    except DataError:
        rng = np.random.default_rng(train)
        shape = (n, 32, 32, 3) if name == "cifar-10" else (n, 28, 28, 1)
        return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, n).astype(np.uint8)
    return np.array(real.images[:n]), np.array(real.labels[:n]).astype(np.uint8)


def write_digits(root: Path, name: str, source: str) -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, train, n in (("train", True, 65), ("t10k", False, 33)):
        images, labels = some(source, train, n)
        pixels = gzip.compress(idx_bytes(images.reshape(n, 28, 28)))
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(pixels)
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, folder = datasets.CIFAR10, root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = some("cifar-10", True, 45)
    rows = images.transpose(0, 3, 1, 2).reshape(45, -1)  # (n, 3072)
    for part in ("_train", "_test", "_meta"):
        digests = {}
        for k, file in enumerate(getattr(kind, part)):
            mine = slice(9 * k, 9 * k + 9)
            value: dict = {"data": rows[mine], "labels": labels[mine].tolist()}
            if part == "_meta":
                value = {"label_names": [f"class {c}" for c in range(10)]}
            (folder / file).write_bytes(pickled(value))
            digests[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
        monkeypatch.setattr(kind, part, digests)


def write_signs(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for digit in "012345":
            (root / part / digit).mkdir(parents=True)
            pixels = rng.integers(0, 256, (64, 70, 3), np.uint8)
            Image.fromarray(pixels).save(root / part / digit / "hand.png")


@pytest.fixture(params=PROGRAMS)
def program(request, tmp_path, monkeypatch) -> str:
    """A program's name, with its data in ``data`` below the current folder, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    kind = PROGRAMS[request.param]
    if kind == "CIFAR10":
        write_cifar(Path("data"), monkeypatch)
    elif kind == "signs":
        write_signs(Path("signs"))
    else:
        write_digits(Path("data"), kind, "mnist" if kind == "MNIST" else "fashion-mnist")
    return request.param


def no_network(*_: object) -> None:
    raise AssertionError("files that are there were downloaded")


def test_a_program_runs_and_its_weights_come_back(program, capsys):
    module = run(program, "minires")
    first = module.check()
    assert capsys.readouterr().out
    assert np.isfinite(first).all()
    assert Path("model.pth").stat().st_size > 100_000


def torchvision_of_ours(torch) -> dict[str, ModuleType]:
    """What torchvision gives a program, with the samples of minires as PyTorch's tensors."""

    def converted(kind: type) -> type:
        def getitem(self, index):
            image, target = kind.__getitem__(self, index)
            return torch.from_numpy(image.numpy().copy()), target

        return type(kind.__name__, (kind,), {"__getitem__": getitem})

    top, sets, tools = (ModuleType(f"torchvision{x}") for x in ("", ".datasets", ".utils"))
    for name in ("MNIST", "FashionMNIST", "CIFAR10", "ImageFolder"):
        setattr(sets, name, converted(getattr(datasets, name)))
    import minires as mr

    tools.make_grid = lambda images: torch.from_numpy(
        utils.make_grid(mr.tensor(images.numpy())).numpy().copy()
    )
    top.datasets, top.transforms, top.utils = sets, transforms, tools
    return {
        "torchvision": top,
        "torchvision.datasets": sets,
        "torchvision.transforms": transforms,
        "torchvision.utils": tools,
    }


def test_pytorch_gives_the_same(program, monkeypatch):
    """PyTorch reads the weights that minires wrote, and computes what minires computes."""
    torch = pytest.importorskip("torch")
    if program == "mnist_resnet":
        pytest.importorskip("torchvision", reason="the network is torchvision's")
    ours = run(program, "minires")
    shutil.copyfile("model.pth", "ours.pth")
    for name, module in torchvision_of_ours(torch).items():
        if name != "torchvision" or name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, module)
    theirs = run(program, "torch")
    shutil.copyfile("ours.pth", "model.pth")
    np.testing.assert_allclose(ours.check(), theirs.check(), rtol=2e-4, atol=2e-5)


def test_the_network_of_hand_signs_is_the_one_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_signs(Path("signs"))
    net = run("signs_resnet50", "minires").model
    sizes = [p.numel() for p in net.parameters()]
    assert sum(sizes) == sum(p.numel() for p in keras_resnet50().parameters())

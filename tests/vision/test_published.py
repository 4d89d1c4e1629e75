"""MNIST and CIFAR where torchvision puts them, in files that the tests make; FakeData."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision.pickles import pickled, python2

from minires.data import DataLoader
from minires.errors import ArgumentError, BoundsError, DataError
from minires.interop.unpickle import Refused
from minires.vision import datasets, transforms
from minires.vision.datasets.cifar import read_python2

# -- MNIST


@pytest.mark.parametrize("kind", [datasets.MNIST, datasets.FashionMNIST])
@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz")])
def test_digits_are_read_plain_and_gzipped(tmp_path: Path, digits, kind, pack, ending):
    made = digits(tmp_path / kind.__name__ / "raw", pack, ending)
    train, test = kind(tmp_path), kind(str(tmp_path), train=False)
    assert (len(train), len(test)) == (5, 3)
    assert train.raw_folder == str(tmp_path / kind.__name__ / "raw")
    assert (train.data.dtype, train.data.shape) == ("uint8", (5, 28, 28))
    assert train.targets.dtype == "int64"
    assert np.array_equal(test.data.numpy(), made["t10k-images-idx3-ubyte"])
    assert test.targets.tolist() == made["t10k-labels-idx1-ubyte"].tolist()
    image, target = train[-2]
    assert (image.mode, image.size) == ("L", (28, 28))
    assert np.array_equal(image, made["train-images-idx3-ubyte"][3])
    assert type(target) is int
    assert target == made["train-labels-idx1-ubyte"][3]
    assert len(train.classes) == 10
    assert train.class_to_idx[train.classes[7]] == 7
    with pytest.raises(BoundsError, match=r"Mnist|MNIST: expected an index into 5 of them, got 5"):
        train[5]


def test_targets_may_be_changed(tmp_path: Path, digits):
    digits(tmp_path / "MNIST" / "raw")
    train = datasets.MNIST(tmp_path, target_transform=lambda digit: digit + 100)
    train.targets[0] = 3
    train.data[0] = 0
    image, target = train[0]
    assert target == 103
    assert not np.asarray(image).any()


def test_what_it_prints(tmp_path: Path, digits):
    digits(tmp_path / "MNIST" / "raw")
    assert repr(datasets.MNIST(tmp_path, False, transforms.ToTensor())) == (
        "Dataset MNIST\n"
        "    Number of datapoints: 3\n"
        f"    Root location: {tmp_path}\n"
        "    Split: Test\n"
        "    StandardTransform\n"
        "Transform: ToTensor()"
    )


def test_names_of_classes():
    assert datasets.MNIST.classes[:2] == ["0 - zero", "1 - one"]
    assert datasets.FashionMNIST.classes[0] == "T-shirt/top"
    assert datasets.FashionMNIST.classes[9] == "Ankle boot"


def test_without_files_there_is_the_hint(tmp_path: Path):
    with pytest.raises(DataError) as error:
        datasets.MNIST(tmp_path)
    assert str(error.value) == (
        f"MNIST: expected train-images-idx3-ubyte in {tmp_path / 'MNIST' / 'raw'}, got no such "
        "file. Pass download=True to download it; remove a damaged file first."
    )
    with pytest.raises(DataError, match=r"CIFAR10: expected batches\.meta in .*Pass download=True"):
        datasets.CIFAR10(tmp_path)


def test_damaged_digits_are_named(tmp_path: Path, digits):
    raw = tmp_path / "MNIST" / "raw"
    digits(raw)
    whole = (raw / "train-images-idx3-ubyte").read_bytes()
    (raw / "train-images-idx3-ubyte").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: expected 3936 bytes"):
        datasets.MNIST(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 2, 1, 2)))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: expected 3 labels"):
        datasets.MNIST(tmp_path, train=False)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 10)))
    with pytest.raises(DataError, match=r"expected labels in 0\.\.9, got 10 at index 2"):
        datasets.MNIST(tmp_path, train=False)
    (raw / "train-labels-idx1-ubyte").unlink()
    (raw / "train-images-idx3-ubyte").write_bytes(whole)
    with pytest.raises(DataError, match="expected train-labels-idx1-ubyte in"):
        datasets.MNIST(tmp_path)


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(ArgumentError, match="MNIST: expected train True or False"):
        datasets.MNIST(tmp_path, train="train")
    with pytest.raises(ArgumentError, match="expected download True or False"):
        datasets.CIFAR10(tmp_path, download=1)
    with pytest.raises(ArgumentError, match="expected a path"):
        datasets.MNIST(None)


# -- CIFAR: pickles as Python 2 wrote them (protocol 2, text as bytes, NumPy's arrays)


def test_the_tests_write_what_python_reads():
    array = np.arange(300 * 2, dtype=np.uint8).reshape(300, 2)
    value = {"data": array, "labels": [1, 2], "label": "training batch 1 of 5"}
    read = pickle.loads(pickled(value), encoding="latin-1")
    assert np.array_equal(read["data"], array)
    assert read["labels"] == [1, 2]
    assert read["label"] == value["label"]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type], dict]:
    """Write a small CIFAR: gives the rows and labels of each file."""

    def write(kind: type) -> dict:
        rng = np.random.default_rng(0)
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        names = [f"class {k}" for k in range(10)]
        made = {}
        for part in ("_train", "_test", "_meta"):
            digests = {}
            for name in getattr(kind, part):
                rows = rng.integers(0, 256, (4, 3072), np.uint8)
                labels = rng.integers(0, 10, 4).tolist()
                content = {"data": rows, kind._labels: labels, "filenames": ["a.png"] * 4}
                if part == "_meta":
                    content = {kind._names: names}
                made[name] = (rows, labels)
                (folder / name).write_bytes(pickled(content))
                digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
            monkeypatch.setattr(kind, part, digests)
        return made

    return write


@pytest.mark.parametrize("kind", [datasets.CIFAR10, datasets.CIFAR100])
def test_pickles_are_read(tmp_path: Path, cifar, kind):
    made = cifar(kind)
    train, test = kind(tmp_path), kind(tmp_path, train=False)
    files = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
    files = files if kind is datasets.CIFAR10 else ["train"]
    assert len(train) == 4 * len(files)
    assert train.targets == [label for name in files for label in made[name][1]]
    assert train.data.shape == (4 * len(files), 32, 32, 3)
    rows = np.concatenate([made[name][0] for name in files])
    assert np.array_equal(train.data[2, 5, 6], rows[2].reshape(3, 32, 32)[:, 5, 6])
    assert train.data.flags.writeable
    image, target = train[-1]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size, target) == ("RGB", (32, 32), train.targets[-1])
    assert np.array_equal(np.asarray(image).transpose(2, 0, 1).ravel(), rows[-1])
    assert train.classes == [f"class {k}" for k in range(10)]
    assert train.class_to_idx["class 3"] == 3
    assert "Split: Test" in repr(test)
    assert len(test) == 4
    chosen = transforms.Compose([transforms.RandomCrop(32, 4), transforms.ToTensor()])
    x, y = next(iter(DataLoader(kind(tmp_path, transform=chosen), 3)))
    assert (x.shape, y.tolist()) == ((3, 3, 32, 32), train.targets[:3])


def test_other_files_than_the_published_ones_are_refused(tmp_path: Path, cifar):
    cifar(datasets.CIFAR10)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"data_batch_3: expected the published file, of md5 .*, got"
    ):
        datasets.CIFAR10(tmp_path)
    assert len(datasets.CIFAR10(tmp_path, train=False)) == 4


def test_nothing_is_run(tmp_path: Path):
    bad = pickled({}).replace(b"}(u", b"cos\nsystem\n" + python2("touch ran") + b"\x85R")
    with pytest.raises(DataError, match=r"refused os\.system; nothing was run") as error:
        read_python2(tmp_path / "file", bad)
    assert isinstance(error.value.__cause__, Refused)
    wide = pickled({"data": np.zeros((2, 2), np.uint8)}).replace(b"u1", b"f8")
    with pytest.raises(DataError, match="an array of 'f8'"):
        read_python2(tmp_path / "file", wide)
    short = pickled({"data": np.zeros((2, 300), np.uint8)}).replace(
        b"M\x02\x00M\x2c\x01", b"M\x02\x00M\x2d\x01"
    )
    with pytest.raises(DataError, match="cannot reshape array of size 600"):
        read_python2(tmp_path / "file", short)
    with pytest.raises(DataError, match="expected a dict, got list"):
        read_python2(tmp_path / "file", pickled([1]))
    with pytest.raises(DataError, match="expected a pickle of data"):
        read_python2(tmp_path / "file", b"\x80\x02](")


# -- noise


def test_noise_is_the_same_each_time():
    noise = datasets.FakeData(4, (3, 5, 6), num_classes=3)
    image, target = noise[2]
    assert (image.mode, image.size, len(noise)) == ("RGB", (6, 5), 4)
    assert 0 <= target < 3
    again = datasets.FakeData(4, (3, 5, 6), num_classes=3)[2]
    assert np.array_equal(image, again[0])
    assert target == again[1]
    assert not np.array_equal(image, noise[3][0])
    moved = datasets.FakeData(4, (3, 5, 6), num_classes=3, random_offset=2)[0]
    assert np.array_equal(image, moved[0])
    assert datasets.FakeData(4, (1, 5, 6))[0][0].mode == "L"
    labels = [target for _, target in datasets.FakeData(300, (1, 2, 2), num_classes=3)]
    assert set(labels) == {0, 1, 2}
    with pytest.raises(ArgumentError, match="expected 1 or 3 channels"):
        datasets.FakeData(4, (2, 5, 6))

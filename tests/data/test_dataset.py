"""ImageDataset, load() and where files are looked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from minires.data import DATASETS, ImageDataset, data_root, find_source, load
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError


def colours(n: int = 6) -> ImageDataset:
    images = np.random.default_rng(0).integers(0, 256, (n, 2, 5, 3), dtype=np.uint8)
    return ImageDataset("colours", "train", images, np.arange(n) % 2, ("a", "b"), 255)


def test_digits_split():
    train, test = load("digits"), load("digits", train=False)
    assert (len(train), len(test)) == (1500, 297)
    assert train.shape == test.shape == (1, 8, 8)
    assert (train.split, test.split, train.scale) == ("train", "test", 16)
    assert train.labels.dtype == np.int64
    assert train.classes == tuple("0123456789")
    assert repr(test) == "ImageDataset(digits, test: 297 images of (1, 8, 8), 10 classes)"
    # Test images are those after the first 1,500: no image is in both.
    assert not np.array_equal(train.images[-1], test.images[0])
    assert test.batch(np.arange(297))[0].max() == 1.0


def test_one_sample_and_a_batch():
    data = colours()
    x, y = data[4]
    assert (x.shape, x.dtype, y) == ((3, 2, 5), np.float32, 0)
    np.testing.assert_array_equal(x[1], np.float32(data.images[4, :, :, 1]) / np.float32(255))
    xs, ys = data.batch([5, 0])
    assert xs.shape == (2, 3, 2, 5)
    assert xs.transpose(0, 2, 3, 1).flags.c_contiguous
    assert ys.tolist() == [1, 0]
    np.testing.assert_array_equal(xs[1], data[0][0])


def test_mean_and_std_per_channel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minires.data.dataset._STATISTICS_BLOCK", 4)  # 6 images: two blocks
    data = colours()
    pixels = data.images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(data.mean(), pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.std(), pixels.std(axis=0), rtol=1e-12)
    digits = load("digits")
    np.testing.assert_allclose(digits.mean(), [(digits.images / 16).mean()], rtol=1e-12)
    np.testing.assert_allclose(digits.std(), [(digits.images / 16).std()], rtol=1e-12)


def test_limit():
    data = colours()
    first = data.limit(2)
    assert len(first) == 2
    assert np.shares_memory(first.images, data.images)
    assert len(data.limit(6)) == 6
    with pytest.raises(
        ArgumentError, match=r"colours \(train\): limit: expected n an integer >= 1 and <= 6, got 7"
    ):
        data.limit(7)
    for bad in (0, -1, 2.5, True, "3"):
        with pytest.raises(ArgumentError, match="n an integer"):
            data.limit(bad)  # type: ignore[arg-type]


def test_inconsistent_parts_are_refused():
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])
    with pytest.raises(DTypeError, match="uint8 images and int64 labels, got float64 and int64"):
        ImageDataset("d", "train", images.astype(float), labels, ("a", "b"), 255)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"got \(2, 4, 4, 1\) and \(1,\)"):
        ImageDataset("d", "train", images, labels[:1], ("a", "b"), 255)
    with pytest.raises(ShapeError):
        ImageDataset("d", "train", images[0], labels, ("a", "b"), 255)
    with pytest.raises(ArgumentError, match=r"labels in 0\.\.0, got 0\.\.1"):
        ImageDataset("d", "train", images, labels, ("a",), 255)
    with pytest.raises(ArgumentError, match="scale a finite number > 0"):
        ImageDataset("d", "train", images, labels, ("a", "b"), 0)
    with pytest.raises(ArgumentError, match="at least one image"):
        ImageDataset("d", "train", images[:0], labels[:0], ("a",), 255).mean()


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("digits", "digits"),
        ("MNIST", "mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("Fashion-MNIST", "fashion-mnist"),
        ("cifar_10", "cifar10"),
        ("CIFAR-10", "cifar10"),
    ],
)
def test_spellings(written: str, name: str):
    assert find_source(written).name == name


def test_unknown_names_get_the_nearest():
    with pytest.raises(ArgumentError) as caught:
        load("fashion-minst")
    assert str(caught.value) == (
        "unknown data set 'fashion-minst': did you mean fashion-mnist? "
        "Known: cifar10, digits, fashion-mnist, mnist"
    )


def test_registry_is_complete():
    for name, source in DATASETS.items():
        assert name == source.name
        assert source.licence
        assert source.origin
        assert len(source.classes) == 10
        files = source.files + ((source.archive,) if source.archive else ())
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size > 0 for file in files)
        assert bool(files) == bool(source.mirrors) == bool(source.folders) == (name != "digits")
        assert all(mirror.endswith("/") for mirror in source.mirrors)


def test_root_comes_from_argument_then_environment_then_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("MINIRES_DATA", "/data")
    assert data_root("here") == Path("here")
    assert data_root() == Path("/data")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("MINIRES_DATA")
        else:
            monkeypatch.setenv("MINIRES_DATA", unset)
        assert data_root() == Path("/home/someone/.cache/minires")


def test_load_idx_gzipped_and_plain(mnist_root: Path, monkeypatch: pytest.MonkeyPatch):
    train = load("mnist", root=mnist_root)
    monkeypatch.setenv("MINIRES_DATA", str(mnist_root))
    test = load("mnist", train=False)
    assert (len(train), len(test)) == (7, 3)
    assert train.images.shape == (7, 28, 28, 1)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(
        train.images[..., 0], rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    )
    np.testing.assert_array_equal(train.labels, rng.integers(0, 10, 7, dtype=np.uint8))


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"])
def test_load_cifar_from_both_folders(tmp_path: Path, small_cifar: dict[str, bytes], folder: str):
    (tmp_path / folder).mkdir(parents=True)
    for name, content in small_cifar.items():
        (tmp_path / folder / name).write_bytes(content)
    train, test = load("cifar10", root=tmp_path), load("cifar10", train=False, root=tmp_path)
    assert train.images.shape == (20, 32, 32, 3)
    assert test.images.shape == (4, 32, 32, 3)
    third = np.frombuffer(small_cifar["data_batch_3.bin"], np.uint8).reshape(4, 3073)
    np.testing.assert_array_equal(train.labels[8:12], third[:, 0])
    np.testing.assert_array_equal(train.images[8].transpose(2, 0, 1).ravel(), third[0, 1:])


def test_missing_files_say_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert str(caught.value) == (
        "mnist: expected train-images-idx3-ubyte.gz or train-images-idx3-ubyte, got no such file "
        f"(searched {tmp_path}/mnist). Get it with: minires data get mnist"
    )
    with pytest.raises(DataError) as caught:
        load("cifar10", train=False, root="/nowhere")
    assert str(caught.value) == (
        "cifar10: expected test_batch.bin, got no such file (searched /nowhere/cifar-10-batches-bin"
        ", /nowhere/cifar-10/cifar-10-batches-bin). "
        "Get it with: minires data get cifar10 --root /nowhere"
    )


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("images-idx3", np.zeros((7, 27, 28), np.uint8), "28 x 28 pixels, got shape (7, 27, 28)"),
        ("images-idx3", np.zeros((0, 28, 28), np.uint8), "28 x 28 pixels, got shape (0, 28, 28)"),
        ("labels-idx1", np.zeros(6, np.uint8), "expected 7 labels, one for each image of train-"),
        ("labels-idx1", np.full(7, 11, np.uint8), "expected labels in 0..9, got 11 at index 0"),
    ],
)
def test_files_that_do_not_fit(mnist_root: Path, idx, name: str, array: np.ndarray, words: str):
    path = mnist_root / "mnist" / f"train-{name}-ubyte.gz"
    path.write_bytes(gzip.compress(idx(array)))
    with pytest.raises(DataError) as caught:
        load("mnist", root=mnist_root)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith(f"minires data get mnist --root {mnist_root}")


def test_cifar_label_out_of_range(tmp_path: Path, small_cifar: dict[str, bytes]):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(b"\x0a" + small_cifar["test_batch.bin"][1:])
    with pytest.raises(DataError, match=r"test_batch\.bin: expected labels in 0\.\.9, got 10"):
        load("cifar10", train=False, root=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)]
)
def test_real_data_has_the_published_statistics(
    real_data: Path, name: str, mean: float, std: float
):
    if not (real_data / name).is_dir():
        pytest.skip(f"no {real_data / name}")
    train, test = load(name, root=real_data), load(name, train=False, root=real_data)
    assert (len(train), len(test)) == (60000, 10000)
    assert train.mean() == pytest.approx((mean,), abs=5e-5)
    assert train.std() == pytest.approx((std,), abs=5e-5)
    assert np.bincount(test.labels).sum() == 10000

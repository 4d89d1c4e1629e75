"""MNIST and Fashion-MNIST, in the folders where torchvision keeps them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from minires import arguments
from minires.data.dataset import DATASETS, RemoteFile, data_root
from minires.data.download import fetch, is_valid
from minires.data.readers import check_labels, read_idx
from minires.errors import DataError, message
from minires.files import write_atomic
from minires.tensor import Tensor, from_numpy
from minires.vision.datasets.vision import Function, VisionDataset, expanded


class MNIST(VisionDataset):
    """The handwritten digits of LeCun, Cortes and Burges, 1998: 60,000 to train, 10,000 to test.

    Samples are PIL images of mode L, 28 x 28, with the digit.

    Args:
        root: the folder that has ``MNIST/raw/train-images-idx3-ubyte`` and so on, gzipped or not.
        train: the training images; else the test images.
        transform: called with the picture.
        target_transform: called with the digit.
        download: get what is missing; it comes out of minires' own folder, if it is there.

    Attributes:
        data: uint8 (n, 28, 28), a tensor.
        targets: int64 (n,), a tensor.

    Raises:
        ArgumentError: an argument that is none of those.
        DataError: no files, damaged ones, or a download that failed.
    """

    classes: ClassVar[list[str]] = [
        *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
        *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
    ]
    _source = "mnist"  # in minires.data.DATASETS

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
        self.data, self.targets = self._load()

    @property
    def raw_folder(self) -> str:
        """The folder of the files."""
        return str(self._raw)

    @property
    def _raw(self) -> Path:
        return Path(self.root or "") / type(self).__name__ / "raw"

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The number of each class."""
        return {name: number for number, name in enumerate(self.classes)}

    def _found(self, file: RemoteFile) -> Path | None:
        """A published file where it lies, plain or gzipped."""
        paths = (self._raw / file.name.removesuffix(".gz"), self._raw / file.name)
        return next((path for path in paths if path.is_file()), None)

    def download(self) -> None:
        """Get what is missing, and unpack it.

        Raises:
            DataError: no mirror gave a file, or the folder cannot be written.
        """
        source = DATASETS[self._source]
        missing = [file for file in source.files if self._found(file) is None]
        if missing:
            have = data_root() / source.folders[0]
            for file in missing:
                if is_valid(have / file.name, file):
                    self._raw.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(have / file.name, self._raw / file.name)
            fetch(type(self).__name__, missing, self._raw, source.mirrors)
        for file in source.files:
            plain = self._raw / file.name.removesuffix(".gz")
            if not plain.is_file():
                ndim = 3 if "images" in file.name else 1
                array = read_idx(self._raw / file.name, ndim, self._fix)
                header = bytes((0, 0, 8, ndim)) + np.array(array.shape, ">u4").tobytes()
                write_atomic(plain, header + array.tobytes())

    _fix = "Pass download=True to download it; remove a damaged file first."

    def _load(self) -> tuple[Tensor, Tensor]:
        source = DATASETS[self._source]
        files = source.train if self.train else source.test
        paths = [self._found(file) for file in files]
        if None in paths:
            name = files[paths.index(None)].name.removesuffix(".gz")
            op = type(self).__name__
            raise DataError(message(op, f"{name} in {self._raw}", "no such file", fix=self._fix))
        images_path, labels_path = (path for path in paths if path is not None)
        images = read_idx(images_path, 3, self._fix)
        labels = read_idx(labels_path, 1, self._fix)
        if len(labels) != len(images) or not images.size:
            expected = f"{len(images)} labels, one for each image of {images_path.name}"
            raise DataError(message(str(labels_path), expected, len(labels), fix=self._fix))
        check_labels(labels_path, labels, len(self.classes), self._fix)
        return from_numpy(images.copy()), from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Picture ``index`` and its class.

        Raises:
            ArgumentError, BoundsError: no index, or one that there is not.
        """
        place = arguments.position(type(self).__name__, index, len(self))
        picture = Image.fromarray(self.data.data[place])
        return self.transformed(picture, int(self.targets.data[place]))

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class FashionMNIST(MNIST):
    """Clothes of Zalando's shop, by Xiao, Rasul and Vollgraf, 2017.

    Arguments, attributes and errors are those of :class:`MNIST`; the folder is
    ``FashionMNIST/raw``.
    """

    classes: ClassVar[list[str]] = list(DATASETS["fashion-mnist"].classes)
    _source = "fashion-mnist"

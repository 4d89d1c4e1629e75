"""Folders of pictures: one folder per class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, DataError, message, quoted
from minires.vision.datasets.pictures import FIX, open_picture
from minires.vision.datasets.vision import Function, VisionDataset, expanded, function

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Folders that hold parts of a collection, each with the same classes, rather than classes.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_NAMED = 5  # files that a warning lists

default_loader = open_picture  # torchvision's name of it


class DatasetFolder(VisionDataset):
    """Files below a root folder: ``root/class/...``, each folder there a class.

    Folders and files are taken in the order of their names, folders within a class, too; what
    begins with a dot is hidden, and left out.

    Args:
        root: the folder of the classes' folders.
        loader: called with a path (text), gives the sample.
        extensions: endings of the files that count, lower case or not.
        transform: called with the sample.
        target_transform: called with the class's number.
        is_valid_file: called with a path in place of ``extensions``: whether the file counts.
        allow_empty: allow classes without files.
        skip_unreadable: load every file once, and leave out those that cannot be; a warning names
            them, :attr:`skipped` lists them.

    Attributes:
        classes: the names, in order.
        class_to_idx: the number of each.
        samples: (path, number) of each file; :attr:`targets` are the numbers alone.
        skipped: (path, reason) of each file that was left out.

    Raises:
        ArgumentError: an argument that is none of those.
        DataError: no such folder, no class in it, a class without files; or no file that can be
            read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        loader: Callable[[str], Any],
        extensions: tuple[str, ...] | None = None,
        transform: Function | None = None,
        target_transform: Function | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        op = type(self).__name__
        if self.root is None:
            raise ArgumentError(message(op, "the folder of the classes", "None"))
        if not callable(loader):
            raise ArgumentError(message(op, "loader to be called as f(path)", quoted(loader)))
        self.loader = loader
        self.extensions = extensions
        self.classes, self.class_to_idx = self.find_classes(str(self.root))
        self.samples = self.make_dataset(
            str(self.root), self.class_to_idx, extensions, is_valid_file, allow_empty
        )
        self.targets = [target for _, target in self.samples]
        self.skipped: list[tuple[str, str]] = []
        if arguments.flag(op, "skip_unreadable", skip_unreadable):
            self._skip(op)
        _warn_of_classes(op, self.root, self.classes)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The classes of a folder, and the number of each; override it for other ones.

        Raises:
            DataError: no such folder, or none in it.
        """
        return find_classes(directory)

    @staticmethod
    def make_dataset(
        directory: str,
        class_to_idx: dict[str, int],
        extensions: tuple[str, ...] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        """(path, number of the class) of each file; see :class:`DatasetFolder`.

        Raises:
            ArgumentError: both or none of ``extensions`` and ``is_valid_file``.
            DataError: a class without files.
        """
        return make_dataset(directory, class_to_idx, extensions, is_valid_file, allow_empty)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Sample ``index`` and its class.

        Raises:
            ArgumentError, BoundsError: no index, or one that there is not.
            DataError: a picture that cannot be read; names it.
        """
        path, target = self.samples[arguments.position(type(self).__name__, index, len(self))]
        return self.transformed(self.loader(path), target)

    def _skip(self, op: str) -> None:
        """Leave out what cannot be loaded."""

        def reason(sample: tuple[str, int]) -> str:
            try:
                self.loader(sample[0])
            except Exception as error:  # a loader of the user's may raise any kind
                return str(error) or type(error).__name__
            return ""

        threads = ThreadPoolExecutor(thread_name_prefix="minires-pictures")
        try:
            reasons = list(threads.map(reason, self.samples))
        finally:
            threads.shutdown(cancel_futures=True)  # after Ctrl-C the others need not be read
        bad = [(path, why) for (path, _), why in zip(self.samples, reasons) if why]
        if not bad:
            return
        before = Counter(self.targets)
        self.samples = [sample for sample, why in zip(self.samples, reasons) if not why]
        self.targets = [target for _, target in self.samples]
        self.skipped = bad
        listed = "".join(f"\n  {why.removesuffix(f'. {FIX}')}" for _, why in bad[:_NAMED])
        listed += f"\n  and {len(bad) - _NAMED} more: see .skipped" if len(bad) > _NAMED else ""
        for name, target in self.class_to_idx.items():
            if before[target] and target not in self.targets:
                expected = f"files of the class {quoted(name)} that can be read"
                got = f"{before[target]} broken ones:{listed}"
                raise DataError(f"{op}: expected {expected}, got {got}")
        told = f"left out {len(bad)} of {before.total()} files, which cannot be read"
        warnings.warn(f"{op}: {told}:{listed}", UserWarning, stacklevel=4)


class ImageFolder(DatasetFolder):
    """Pictures below a root folder: ``root/dog/1.png``, ``root/cat/2.jpg``.

    Args:
        root: the folder of the classes' folders.
        transform: called with the picture.
        target_transform: called with the class's number.
        loader: called with a path, gives the picture;
            :func:`~minires.vision.datasets.open_picture` by default.
        is_valid_file: called with a path: whether the file counts; by default all files that end
            as pictures do (``IMG_EXTENSIONS``).
        allow_empty: allow classes without pictures.
        skip_unreadable: read every picture once, and leave out those that cannot be.

    Attributes and errors are those of :class:`DatasetFolder`; ``imgs`` are the ``samples``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Function | None = None,
        target_transform: Function | None = None,
        loader: Callable[[str], Any] = open_picture,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(
            root,
            loader,
            IMG_EXTENSIONS if is_valid_file is None else None,
            transform,
            target_transform,
            is_valid_file,
            allow_empty,
            skip_unreadable=skip_unreadable,
        )
        self.imgs = self.samples


def find_classes(directory: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
    """The folders in a folder, in order of their names, and the number of each.

    Raises:
        DataError: no such folder, or none in it.
    """
    folder = expanded("find_classes", directory)
    try:
        entries = sorted(_visible(folder), key=lambda entry: entry.name)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(message(str(folder), "a folder of classes", got)) from error
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        pictures = sum(entry.name.lower().endswith(IMG_EXTENSIONS) for entry in entries)
        got = "none"
        fix = "Make a folder for each class, and put its pictures there: root/cat/1.jpg."
        if pictures:
            got = f"{pictures} pictures in the folder itself"
        raise DataError(message(str(folder), "a folder for each class", got, fix=fix))
    return classes, {name: number for number, name in enumerate(classes)}


def make_dataset(
    directory: str | os.PathLike[str],
    class_to_idx: dict[str, int] | None = None,
    extensions: str | tuple[str, ...] | None = None,
    is_valid_file: Callable[[str], bool] | None = None,
    allow_empty: bool = False,
) -> list[tuple[str, int]]:
    """(path, number of the class) of each file; see :class:`DatasetFolder`.

    Raises:
        ArgumentError: both or none of ``extensions`` and ``is_valid_file``, or no classes.
        DataError: a class without files.
    """
    op = "make_dataset"
    root = expanded(op, directory)
    if class_to_idx is None:
        _, class_to_idx = find_classes(directory)
    named = isinstance(class_to_idx, dict) and all(isinstance(name, str) for name in class_to_idx)
    if not named or not class_to_idx:
        raise ArgumentError(message(op, "the number of each class", quoted(class_to_idx)))
    if (extensions is None) == (is_valid_file is None):
        got = "both" if extensions is not None else "none"
        raise ArgumentError(message(op, "extensions or is_valid_file", got))
    function(op, "is_valid_file", is_valid_file, "f(path)")
    many = (extensions,) if isinstance(extensions, str) else extensions
    many = () if many is None else many
    if not isinstance(many, tuple | list) or not all(isinstance(e, str) for e in many):
        expected = 'extensions as text, (".jpg", ".png")'
        raise ArgumentError(message(op, expected, quoted(extensions)))
    endings = tuple(ending.lower() for ending in many)
    samples: list[tuple[str, int]] = []
    empty, others = [], Counter[str]()
    for name in sorted(class_to_idx):
        before = len(samples)
        for path in _files(root / name):
            valid = path.lower().endswith(endings) if is_valid_file is None else is_valid_file(path)
            if valid:
                samples.append((path, class_to_idx[name]))
            else:
                others[Path(path).suffix.lower() or "no ending"] += 1
        if len(samples) == before:
            empty.append(name)
    if empty and not arguments.flag(op, "allow_empty", allow_empty):
        shown = ", ".join(map(quoted, empty[:_NAMED])) + (", ..." if len(empty) > _NAMED else "")
        kinds = ", ".join(f"{count} of {ending}" for ending, count in others.most_common(3))
        expected = "files in each class" + (f", ending in {', '.join(endings)}" if endings else "")
        context = f"others there: {kinds}" if kinds else ""
        fix = "Remove the folder, convert its files, or pass allow_empty=True."
        raise DataError(message(str(root), expected, f"none in {shown}", context, fix))
    return samples


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _files(folder: Path) -> Iterator[str]:
    """The files of a folder and of those below, folder by folder in the order of their paths; links
    are followed, but not around."""
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(folder, ())]
    while waiting:
        here, above = waiting.pop()
        if not here.is_dir():
            continue
        status = here.stat()
        key = (status.st_dev, status.st_ino)
        if key in above:
            continue
        entries = _visible(here)
        found.append((str(here), sorted(entry.name for entry in entries if entry.is_file())))
        waiting += [(Path(entry.path), (*above, key)) for entry in entries if entry.is_dir()]
    for path, names in sorted(found):
        yield from (os.path.join(path, name) for name in names)


def _warn_of_classes(op: str, root: Path, classes: list[str]) -> None:
    """What a folder of classes is mostly not meant to be."""
    if {name.lower() for name in classes} <= {name for names in PARTS.values() for name in names}:
        told = f"the classes of {root} are {', '.join(classes)}"
        fix = f"Is {root / classes[0]} meant? Each part is a data set of its own."
    elif len(classes) == 1:
        told = f"{root} has one class, {classes[0]}: there is nothing to tell apart"
        fix = "Give each class a folder."
    else:
        return
    warnings.warn(f"{op}: {told}. {fix}", UserWarning, stacklevel=4)

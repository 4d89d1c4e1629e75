"""ImageFolder: which files are which class, and what is said of folders that are no data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision.cases import picture

from minires.data import DataLoader
from minires.errors import ArgumentError, BoundsError, DataError
from minires.vision import datasets, transforms
from minires.vision.datasets import DatasetFolder, ImageFolder
from minires.vision.datasets.folder import default_loader, find_classes, make_dataset


def test_classes_samples_and_targets(folder: Path):
    pets = ImageFolder(folder)
    assert pets.classes == ["cat", "dog"]
    assert pets.class_to_idx == {"cat": 0, "dog": 1}
    names = [("cat/0.png", 0), ("cat/1.png", 0), ("cat/2.png", 0), ("dog/0.png", 1)]
    expected = [(str(folder / name), k) for name, k in [*names, ("dog/1.png", 1)]]
    assert pets.samples == pets.imgs == expected
    assert pets.targets == [0, 0, 0, 1, 1]
    assert len(pets) == 5
    image, target = pets[1]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size, target) == ("RGB", (13, 10), 0)
    assert np.array_equal(image, picture("RGB", 10, 13))
    assert pets[-1][1] == 1
    assert pets.loader is default_loader


def test_transforms_of_picture_and_target(folder: Path):
    chosen = transforms.Compose([transforms.CenterCrop((4, 6)), transforms.ToTensor()])
    pets = ImageFolder(str(folder), chosen, lambda target: target * 10)
    image, target = pets[3]
    assert image.shape == (3, 4, 6)
    assert target == 10
    assert repr(pets) == (
        "Dataset ImageFolder\n"
        "    Number of datapoints: 5\n"
        f"    Root location: {folder}\n"
        "    StandardTransform\n"
        "Transform: Compose(\n"
        "               CenterCrop(size=(4, 6))\n"
        "               ToTensor()\n"
        "           )\n"
        f"Target transform: {pets.target_transform!r}"
    )


def test_a_loader_makes_batches_of_it(folder: Path):
    chosen = transforms.Compose([transforms.Resize((4, 6)), transforms.ToTensor()])
    batches = list(DataLoader(ImageFolder(folder, chosen), 2, shuffle=True, num_workers=3))
    assert [x.shape for x, _ in batches] == [(2, 3, 4, 6), (2, 3, 4, 6), (1, 3, 4, 6)]
    assert sorted(k for _, y in batches for k in y.tolist()) == [0, 0, 0, 1, 1]


def test_pictures_without_to_tensor_get_the_hint(folder: Path):
    with pytest.raises(Exception, match=r"got a PIL image\. Give the data set transform=transfo"):
        next(iter(DataLoader(ImageFolder(folder), 2)))


def test_folders_within_classes_are_in_torchvisions_order(tmp_path: Path):
    files = ["a/2.png", "a/b/1.png", "a/b-c/3.png", "a/b/z/1.JPG", "a/10.png", "b/x/y/1.jpeg"]
    for name in [*files, "a/notes.txt", "b/.hidden.png", ".cache/1.png", "top.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [os.path.relpath(path, tmp_path) for path, _ in ImageFolder(tmp_path).samples]
    # what torchvision 0.29 gives without the two hidden names
    assert found == [
        *("a/10.png", "a/2.png", "a/b/1.png", "a/b-c/3.png", "a/b/z/1.JPG", "b/x/y/1.jpeg")
    ]


def test_links_are_followed_but_not_around(folder: Path, tmp_path: Path):
    (tmp_path / "more").mkdir()
    picture().save(tmp_path / "more" / "3.png")
    (folder / "cat" / "linked").symlink_to(tmp_path / "more")
    (folder / "cat" / "around").symlink_to(folder)
    paths = [os.path.relpath(path, folder) for path, _ in ImageFolder(folder).samples]
    # the way around is taken once, up to where it would begin again
    assert [p for p in paths if p.startswith("cat/") and "around" not in p][
        -1
    ] == "cat/linked/3.png"
    assert all(path.count("around") <= 1 for path in paths)
    assert len(paths) == len(set(paths)) < 20


def test_files_may_be_chosen_by_a_function(folder: Path):
    chosen = ImageFolder(folder, is_valid_file=lambda path: path.endswith("1.png"))
    assert [Path(path).name for path, _ in chosen.samples] == ["1.png", "1.png"]


def test_other_files_with_other_loaders(tmp_path: Path):
    for number, name in enumerate(("odd/1.npy", "even/2.npy", "odd/3.NPY", "odd/4.txt"), 1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.float32([number]))
    numbers = DatasetFolder(tmp_path, np.load, (".npy",))
    assert [(float(x[0]), y) for x, y in numbers] == [(2, 0), (1, 1), (3, 1)]


def test_subclasses_may_find_other_classes(folder: Path):
    class Cats(ImageFolder):
        def find_classes(self, directory):
            return ["cat"], {"cat": 7}

    with pytest.warns(UserWarning, match="one class"):
        cats = Cats(folder)
    assert cats.targets == [7, 7, 7]


def test_no_index_beyond_the_end(folder: Path):
    with pytest.raises(BoundsError, match="expected an index into 5 of them, got 5"):
        ImageFolder(folder)[5]


# -- folders that are no data set


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"none: expected a folder of classes, got No such file"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: expected a folder of classes, got Not a directory"):
        ImageFolder(tmp_path / "file")


def test_a_folder_without_classes(tmp_path: Path):
    fix = r"\. Make a folder for each class, and put its pictures there: root/cat/1\.jpg\."
    with pytest.raises(DataError, match=r"expected a folder for each class, got none" + fix):
        ImageFolder(tmp_path)
    for k in range(3):
        picture().save(tmp_path / f"{k}.png")
    with pytest.raises(DataError, match=r"class, got 3 pictures in the folder itself" + fix):
        ImageFolder(tmp_path)


def test_classes_without_pictures(folder: Path):
    (folder / "fish").mkdir()
    (folder / "fish" / "1.heic").touch()
    (folder / "fish" / "2.HEIC").touch()
    (folder / "owl").mkdir()
    with pytest.raises(DataError) as error:
        ImageFolder(folder)
    assert str(error.value) == (
        f"{folder}: expected files in each class, ending in .jpg, .jpeg, .png, .ppm, .bmp, .pgm, "
        ".tif, .tiff, .webp, got none in 'fish', 'owl' (others there: 2 of .heic). "
        "Remove the folder, convert its files, or pass allow_empty=True."
    )
    pets = ImageFolder(folder, allow_empty=True)
    assert pets.classes == ["cat", "dog", "fish", "owl"]
    assert len(pets) == 5


def test_one_class_is_told(tmp_path: Path):
    (tmp_path / "cat").mkdir()
    picture().save(tmp_path / "cat" / "1.png")
    with pytest.warns(UserWarning, match=r"has one class, cat: there is nothing to tell apart"):
        assert ImageFolder(tmp_path).classes == ["cat"]


@pytest.mark.parametrize("parts", [("train", "val"), ("Test", "training"), ("train",)])
def test_parts_that_look_like_classes_are_told(tmp_path: Path, parts):
    for part in parts:
        (tmp_path / part / "cat").mkdir(parents=True)
        picture().save(tmp_path / part / "cat" / "1.png")
    with pytest.warns(UserWarning, match=f"Is {tmp_path / sorted(parts)[0]} meant"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"root": 3}, "expected a path"),
        ({"root": None}, "expected the folder of the classes, got None"),
        ({"transform": 3}, "expected transform to be called as f"),
        ({"transform": transforms.ToTensor}, r"Make one: ToTensor\(\.\.\.\)"),
        ({"target_transform": "x"}, "expected target_transform to be called"),
        ({"loader": 3}, "expected loader to be called"),
        ({"allow_empty": 1}, "expected allow_empty True or False"),
        ({"skip_unreadable": "yes"}, "expected skip_unreadable True or False"),
        ({"is_valid_file": 3}, "expected is_valid_file to be called"),
    ],
)
def test_wrong_arguments(folder: Path, arguments, words):
    (folder / "empty").mkdir()
    with pytest.raises(ArgumentError, match=words):
        ImageFolder(**{"root": folder, "allow_empty": True, **arguments})


def test_functions_beside_the_class(folder: Path):
    assert find_classes(folder) == (["cat", "dog"], {"cat": 0, "dog": 1})
    assert len(make_dataset(folder, extensions=".png")) == 5
    assert len(make_dataset(folder, {"dog": 4}, is_valid_file=lambda path: True)) == 2
    with pytest.raises(ArgumentError, match="expected extensions or is_valid_file, got none"):
        make_dataset(folder)
    with pytest.raises(ArgumentError, match="expected extensions or is_valid_file, got both"):
        make_dataset(folder, None, ".png", bool)
    with pytest.raises(ArgumentError, match="expected the number of each class"):
        make_dataset(folder, {}, ".png")


def test_a_root_in_the_home_folder(folder: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(ImageFolder("~/pets")) == 5


def test_transforms_of_both_are_called_together(folder: Path):
    class Pairs(datasets.VisionDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.transformed(picture(), 3)

    pairs = Pairs(folder, lambda img, target: (img.size, target + 1))
    assert pairs[0] == ((37, 23), 4)
    assert "Number of datapoints: 1" in repr(pairs)
    with pytest.raises(ArgumentError, match="expected transforms, or transform and target_trans"):
        Pairs(folder, lambda *both: both, lambda img: img)

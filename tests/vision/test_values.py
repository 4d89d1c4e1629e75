"""Transforms against torchvision's, on the same pictures: against its recorded results, and against
itself where it is installed. Signatures, too."""

from __future__ import annotations

import inspect
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from vision.cases import CASES, CLASSES, DATASETS, FUNCTIONS, UTILS, Side, facts, shown

import minires as mr
from minires.vision import datasets, transforms, utils

TABLE = json.loads(Path(__file__).with_name("table.json").read_text("utf-8"))
OURS = Side(transforms, transforms.functional, utils, mr.from_numpy, lambda name: name)
OTHER_NAMES = {"default_loader": "open_picture", "dtype=torch.float32": "dtype='float32'"}


def test_the_table_is_of_these_cases():
    assert list(TABLE["values"]) == list(CASES)
    assert TABLE["torchvision"].startswith("0.29")


@pytest.mark.parametrize("name", CASES)
def test_results_are_torchvisions(name):
    assert facts(CASES[name](OURS)) == TABLE["values"][name]


def test_results_are_those_of_the_torchvision_that_is_installed():
    if find_spec("torchvision") is None:
        pytest.skip("no torchvision")
    try:
        from vision.table import THEIRS
    except (ImportError, RuntimeError) as error:  # a build for another PyTorch
        pytest.skip(f"torchvision cannot be imported: {error}")
    ours = {name: facts(case(OURS)) for name, case in CASES.items()}
    assert ours == {name: facts(case(THEIRS)) for name, case in CASES.items()}


def test_signatures_are_torchvisions():
    functions = {transforms.functional: FUNCTIONS, utils: UTILS}
    for place, names in {transforms: CLASSES, **functions, datasets: DATASETS}.items():
        for name in names:
            theirs = TABLE["signatures"][name]
            for other, own in OTHER_NAMES.items():
                theirs = theirs.replace(other, own)
            assert shown(inspect.signature(getattr(place, name))) == theirs, name


class Recorded:
    """A module, and which of its names were asked for."""

    def __init__(self, module):
        self.module, self.names = module, set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(self.module, name)


def test_everything_that_both_have_is_compared():
    own = {"InterpolationMode", "Transform", "functional", "open_picture"}
    assert set(transforms.__all__) - own == set(CLASSES)
    assert set(transforms.functional.__all__) - own == set(FUNCTIONS)
    assert set(datasets.__all__) - own == set(DATASETS)
    assert set(utils.__all__) == set(UTILS)
    side = OURS._replace(T=Recorded(OURS.T), F=Recorded(OURS.F), U=Recorded(OURS.U))
    for case in CASES.values():
        case(side)
    assert set(CLASSES) <= side.T.names
    assert set(FUNCTIONS) <= side.F.names
    assert set(UTILS) <= side.U.names

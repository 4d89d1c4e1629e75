"""Kernels of a few lines, each run under all conditions or under one."""

from __future__ import annotations

import pytest

import cudasim


@pytest.fixture(autouse=True)
def _compiler():
    if reason := cudasim.missing():
        pytest.skip(reason)


@pytest.fixture(params=cudasim.ALL_CONDITIONS, ids=str)
def conditions(request):
    with cudasim.running(request.param):
        yield request.param

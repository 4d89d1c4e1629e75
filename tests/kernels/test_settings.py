"""Settings of Numba's that minires cannot take, or has no use for."""

from __future__ import annotations

import pytest
from harness import raises

from minires.errors import ArgumentError
from minires.kernels.numba import settings


@pytest.mark.parametrize("text", ["1", "2", "02", "4096"])
def test_numbers_of_threads(monkeypatch, text):
    monkeypatch.setenv("NUMBA_NUM_THREADS", text)
    settings._import_numba()


@pytest.mark.parametrize(
    "text", ["abc", "", " 2", "0", "00", "-1", "1.5", "²", "٣", "4097", "10" * 10, "9" * 5000]
)
def test_what_is_no_number_of_threads_is_one_clear_error(monkeypatch, text):
    monkeypatch.setenv("NUMBA_NUM_THREADS", text)
    with raises(
        ArgumentError,
        "NUMBA_NUM_THREADS: expected a whole number of threads, from 1 to 4096, got '",
        "Set it so, or leave it out",
    ):
        settings._import_numba()


@pytest.mark.slow
def test_one_error_is_all_that_a_program_sees(python):
    done = python.run("import doubling", check=False, NUMBA_NUM_THREADS="abc")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].startswith("minires.errors.ArgumentError: NUMBA_NUM_THR")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["x", "tbb"])
def test_numbas_layers_of_threads_do_not_matter(python, layer):
    """minires has threads of its own: a layer that Numba does not know, or has not got, is none of
    its business."""
    code = "import doubling; print(*doubling.run())"
    python.run(code)
    over = {"NUMBA_THREADING_LAYER": layer, "NUMBA_THREADING_LAYER_PRIORITY": layer}
    done = python.run(code, **over)
    assert (done.stdout, done.stderr) == ("0.0 2.0 4.0 6.0 8.0 10.0\n", "")

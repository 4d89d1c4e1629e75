"""The campaign against the cache of kernels: every flipped bit is refused, and would be noticed."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest

# in place of the step of a network: one kernel
SMALL = """
import hashlib
import minires as mr
y = mr.arange(6, dtype="float32").relu().numpy()
print(hashlib.sha256(y.tobytes()).hexdigest(), time.process_time(), spent)
"""


@pytest.fixture
def campaign(load):
    return load("kernel_cache")


@pytest.fixture
def small(campaign, monkeypatch):
    head, mark, _ = campaign.STEP.partition("import minires as mr\n")
    assert mark
    monkeypatch.setattr(campaign, "STEP", head + SMALL)
    return campaign


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    cache = tmp_path_factory.mktemp("kernels") / "cache"
    code = "import minires as mr; mr.arange(6, dtype='float32').relu().numpy()"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=300)
    return str(cache)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_flips_are_refused_and_the_step_is_sound(small, compiled, tmp_path, capsys):
    where = ["--cache", compiled, "--results", str(tmp_path)]
    small.main(["flips", "--step", "5003", "--processes", "1", *where])
    (row,) = rows(tmp_path / "bit_flips.csv")
    assert int(row["files"]) >= 3  # relu, and what launches it
    assert int(row["flips"]) > 100
    counted = [row[name] for name in ("accepted", "sound", "crashed", "wrong", "silent")]
    assert counted == ["0", "1", "0", "0", "0"]
    assert "0 were accepted; of 1 processes 0 crashed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_is_that_of_the_checksum(small, compiled, tmp_path, capsys):
    small.main(["cost", "--rounds", "1", "--cache", compiled, "--results", str(tmp_path)])
    (row,) = rows(tmp_path / "warm_start.csv")
    assert 0 < float(row["checksum_seconds"]) < float(row["cpu_seconds"])
    assert float(row["unchecked_cpu_seconds"]) > 0
    assert "of processor time with the checksum" in capsys.readouterr().out


def done(code, out="", err=""):
    return subprocess.CompletedProcess([], code, out, err)


def test_outcomes(campaign):
    anew = "UserWarning: ... It was compiled anew and replaced ..."
    assert campaign.outcome(done(0, "abc 1.0 0.1", anew), "abc") == "sound"
    assert campaign.outcome(done(0, "abc 1.0 0.1"), "abc") == "silent"
    assert campaign.outcome(done(0, "abc 1.0 0.1", anew + anew), "abc") == "silent"
    assert campaign.outcome(done(0, "abd 1.0 0.1", anew), "abc") == "wrong"
    assert campaign.outcome(done(-11), "abc") == "crashed"
    assert campaign.outcome(done(1, "abc 1.0 0.1", anew), "abc") == "crashed"


def test_a_reader_that_trusts_is_caught(campaign, tmp_path, monkeypatch):
    """The campaign counts what is accepted: it would see a checksum that is not looked at."""
    path, source = tmp_path / "f.nbc", bytes(campaign.sealed.HASH)
    campaign.sealed.write(path, "f", source, bytes(50))
    bits = 8 * path.stat().st_size
    assert campaign.accepted(path, "f", source, iter(range(bits))) == (bits, 0)
    monkeypatch.setattr(campaign.sealed, "_checksum", lambda *parts: Anything())
    tried, taken = campaign.accepted(path, "f", source, iter(range(bits)))
    assert tried == bits
    assert taken == 8 * (2 * campaign.sealed.HASH + 50)  # all but the beginning and the length


class Anything(bytes):
    __hash__ = None

    def __ne__(self, other):
        return False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["flips", "--step", "0"], "flips: expected --step from 1"),
        (["flips", "--processes", "-1"], "flips: expected --step from 1"),
        (["cost", "--rounds", "0"], "--rounds: expected at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense(campaign, options, said):
    with pytest.raises(SystemExit, match=f"error: {said}"):
        campaign.main(options)

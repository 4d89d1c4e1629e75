"""The benchmarks refuse to time what is wrong, and divide rightly what they time."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
OPS = sorted(path.parent.name for path in (ROOT / "minires/ops").glob("*/op.py"))
SCRIPTS = sorted([*FOLDER.glob("ops/bench_*.py"), FOLDER / "plain_vs_residual.py"])


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "harness", raising=False)  # the tests' own, of that name
    yield importlib.import_module("harness")
    for name in ("harness", "floors", "shapes", "readme"):
        sys.modules.pop(name, None)


class FakeClock:
    """A clock that moves when a side runs, by as many seconds as that side is said to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, seconds: list[float]) -> Any:
        """A side whose calls take these seconds in turn, the last value for ever."""

        def run() -> None:
            self.log.append(name)
            self.now += seconds.pop(0) if len(seconds) > 1 else seconds[0]

        return run

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.log.append("pause")


def make_case(
    harness: ModuleType, fast: Any, reference: Any, outputs: Any = (), **more: Any
) -> Any:
    settings = {"kernel": "double", "shape": "3", "bytes": 24, "operations": 3} | more
    return harness.Case(fast=fast, reference=reference, outputs=outputs, **settings)


def fill(array: Any, *values: float) -> Any:
    def write() -> None:
        array[: len(values)] = values

    return write


def test_agreement_is_measured_against_the_largest_entry(harness: ModuleType) -> None:
    a, b = np.empty(3, np.float32), np.empty(3, np.float32)
    case = make_case(harness, fill(a, 1, 2, 4.5), fill(b, 1, 2, 4), [(a, b)], tolerance=0.2)
    assert harness.agree(case) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1, 2, 3.1), "a difference of 0.0333"),
        ((1, 2), "a difference of nan"),  # the third entry is not written
        ((1, 2, np.nan), "a difference of nan"),
    ],
)
def test_a_wrong_kernel_is_not_timed(harness: ModuleType, values: Any, words: str) -> None:
    a, b = np.ones(3, np.float32), np.ones(3, np.float32)
    case = make_case(harness, fill(a, *values), fill(b, 1, 2, 3), [(a, b)])
    with pytest.raises(harness.Disagreement, match=words) as caught:
        harness.agree(case)
    assert "double: expected the reference's values to 0.0001 of their largest" in str(caught.value)
    assert "output 0, 3" in str(caught.value)


def test_an_integer_output_that_is_not_written_is_found(harness: ModuleType) -> None:
    a, b = np.zeros(2, np.int32), np.zeros(2, np.int32)
    with pytest.raises(harness.Disagreement):
        harness.agree(make_case(harness, fill(a), fill(b, 0, 0), [(a, b)]))


def test_main_writes_nothing_when_the_comparison_fails(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("floors"), "peak", lambda: 1e9)
    monkeypatch.setattr(harness, "measure", lambda *args, **options: pytest.fail("was timed"))
    a, b = np.empty(1, np.float32), np.empty(1, np.float32)
    case = make_case(harness, fill(a, 1), fill(b, 2), [(a, b)])
    with pytest.raises(SystemExit, match="error: double: expected the reference's values"):
        harness.main("double", lambda quick: [case], "", ["--results", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_ratios_are_those_of_each_round(harness: ModuleType) -> None:
    clock = FakeClock()
    # calls: one to judge how many fill a round; then per round one that warms up, one that counts
    fast = [1.0, 9.0, 1.0, 9.0, 2.0, 9.0, 3.0]
    reference = [4.0, 9.0, 4.0, 9.0, 4.0, 9.0, 4.0]
    case = make_case(harness, clock.side("f", fast), clock.side("r", reference))
    timing = harness.measure(case, 3, clock=clock, pause=clock.pause)
    assert timing.fast == pytest.approx((1, 2, 3))
    assert timing.reference == pytest.approx((4, 4, 4))
    assert timing.ratios == pytest.approx([0.25, 0.5, 0.75])
    assert timing.ratio() == pytest.approx(0.5)
    assert (timing.ratio(20), timing.ratio(80)) == (pytest.approx(0.35), pytest.approx(0.65))


def test_rounds_alternate_and_swap_their_order(harness: ModuleType) -> None:
    clock = FakeClock()
    case = make_case(harness, clock.side("f", [1.0]), clock.side("r", [1.0]))
    rounds = []
    harness.measure(case, 2, clock=clock, pause=clock.pause, after_round=lambda: rounds.append(1))
    first, second = ["pause", "f", "f", "pause", "r", "r"], ["pause", "r", "r", "pause", "f", "f"]
    assert clock.log == ["f", "r", *first, *second]
    assert len(rounds) == 2


def test_short_calls_are_repeated_and_averaged(harness: ModuleType) -> None:
    clock = FakeClock()
    case = make_case(harness, clock.side("f", [0.001]), clock.side("r", [0.01]))
    timing = harness.measure(case, 1, clock=clock, pause=clock.pause)
    repeats = round(harness.ROUND_SECONDS / 0.001)
    assert clock.log.count("f") == repeats + 2
    assert timing.fast[0] == pytest.approx(0.001)
    assert timing.ratio() == pytest.approx(0.1)


def test_no_rounds_are_refused(harness: ModuleType) -> None:
    case = make_case(harness, lambda: None, lambda: None)
    with pytest.raises(ValueError, match="measure: expected rounds >= 1, got 0"):
        harness.measure(case, 0)


def make_row(harness: ModuleType, **facts: Any) -> dict[str, Any]:
    a = np.zeros(3, np.float32)
    case = make_case(harness, None, None, [(a, a)], bytes=2000, operations=500)
    environment = dict.fromkeys(harness.COLUMNS[:10], "x") | {"threads": 2} | facts
    timing = harness.Timing((0.001, 0.002, 0.003), (0.01, 0.01, 0.01))
    return harness.row(case, timing, 1e-6, harness.Floors(bandwidth=4e6, peak=1e6), environment)


def test_a_row_holds_times_ratios_and_shares(harness: ModuleType) -> None:
    row = make_row(harness)
    assert set(row) == set(harness.COLUMNS)
    assert (row["milliseconds"], row["reference_milliseconds"]) == ("2", "10")
    assert (row["ratio"], row["ratio_p20"], row["ratio_p80"]) == ("0.2", "0.14", "0.26")
    # 2,000 bytes at 4 MB/s take 0.5 ms of the 2 ms, 500 operations at 1 MHz as much
    assert (row["memory_share"], row["compute_share"]) == ("0.25", "0.25")
    assert row["dtype"] == "float32"
    assert row["rounds"] == 3


def test_rows_are_appended_under_one_header(harness: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "new" / "double.csv"
    harness.append(path, [make_row(harness, date="1")])
    harness.append(path, [make_row(harness, date="2"), make_row(harness, date="2")])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["date"] for row in rows] == ["1", "2", "2"]
    assert rows[0]["ratio"] == "0.2"
    assert [row["date"] for row in harness.newest(path)] == ["2", "2"]


def test_other_columns_are_refused(harness: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "double.csv"
    path.write_text("date,speed\n1,2\n")
    with pytest.raises(RuntimeError, match=r"expected the harness's columns, got date,speed"):
        harness.append(path, [make_row(harness)])
    assert path.read_text() == "date,speed\n1,2\n"


def test_the_readme_gets_the_newest_rows(harness: ModuleType, tmp_path: Path) -> None:
    page = importlib.import_module("readme")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    harness.append(tmp_path / "double.csv", [make_row(harness, date="2026-01-01T00:00:00")])
    harness.append(tmp_path / "double.csv", [make_row(harness, date="2026-02-01T00:00:00")])
    page.update(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith(f"before\n{page.BEGIN}\n\n**double**, 2026-02-01: minires x")
    assert "| 3 | double | 2 | 25 % | 25 % | 10 | 0.200 (0.140-0.260) |" in text
    assert text.endswith(f"\n\n{page.END}\nafter\n")
    assert "old" not in text
    assert "2026-01-01" not in text


def test_the_floors_are_those_of_the_clock(harness: ModuleType) -> None:
    floors = importlib.import_module("floors")
    ticks = iter(range(10**6))

    def clock() -> float:  # every call that is timed takes one second
        return float(next(ticks))

    assert floors.bandwidth(8000, clock) == 8000
    assert floors.peak(clock) == 2 * 1536**3


# -- the scripts -------------------------------------------------------------------------------


def run_script(path: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        timeout=120,
    )


def test_every_operation_with_kernels_has_a_benchmark() -> None:
    assert [path.stem for path in SCRIPTS if path.parent.name == "ops"] == [
        f"bench_{op}" for op in OPS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_explain_themselves(path: Path, tmp_path: Path) -> None:
    done = run_script(path, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("--depths" if path.stem == "plain_vs_residual" else "--quick") in done.stdout


@pytest.mark.parametrize("op", OPS)
def test_every_kernel_of_an_operation_is_timed(
    op: str, harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case runs, agrees, and stands for a public function of the kernel modules."""
    reference = importlib.import_module(f"minires.ops.{op}.kernel_numpy")
    kernels = {
        name
        for name, value in vars(reference).items()
        if callable(value) and name.startswith(f"{op}_")
    }
    monkeypatch.syspath_prepend(str(FOLDER / "ops"))
    script = importlib.import_module(f"bench_{op}")
    timed = set()
    for case in script.cases(True):
        harness.agree(case)
        assert case.bytes > 0
        assert case.operations > 0
        timed.add(case.kernel)
    assert timed == kernels - {"conv2d_way"}  # which chooses a way, and computes nothing


@pytest.mark.slow
def test_a_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    done = run_script(
        FOLDER / "ops/bench_relu.py", "--quick", "--rounds", "2", "--results", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "relu_bwd_x" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80 + len(str(tmp_path))
    with open(tmp_path / "relu.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kernel"] for row in rows] == ["relu_fwd", "relu_bwd_x"] * 2
    for row in rows:
        assert row["rounds"] == "2"
        assert 0 < float(row["ratio_p20"]) <= float(row["ratio"]) <= float(row["ratio_p80"])
        assert float(row["bandwidth"]) > 1e8
        assert float(row["peak"]) > 1e8


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    done = run_script(FOLDER / "ops/bench_relu.py", "--threads", "0", "--results", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: set_num_threads: expected n an integer >= 1 and <= ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_study_script_is_the_command(tmp_path: Path) -> None:
    done = run_script(FOLDER / "plain_vs_residual.py", "--depths", "9", cwd=tmp_path)
    assert done.returncode == 1
    assert "expected 6n+2" in done.stderr


@pytest.mark.slow
def test_parity_planted_errors_before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same wrong backward reaches torch's checker, the same right one passes it."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("gradcheck_vs_torch")
    chosen = ("sign flip", "batch norm without its x̂ term", "max-pool tie sent twice")
    monkeypatch.setattr(script, "PLANTED", [p for p in script.PLANTED if p.name in chosen])
    rows = {row["error"]: row for row in script.run("numpy")}
    assert set(rows) == set(chosen)
    assert all(row["minires"] == "found" for row in rows.values())
    assert rows["sign flip"]["torch slow"] == rows["sign flip"]["torch fast"] == "found"
    assert rows[chosen[1]]["sum with ones"] == "missed"  # it does not depend on the input at all
    assert rows[chosen[2]]["torch slow"] == "false alarm"
    text = script.table(list(rows.values()), dict.fromkeys(script.FACTS, "?"))
    assert "| **found** | 2 of 3 | 2 of 3 | 1 of 3 | 3 of 3 |" in text

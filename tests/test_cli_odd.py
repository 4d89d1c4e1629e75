"""Whatever is given to the command line, it ends by itself, in few words, without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minires import cli, starting

EXIT_CODES = {0, 1, 2, 130}
MOST = 12_000  # characters of output

# -- arguments ---------------------------------------------------------------------------------

LONG = "x" * 5000
TEXTS = (
    *("", " ", LONG, "\udcff", "ü 字", "nan", "-1", "a,b", ",", "8,,20", "\0", "[red]x[/red]"),
    *("%s{}", "../..", "both,both", "http://[::1", "http://a:99999", "http://", "http://é.x"),
)
INTEGERS = ("nan", "inf", "-1", "1e309", "", "9" * 30, "9" * 5000, "1.5", "\udcff", "0x10", LONG)
NUMBERS = ("nan", "inf", "-inf", "1e309", "-1", "", "\udcff", LONG)
PATHS = (
    *("", "/dev/full/x", "/dev/null", "/dev/full", "/proc/x", "file", "file/x", LONG, "\0"),
    *("a/" * 3000 + "b", "/proc/self/mem", "\ud800", "/dev/stdin/\udcff"),
)
# What the commands do when all else is right takes a second at most. A missing network or a
# duplicated depth keeps the others from doing anything.
COMMANDS = {
    "depth": (cli.depth, ["depth", "--depths", "8,8"]),
    "train": (cli.train, ["train", "no_such_network"]),
    "warmup": (cli.warmup, ["warmup"]),
    "gradcheck": (cli.gradcheck, ["gradcheck", "no_such_operation"]),
    "data get": (cli.data_get, ["data", "get", "mnist", "--mirror", "http://127.0.0.1:9"]),
}
OWN = {  # options that are looked at before what stops the command above
    "depths": ["depth"],
    "kinds": ["depth", "--depths", "21"],
    "out": ["train", "cifar_plain8", "--epochs", "1", "--limit", "8"],
    "resume": ["depth"],
    "report": ["gradcheck", "neg"],
    "n": ["gradcheck", "neg"],
    "seed": ["gradcheck", "neg"],
    "warmup_epochs": ["train", "cifar_plain8", "--epochs", "1", "--limit", "8"],
}


def odd_arguments():
    for name, (function, base) in COMMANDS.items():
        for option, hint in typing.get_type_hints(function).items():
            kind = str(hint)
            if option == "return" or "bool" in kind:
                continue
            if "Path" in kind:
                values = PATHS
            elif "int" in kind:
                values = INTEGERS
            else:
                values = NUMBERS if "float" in kind else TEXTS
            for value in values:
                if option in ("model", "names", "name"):
                    yield [*name.split(), "--", value]
                else:
                    start = OWN.get(option, base) if name != "data get" else base
                    yield [*start, f"--{option.replace('_', '-')}={value}"]


ARGUMENTS = [
    *odd_arguments(),
    *([], [""], ["\udcff"], [LONG], ["--"], ["-"], ["--versio"], ["--version", "depth"]),
    *(["data"], ["data", "lst"], ["depth", "more"], ["train", "a", "b"], ["info", "--x"]),
    *(["depth", "--out"], ["depth", "--seeds", "0,0"], ["depth", "--seeds", "-1"]),
    *(["depth", "--depths", "9" * 5000], ["depth", "--depths", "2147483648"]),
    *(["depth", "--resume", ".", "--out", "x"], ["--install-completion"]),
]


def test_there_are_many_odd_arguments():
    assert len(ARGUMENTS) > 300


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: ascii(" ".join(a))[:70])
def test_odd_arguments(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "data"))
    Path("file").write_text("")
    monkeypatch.setattr(sys, "argv", ["minires", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (stop.value.code or 0) in EXIT_CODES
    assert "Traceback" not in out + err
    assert len(out + err) < MOST


def test_inf_is_no_number_of_epochs_or_seconds(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["train", "cifar_plain8", "--warmup-epochs", "inf"], "train: expected warmup_epochs"),
        (["data", "get", "mnist", "--timeout", "inf"], "data get: expected timeout"),
        (["data", "get", "mnist", "--mirror", "http://[::1"], "http(s) addresses"),
        (["depth", "--epochs", "9" * 30], "epochs"),
        (["gradcheck", "--n", "9" * 30], "--n"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert words in err
    assert not [*tmp_path.iterdir()]


# -- environments ------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, dict[str, str | bytes | None]] = {
    **{f"HOME={v}": {"HOME": v} for v in (None, "", "/nonexistent/x", "/dev/null", b"/\xff")},
    **{f"TERM={v}": {"TERM": v} for v in (None, "dumb", "x" * 300)},
    **{f"COLUMNS={v}": {"COLUMNS": v} for v in ("0", "1", "x", "-5", "²", "999999999")},
    "LINES": {"LINES": "²"},
    "TERMINAL_WIDTH": {"TERMINAL_WIDTH": "x"},
    "NO_COLOR": {"NO_COLOR": "1", "FORCE_COLOR": "1"},
    **{f"LC_ALL={v}": {"LC_ALL": v, "PYTHONUTF8": "0"} for v in ("C", "POSIX", "xx_YY.zz")},
    "no UTF-8": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    **{
        f"PYTHONIOENCODING={v}": {"PYTHONIOENCODING": v}
        for v in ("ascii", "ascii:strict", "latin-1", "cp1252", "utf-16")
    },
    **{
        f"MINIRES_DATA={v}": {"MINIRES_DATA": v}
        for v in ("", "/dev/null", "x" * 5000, b"/\xff", "~nobody-of-this-name/x")
    },
    "MINIRES_SIMD": {"MINIRES_SIMD": "x"},
    **{
        f"NUMBA_NUM_THREADS={v}": {"NUMBA_NUM_THREADS": v}
        for v in ("0", "-1", "x", "", "1.5", "²", "100000")
    },
    "NUMBA_THREADING_LAYER": {"NUMBA_THREADING_LAYER": "x"},
    "NUMBA_THREADING_LAYER_PRIORITY": {"NUMBA_THREADING_LAYER_PRIORITY": "x"},
    "NUMBA_CACHE_DIR": {"NUMBA_CACHE_DIR": "/proc/x"},
    "NUMBA_OPT": {"NUMBA_OPT": "x"},
    "OMP": {"OMP_NUM_THREADS": "x", "OMP_WAIT_POLICY": "x"},
    "GOMP_SPINCOUNT": {"GOMP_SPINCOUNT": "x"},
    **{f"MPLBACKEND={v}": {"MPLBACKEND": v} for v in ("foo", "", "module://nope")},
    "MPLCONFIGDIR": {"MPLCONFIGDIR": "/proc/x"},
    "TMPDIR": {"TMPDIR": "/nonexistent"},
    "PYTHONWARNINGS": {"PYTHONWARNINGS": "error"},
    "PYTHONOPTIMIZE": {"PYTHONOPTIMIZE": "2"},
    "PYTHONHASHSEED": {"PYTHONHASHSEED": "0"},
    "PYTHONDEVMODE": {"PYTHONDEVMODE": "1"},
    "XDG": {"XDG_CACHE_HOME": "/proc/x", "XDG_CONFIG_HOME": "/dev/null"},
    "PATH": {"PATH": ""},
}


REFUSED = ("NUMBA_NUM_THREADS", "MINIRES_SIMD", "MINIRES_DATA=xxx", "MINIRES_DATA=~")
# What a variable is about. The others, of Python and of libraries, have nothing to do with these.
TOPICS = {
    "text": ("LC_ALL", "no UTF-8", "PYTHONIOENCODING"),
    "terminal": ("TERM", "COLUMNS", "LINES", "NO_COLOR"),
    "folders": ("HOME", "MINIRES_DATA", "XDG", "TMPDIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"),
}


def environments():
    """Names and variables of odd environments. Those that are refused come alone. The others are
    taken together, one of each topic: all must be borne, so that none hides what another does."""
    by_topic = {topic: [] for topic in (*TOPICS, "others")}
    for name, over in ENVIRONMENTS.items():
        if name.startswith(REFUSED):
            yield [name], over
        else:
            topics = [topic for topic, words in TOPICS.items() if name.startswith(words)]
            by_topic[(*topics, "others")[0]].append(name)
    for names in itertools.zip_longest(*by_topic.values()):
        names = [name for name in names if name is not None]
        variables = [variable for name in names for variable in ENVIRONMENTS[name]]
        assert len(variables) == len(set(variables))
        yield names, {v: value for name in names for v, value in ENVIRONMENTS[name].items()}


def start(arguments, over, folder, **options):
    """A process that runs the command in an environment that differs by ``over``."""
    environment = dict(os.environb)
    for name, value in over.items():
        environment.pop(name.encode(), None)
        if value is not None:
            environment[name.encode()] = value if isinstance(value, bytes) else value.encode()
    return subprocess.Popen(
        [sys.executable, "-m", "minires", *arguments],
        env=environment,  # type: ignore[arg-type]
        cwd=folder,
        **{"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1, **options},
    )


@pytest.mark.slow
def test_odd_environments(tmp_path):
    def tried(names, over):
        process = start(["info"], over, tmp_path)
        out, err = process.communicate(timeout=100)
        return names, process.returncode, out + err

    assert len(ENVIRONMENTS) >= 49
    cases = list(environments())
    assert sorted(name for names, _ in cases for name in names) == sorted(ENVIRONMENTS)
    with ThreadPoolExecutor(2) as pool:
        for names, code, output in pool.map(tried, *zip(*cases)):
            assert code == names[0].startswith(REFUSED), (names, output)
            assert b"Traceback" not in output, (names, output)
            assert len(output) < MOST, names


STUDY = ["depth", "--depths", "8", "--kinds", "plain", "--epochs", "1", "--limit", "8"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "over",
    [
        {"PYTHONIOENCODING": "ascii", "MPLBACKEND": "foo", "SOURCE_DATE_EPOCH": "x"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["ascii", "C"],
)
def test_a_study_ends_with_its_report_in_a_folder_whose_name_is_no_text(tmp_path, over):
    process = start([*STUDY, "--out", b"run-\xff"], over, tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    folder = os.fsencode(tmp_path) + b"/run-\xff"
    report = Path(os.fsdecode(folder)) / "report.html"
    assert "run-\\udcff" in report.read_text(encoding="utf-8")
    assert b"Report: run-" in out
    assert out.isascii()


@pytest.mark.slow
def test_a_study_whose_reader_leaves_or_whose_disk_is_full_goes_on_to_its_report(tmp_path):
    process = start([*STUDY, "--out", "left"], {}, tmp_path)
    process.stdout.close()  # as `| head -0` does
    process.stderr.close()
    assert process.wait(timeout=200) == 0
    assert (tmp_path / "left" / "report.html").exists()
    with open("/dev/full", "w") as full:
        process = start([*STUDY, "--out", "full"], {}, tmp_path, stdout=full)
    _, err = process.communicate(timeout=200)
    assert (tmp_path / "full" / "report.html").exists()
    assert process.returncode == 1
    assert b"standard output cannot be written" in err
    assert b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/full"])
def test_streams_that_are_closed_or_full(tmp_path, redirected):
    done = subprocess.run(
        f"exec {sys.executable} -m minires data list {redirected}",
        shell=True,
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == (1 if redirected == ">/dev/full" else 0), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_full_table_in_ascii(tmp_path):
    process = start(["data", "list"], {"PYTHONIOENCODING": "ascii"}, tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"1 x 8 x 8" in out
    assert b"?" not in out


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_at_any_time_is_one_line(tmp_path):
    """During the imports, too; Python's own start, before anything of minires, aside."""
    for delay in (0.1, 0.15, 0.2, 0.25, 0.3, 0.5):
        process = start(["gradcheck"], {}, tmp_path)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        if b"minires" not in err and (b"Traceback" in err or process.returncode == -signal.SIGINT):
            continue  # Python itself was still starting
        assert process.returncode == 130, (delay, err)
        assert b"Traceback" not in err, (delay, err)
        assert b"Stopped." in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("variable", ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"])
def test_of_several_ranks_that_are_stopped_as_they_start_the_first_says_so(variable):
    code = "import os, signal; from minires import starting; starting._stop(signal.SIGINT, None)"
    for rank, said in (("0", b"\nStopped.\n"), ("1", b"")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={k: v for k, v in os.environ.items() if k not in starting.RANKS} | {variable: rank},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (130, said)

"""A checkpoint cannot run code: whatever a pickle asks for beyond data is refused by its name.

Each file here would leave a file behind if its pickle were executed; that Python's own ``pickle``
does so is tested first, since a harmless file proves nothing.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import subprocess
import sys

import pytest

import minires as mr
from minires.errors import CheckpointError
from minires.interop.unpickle import Malformed, Refused, unpickle


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def attacks(target):
    """Name -> (the body of a pickle that makes the file ``target``, what the error must say)."""
    shell = f"touch '{target}'"
    code = f"open({str(target)!r}, 'w').close()"
    call = (text(shell), b"\x85R")
    glob = b"c%s\n%s\n"

    def stack_global(module, name):
        return text(module) + text(name) + b"\x93"

    class Reduced:
        def __init__(self, function, *arguments):
            self.call = function, arguments

        def __reduce__(self):
            return self.call

    def reduced(function, *arguments):
        return pickle.dumps({"state_dict": {"w": Reduced(function, *arguments)}}, 2)[2:-1]

    popen = stack_global("subprocess", "getoutput")
    imported = glob % (b"builtins", b"__import__") + text("os") + b"\x85R"
    return {
        "reduce os.system": (reduced(os.system, shell), f"{os.name}.system"),
        "reduce eval": (reduced(eval, code), "builtin"),
        "reduce exec": (reduced(exec, code), "builtin"),
        "reduce subprocess": (reduced(subprocess.getoutput, shell), ".getoutput"),
        "GLOBAL os.system": (glob % (b"os", b"system") + call[0] + call[1], "os.system"),
        "STACK_GLOBAL": (popen + call[0] + call[1], "subprocess.getoutput"),
        "STACK_GLOBAL with dots": (
            stack_global("minires.files", "os.system") + call[0] + call[1],
            "minires.files.os.system",
        ),
        "INST": (b"(" + text(shell) + b"ios\nsystem\n", "os.system"),
        "OBJ": (b"(" + glob % (b"os", b"system") + text(shell) + b"o", "os.system"),
        "NEWOBJ": (
            glob % (b"subprocess", b"Popen") + text(shell) + b"N\x86\x81", "subprocess.Popen"
        ),
        "NEWOBJ_EX": (
            glob % (b"subprocess", b"Popen") + text(shell) + b"\x85"
            + b"}" + text("shell") + b"\x88s\x92",
            "subprocess.Popen",
        ),
        "getattr of an import": (
            glob % (b"builtins", b"getattr") + imported + text("system") + b"\x86R"
            + call[0] + call[1],
            "builtins.getattr",
        ),
        "a function from a function": (
            stack_global("operator", "methodcaller") + text("system") + text(shell) + b"\x86R"
            + imported + b"\x85R",
            "operator.methodcaller",
        ),
        "BUILD with __setstate__": (
            glob % (b"functools", b"partial") + glob % (b"os", b"system") + b"\x85R"
            + b"(" + glob % (b"os", b"system") + b"(" + text(shell) + b"t}Ntb)R",
            "functools.partial",
        ),
        "BUILD as setattr on an allowed class": (
            glob % (b"collections", b"Counter") + b"q\x00N}" + text("__init__")
            + glob % (b"os", b"system") + b"s\x86bh\x00" + call[0] + call[1],
            "os.system",
        ),
        "loading bytes within": (
            stack_global("torch.storage", "_load_from_bytes")
            + b"B" + struct.pack("<I", 40 + len(shell)) + bytes(40 + len(shell)) + b"\x85R",
            "torch.storage._load_from_bytes",
        ),
        "after honest data": (
            b"(" + text("w") + b"cos\nsystem\n" + call[0] + call[1] + b"d", "os.system"
        ),
    }  # fmt: skip


RUNS = [  # those that Python's pickle executes as they stand: no other library is needed
    "reduce os.system", "reduce eval", "reduce exec", "reduce subprocess", "GLOBAL os.system",
    "STACK_GLOBAL", "STACK_GLOBAL with dots", "INST", "OBJ",
    "getattr of an import", "a function from a function", "BUILD with __setstate__",
    "BUILD as setattr on an allowed class", "after honest data",
]  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_pickle_itself_would_run_it(tmp_path, name):
    target = tmp_path / "made"
    body, _ = attacks(target)[name]
    protocol = b"\x04" if "STACK" in name else b"\x02"
    (tmp_path / "x.pkl").write_bytes(b"\x80" + protocol + body + b".")
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.pkl"], capture_output=True)
    assert target.exists()


@pytest.mark.parametrize("name", attacks("x"))
def test_it_is_refused_by_name(make_pth, tmp_path, name):
    target = tmp_path / "made"
    body, words = attacks(target)[name]
    path = make_pth(body)
    with pytest.raises(
        CheckpointError, match="only tensors, containers, numbers and text"
    ) as caught:
        mr.load(path)
    assert words in str(caught.value)
    assert "nothing of it was run. If you trust the file, open it with PyTorch" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pth"]


def test_no_module_is_imported(make_pth, tmp_path):
    (tmp_path / "planted.py").write_text("open('made', 'w').close()")
    path = make_pth(b"cplanted\nf\n")
    code = (
        "import minires as mr, sys\n"
        "try:\n    mr.load(sys.argv[1])\n"
        "except mr.errors.CheckpointError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=tmp_path, capture_output=True, text=True
    )
    assert "got planted.f; nothing of it was run" in done.stdout
    assert not (tmp_path / "made").exists()


def test_the_extension_registry_is_not_asked(make_pth):
    copyreg.add_extension("os", "getcwd", 0x7E57)
    try:
        path = make_pth(b"\x83\x57\x7e)R")
        with pytest.raises(CheckpointError, match="got the opcode EXT2; nothing"):
            mr.load(path)
    finally:
        copyreg.remove_extension("os", "getcwd", 0x7E57)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"Pabc\n", "the opcode PERSID"),
        (b"\x97", "the opcode NEXT_BUFFER"),
        (b"]}b", "attributes set on a list"),
        (b"ccollections\nCounter\nN}\x86b", "attributes set on a Global"),
        (b"N)R", "a call of a NoneType"),
        (text("os.system") + b")R", "a call of os.system"),
        (b"ctorch\nFloatStorage\n)R", "a call of torch.FloatStorage"),
        (b"ctorch\nFloatStorage\n)\x81", "the opcode NEWOBJ"),
        (b"(ctorch\nFloatStorage\no", "the opcode OBJ"),
        (b"(icollections\nOrderedDict\n", "collections.OrderedDict"),
        (b"ctorch._utils\n_rebuild_qtensor\n", "torch._utils._rebuild_qtensor"),
        (b"ctorch\x1b[2J\nf\n", r"got torch\x1b[2J.f; nothing"),
        (b"c" + b"a" * 500 + b"\nf\n", "got " + "a" * 48 + " … " + "a" * 46 + ".f;"),
    ],
)
def test_what_else_is_refused(make_pth, body, words):
    with pytest.raises(CheckpointError, match="nothing of it was run") as caught:
        mr.load(make_pth(body))
    assert words in str(caught.value)


def test_nested_lists_of_themselves_cost_nothing(make_pth):
    """Forty lists, each holding the one before twice: 2**40 leaves for who would copy them."""
    body = b"]" + b"".join(b"q\x00]q\x01(h\x00h\x00e" for _ in range(40))
    with pytest.raises(CheckpointError, match="stand in others so often that there are over"):
        mr.load(make_pth(body))
    depth, value = 0, mr.load(make_pth(body[: 1 + 10 * 11]))
    while value:
        assert value[0] is value[1]
        value, depth = value[0], depth + 1
    assert depth == 10
    with pytest.raises(CheckpointError, match="a tuple in the wrong place"):  # as a key: hashed
        mr.load(make_pth(b"}" + b")" + b"q\x00h\x00\x86" * 40 + b"Ns"))
    with pytest.raises(CheckpointError, match="a tuple in the wrong place"):  # as a name: printed
        mr.load(make_pth(b")" + b"q\x00h\x00\x86" * 40 + text("f") + b"\x93"))


def test_unpickle_alone():
    assert unpickle(pickle.dumps([1, {"a": 2.5}]), functions={}) == [1, {"a": 2.5}]
    add = {"operator.add": lambda a, b: a + b}
    assert unpickle(b"coperator\nadd\nK\x01K\x02\x86R.", functions=add) == 3
    with pytest.raises(Malformed, match="IndexError"):
        unpickle(b".", functions={})
    with pytest.raises(Refused) as caught:
        unpickle(b"NQ.", functions={})
    assert caught.value.what == "an object outside the pickle"

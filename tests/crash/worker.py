"""A process that runs commands of minires in children, each of which fails at a chosen moment.

Reads one JSON line per job from standard input and answers each with one. Importing minires takes
seconds, so the jobs run in forks of this process, which has not started the threads of kernels. A
job is real: a process of its own, files of its own, and ``os._exit`` in the middle of what it does,
without any cleaning up, as a kill leaves it.

Every operation that changes files is counted: opening for writing, writing, forcing to the disk,
renaming, removing, making a folder. Before the one that the job names, the process ends ("kill"),
or that one and all later ones fail as on a full disk ("full").
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import io
import json
import os
import sys
import tempfile
import traceback

KILLED = 77
GROWING = ("open", "write", "fsync", "replace", "mkdir")  # what a full disk refuses


class Faults:
    """Counts operations on files below ``folder``, and makes one of them fail."""

    def __init__(self, folder, kind, at):
        self.folder, self.kind, self.at = os.path.realpath(folder), kind, at
        self.seen = []

    def meet(self, name, path):
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not os.path.abspath(os.fspath(path)).startswith(self.folder):
            return
        number = len(self.seen)
        self.seen.append(f"{name} {os.path.relpath(path, self.folder)}")
        if self.kind == "kill" and number == self.at:
            os._exit(KILLED)
        if self.kind == "full" and number >= self.at and name in GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def install(self):
        real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink", "rmdir")}
        real_mkdir, real_open = os.mkdir, builtins.open
        faults = self

        def os_open(path, flags, *rest, **options):
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                faults.meet("open", path)
            return real["open"](path, flags, *rest, **options)

        def before(name):
            def call(path, *rest, **options):
                faults.meet(name, path)
                return real[name](path, *rest, **options)

            return call

        def mkdir(path, *rest, **options):
            if not os.path.isdir(path):
                faults.meet("mkdir", path)
            return real_mkdir(path, *rest, **options)

        def opened(file, mode="r", *rest, opener=None, **options):
            if opener is None and set(mode) & set("wax+") and not isinstance(file, int):
                faults.meet("open", file)
            result = real_open(file, mode, *rest, opener=opener, **options)
            if isinstance(result, io.BufferedWriter):
                write = result.write

                class Writer:
                    """The file, whose writes are counted."""

                    def __getattr__(self, name):
                        return getattr(result, name)

                    def __enter__(self):
                        return self

                    def __exit__(self, *error):
                        result.close()

                    def write(self, data):
                        faults.meet("write", result.fileno())
                        half = len(data) // 2  # a kill, or a full disk, in the middle of a file
                        write(data[:half])
                        result.flush()
                        faults.meet("write", result.fileno())
                        return half + write(data[half:])

                return Writer()
            return result

        os.open = os_open
        for name in ("fsync", "replace", "unlink", "rmdir"):
            setattr(os, name, before(name))
        os.mkdir = mkdir
        builtins.open = io.open = opened


def work(job):
    """Run one command of minires; returns what it said and how it ended."""
    import minires
    from minires import cli, console

    faults = Faults(job["folder"], job.get("kind"), job.get("at", -1))
    if job.get("kind"):
        faults.install()
    out, err = io.StringIO(), io.StringIO()
    console.console.file, console.errors.file = out, err
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with minires.backend("numpy"):  # no kernels to load, no threads to start
                cli.main(job["arguments"])
        except SystemExit as end:
            code = end.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seen": faults.seen}


def child(job, answer):
    """In the fork: work, answer through a pipe, and end at once."""
    try:
        result = work(job)
    except BaseException:
        result = {"code": 99, "out": "", "err": traceback.format_exc(), "seen": []}
    with os.fdopen(answer, "wb") as file:
        file.write(json.dumps(result).encode())
    os._exit(0)


def prepare():
    """Import what commands use, and leave out what only takes time and writes nothing: figures,
    most of the images, counts of multiply-adds; norms of weights stand for those of gradients."""
    import minires.console
    import minires.environment
    import minires.study.runner
    import minires.train.job
    from minires import data
    from minires.study import figures, measures, runner

    def norms(model, *probe):
        modules = dict(model.named_modules())
        weights = [modules[name].weight.data for name in measures.conv_names(model)]
        return [float((w.astype("float64") ** 2).sum()) for w in weights]

    measures.gradient_norms = norms
    runner.multiply_adds = lambda *arguments: 1
    minires.environment.describe = lambda *place: {
        "minires": "0", "python": "0", "numpy": "0", "numba": "0",
        "platform": "0", "cpu": "0", "threads": 1, "commit": None,
    }  # fmt: skip
    figures.render = lambda *arguments, **options: b"<svg/>"
    load = data.load
    data.load = lambda *arguments, **options: load(*arguments, **options).limit(12)
    with tempfile.TemporaryDirectory() as folder:  # what is imported late is there for all children
        for command in (["depth", "--depths", "8"], ["train", "cifar_plain8"]):
            out = os.path.join(folder, command[0])
            done = work({"folder": folder, "arguments": [*command, "--epochs", "1", "--out", out]})
            if done["code"]:
                raise SystemExit(done["err"])
    gc.freeze()


if __name__ == "__main__":
    prepare()
    for line in sys.stdin:
        job = json.loads(line)
        end, start = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(end)
            child(job, start)
        os.close(start)
        with open(end, "rb") as file:
            text = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if not text:
            text = json.dumps({"code": code, "out": "", "err": "", "seen": []}).encode()
        print(text.decode(), flush=True)

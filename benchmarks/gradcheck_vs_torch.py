"""Which planted errors does ``torch.autograd.gradcheck`` find, and which does minires?

Every error of ``minires.selfcheck.planted`` is put in place, and the same function with the same
wrong backward is handed to four checkers, on the same numbers:

* ``torch.autograd.gradcheck``, slow mode (every entry) and fast mode (one random projection), with
  its defaults, on the function wrapped as a ``torch.autograd.Function`` whose forward and backward
  are minires' own;
* the sum check of many tutorials: upstream gradient of ones, central differences of ``y.sum()``,
  compared at a relative 1e-4;
* ``minires.gradcheck.check``.

Each also sees the same function with nothing planted. One that rejects that too has found nothing:
its verdict is "false alarm". Needs the extra ``parity``. Prints the table, appends it to
``benchmarks/results/gradcheck_vs_torch.csv`` and writes it into ``docs/gradient_checks.md``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import minires as mr
from minires import environment
from minires.gradcheck import check
from minires.selfcheck.planted import PLANTED, Planted

RESULTS = Path(__file__).resolve().parent / "results" / "gradcheck_vs_torch.csv"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "gradient_checks.md"
BEGIN, END = "<!-- planted errors -->", "<!-- end of planted errors -->"
FACTS = ("date", "minires", "commit", "torch", "numpy", "python", "cpu", "backend")
CHECKERS = ("torch slow", "torch fast", "sum with ones", "minires")


def as_torch(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` of minires as a function of torch tensors, forward and backward."""

    class Wrapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            leaves = [mr.tensor(x.detach().numpy(), requires_grad=True) for x in xs]
            y = f(*leaves)
            ctx.leaves, ctx.y = leaves, y
            return torch.from_numpy(y.detach().data.copy())

        @staticmethod
        def backward(ctx: Any, gy: Any) -> Any:
            upstream = mr.from_numpy(gy.contiguous().numpy())
            found = mr.grad(ctx.y, ctx.leaves, upstream, retain_graph=True, allow_unused=True)
            return tuple(None if g is None else torch.from_numpy(g.data) for g in found)

    return lambda *xs: Wrapped.apply(*xs)


def torch_finds(planted: Planted, fast: bool) -> bool:
    f, inputs, _ = planted.case()
    xs = [torch.tensor(x.data.copy(), requires_grad=True) for x in inputs]
    try:
        return not torch.autograd.gradcheck(as_torch(f), xs, fast_mode=fast)
    except RuntimeError:  # GradcheckError is one, and so is what a backward itself raises
        return True


def sum_finds(planted: Planted) -> bool:
    """The check of many tutorials."""
    f, inputs, _ = planted.case()
    gradients = mr.grad(f(*inputs).sum(), inputs, allow_unused=True)
    for x, g in zip(inputs, gradients):
        analytic = np.zeros(x.shape) if g is None else g.data
        numeric = np.empty(x.shape)
        for place in np.ndindex(x.shape):
            ends = []
            value = x.data[place]
            for h in (1e-6, -1e-6):
                x.data[place] = value + h
                with mr.no_grad():
                    ends.append(f(*inputs).sum().item())
            x.data[place] = value
            numeric[place] = (ends[0] - ends[1]) / 2e-6
        if not np.allclose(analytic, numeric, rtol=1e-4, atol=1e-5):
            return True
    return False


def minires_finds(planted: Planted) -> bool:
    f, inputs, names = planted.case()
    return not check(f, inputs, names=names)


def verdicts(planted: Planted) -> dict[str, bool]:
    """Which checkers reject the function as it is now."""
    return {
        "torch slow": torch_finds(planted, fast=False),
        "torch fast": torch_finds(planted, fast=True),
        "sum with ones": sum_finds(planted),
        "minires": minires_finds(planted),
    }


def run(backend: str) -> list[dict[str, str]]:
    rows = []
    for planted in PLANTED:
        if backend not in planted.backends:
            continue
        with mr.backend(backend):
            right = verdicts(planted)
        with planted.on(backend):
            wrong = verdicts(planted)
        row = {
            name: "false alarm" if right[name] else "found" if wrong[name] else "missed"
            for name in CHECKERS
        }
        rows.append({"error": planted.name, **row})
        print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, str]) -> str:
    shown = (row[name] if row[name] == "found" else f"**{row[name]}**" for name in CHECKERS)
    return f"| {row['error']} | {' | '.join(shown)} |"


def table(rows: list[dict[str, str]], facts: dict[str, Any]) -> str:
    totals = (f"{sum(row[name] == 'found' for row in rows)} of {len(rows)}" for name in CHECKERS)
    return "\n".join(
        [
            f"{facts['date']}: minires {facts['minires']} (commit {facts['commit']}), PyTorch "
            f"{facts['torch']}, NumPy {facts['numpy']}, Python {facts['python']}, {facts['cpu']}; "
            f"backend {facts['backend']}.",
            "",
            f"| planted error | {' | '.join(CHECKERS)} |",
            "| --- | --- | --- | --- | --- |",
            *(row_text(row) for row in rows),
            f"| **found** | {' | '.join(totals)} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("numpy", "auto"), default="auto")
    backend = parser.parse_args().backend
    facts = {
        "date": datetime.now().date().isoformat(),
        "commit": environment.commit() or "unknown",
        **{name: environment.versions()[name] for name in ("minires", "numpy", "python")},
        "torch": torch.__version__,
        "cpu": environment.cpu(),
        "backend": "numba" if backend == "auto" else backend,
    }
    rows = run(backend)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*FACTS, "error", *CHECKERS])
        if new:
            writer.writeheader()
        writer.writerows({**facts, **row} for row in rows)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    text = f"{before}{BEGIN}\n\n{table(rows, facts)}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

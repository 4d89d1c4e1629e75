"""The table of docs/parity.md says how many cases there are, and no case is there twice."""

import importlib.util
import re
from pathlib import Path

import pytest

import minires as mr

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "parity.md"
FAMILIES = {
    "test_elementwise": "arithmetic with broadcasting, functions of each entry",
    "test_tensors": "comparisons, integers, dtypes, facts, new tensors",
    "test_reduce": "reductions, softmax, norms, topk",
    "test_shape_index": "views, joins, padding, indexing",
    "test_inplace": "in-place operations and assignment, through views",
    "test_conv": "convolution, transposed convolution, linear, matmul",
    "test_norm": "batch, layer and group normalisation",
    "test_pool": "pooling",
    "test_lines": "convolution and pooling in one dimension",
    "test_interpolate": "resizing",
    "test_loss": "losses, dropout",
    "test_options": "single images, labels of pixels, options of arithmetic, new tensors",
    "test_layers": "layers, blocks and small networks, over three steps",
    "test_optim": "optimisers and schedules, over 50 steps",
}
# whole trainings, and PyTorch's own sample inputs: not single lines
OTHERS = {"test_optimizer_states", "test_schedules_together", "test_samples"}
HEAD = "| operations | cases | runs | wrong calls, refused by both | refused by minires alone |\n"
BEGIN, END = "<!-- counts -->\n\n", "\n<!-- end of counts -->"


@pytest.fixture(scope="module")
def tables():
    """For each family its tests, with the rows and the number of ways of each."""
    found = {}
    for name in FAMILIES:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[name] = {}
        for key, test in vars(module).items():
            for mark in getattr(test, "pytestmark", []):
                if mark.name == "parametrize" and mark.args[0][0] == "case":
                    rows = [row.values for row in mark.args[1]]
                    ways = max((len(row[1]) for row in rows if len(row) > 1), default=1)
                    found[name][key] = [row[0] for row in rows], ways
    return found


def test_every_file_is_a_family():
    assert {path.stem for path in HERE.glob("test_*.py")} == {*FAMILIES, *OTHERS, "test_count"}


def test_no_case_is_there_twice(tables):
    for family in tables.values():
        for name, (cases, _) in family.items():
            keys = [case.key for case in cases]
            twice = {key[0] for key in keys if keys.count(key) > 1}
            assert not twice, f"{name}: {twice}"


def test_the_page_counts_right(tables):
    rows, totals = [], [0, 0, 0, 0]
    for name, family in tables.items():
        both = family["test_both_refuse"][0]
        alone = family.get("test_only_minires_refuses", ([], 1))[0]
        compared = [value for key, value in family.items() if "refuse" not in key]
        cases = sum(len(found) for found, _ in compared)
        runs = sum(len(found) * ways for found, ways in compared)
        counts = cases, runs, len(both), len(alone)
        totals = [a + b for a, b in zip(totals, counts)]
        rows.append((FAMILIES[name], *(f"{count:,}" for count in counts)))
    rows.append(("**together**", *(f"**{count:,}**" for count in totals)))
    table = HEAD + "|---" * 5 + "|\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == table, f"the table of docs/parity.md is now\n\n{table}"


def test_every_function_and_layer_has_a_case(tables):
    found = set()
    for family in tables.values():
        for cases, _ in family.values():
            found |= {word for case in cases for word in re.findall(r"\w+", case.line)}
    for module, others in {
        mr.ops: {"astype", "channels_last", "from_nhwc"},  # that PyTorch spells differently
        mr.nn.functional: set(),
        mr.nn: {"IncompatibleKeys", "Module", "Parameter", "ParameterList", "Summary", "summary"}
        | {"functional", "init", "parallel", "utils"},
        mr.optim: {"LRScheduler", "Optimizer", "no_decay_groups", "lr_scheduler", "swa_utils"},
    }.items():
        names = {name for name in module.__all__ if not name.startswith(("Lazy", "Uninitialized"))}
        assert names - others <= found, module.__name__  # what is lazy: tests/nn/test_lazy.py

"""The blocks of docs/distributed.md on two ranks compute what they do in one process."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distributed import harness

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"

PROGRAM = """
import contextlib, io, json, sys
from minires import distributed as dist

def said():
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(sys.argv[1], names)
    return names["data"], text.getvalue()

data, together = said()
with dist.alone():
    _, alone = said()
own = [dist.DistributedSampler(data, shuffle=k) for k in (False, True)]
parts = [None] * dist.get_world_size()
dist.all_gather_object(parts, [together, alone, *map(list, own)])
if dist.get_rank() == 0:
    print(json.dumps(parts))
"""


def test_the_page_runs_on_two_ranks_as_in_one_process():
    text = PAGE.read_text(encoding="utf-8")
    page = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    first, second = json.loads(harness.script(2, PROGRAM, page).passed())
    # the loss of the last batch of each epoch, over all ranks, is the one process's
    assert len(re.findall(r"^epoch \d: loss \d\.\d\d$", first[0], re.MULTILINE)) == 2
    assert first[0] == first[1] == second[1]
    without = [line for line in first[0].splitlines() if not line.startswith("epoch")]
    assert second[0].splitlines() == without
    plain, drawn = ([rank[k] for rank in (first, second)] for k in (2, 3))
    assert plain == [[*range(0, 93, 2)], [*range(1, 93, 2), 0]]
    assert sorted({*drawn[0], *drawn[1]}) == [*range(93)]
    assert len(drawn[0]) == len(drawn[1]) == 47

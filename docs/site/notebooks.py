"""The tutorials as notebooks: their pages, cell by cell, and at the end their scripts on a few
images.

``python docs/site/notebooks.py`` writes ``docs/tutorials/*.ipynb``; a test holds them against the
pages, which in turn show the code of the scripts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
_BEGIN = """\
This notebook is the page [{page}]({page}), with its code to run. It needs minires: in the folder of
a clone `pip install .`; in Colab run this first, with the address of the repository:

```text
!git clone --depth 1 ADDRESS minires && pip install ./minires
%cd minires/docs/tutorials
```
"""
_END = """\
## The whole script, on a few images

`{name}.py` is what the page shows the parts of. With `--quick` it takes a few steps; without it, it
trains as the page tells. Images that are not there are replaced by generated ones, and it says so.
"""


def notebook(name: str) -> Any:
    """The notebook of a tutorial.

    Args:
        name: of its page and its script, such as ``"mnist_way"``.
    """
    page = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    # commands for a terminal are to be read, not to be run
    made = jupytext.reads(re.sub(r"^```bash$", "```console", page, flags=re.MULTILINE), fmt="md")
    v4: Any = nbformat.v4
    title, _, rest = made.cells[0].source.partition("\n\n")
    begin = _BEGIN.format(page=f"{name}.md")
    made.cells[0].source = "\n\n".join(part for part in (title, begin.strip(), rest) if part)
    made.cells += [
        v4.new_markdown_cell(_END.format(name=name).strip()),
        v4.new_code_cell(f'import {name}\n\n{name}.main(["--quick"])'),
    ]
    for number, cell in enumerate(made.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", {}
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return made


def names() -> list[str]:
    """The tutorials."""
    return sorted(path.stem for path in TUTORIALS.glob("*.md"))


def text(name: str) -> str:
    """The file of a tutorial's notebook."""
    return nbformat.writes(notebook(name)) + "\n"


if __name__ == "__main__":
    for tutorial in names():
        (TUTORIALS / f"{tutorial}.ipynb").write_text(text(tutorial), encoding="utf-8")

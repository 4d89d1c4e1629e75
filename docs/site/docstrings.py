"""Docstrings as pages want them: they are written for ``help()``, the site speaks Markdown.

References such as ``:func:`minires.capture``` become links where the site has the name, and plain
code where it has not; the double colon before a formula becomes a single one; examples get fences.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")

_EXAMPLE = re.compile(r"^>>> .*\n?(?:.+\n?)*", re.MULTILINE)  # up to an empty line


def markdown(text: str, scope: str) -> str:
    """A docstring as Markdown; ``scope`` is the module that its short names are of."""

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rpartition(".")[2] if short else name
        target = name if name.startswith("minires") else f"{scope}.{name.lstrip('.')}"
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    text = re.sub(r"::(?=\n\n +\S)", ":", _ROLE.sub(link, text))
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)


class Docstrings(griffe.Extension):
    """Called by the reader of sources for each object that it finds."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj.module.path)

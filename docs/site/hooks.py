"""What the site does beyond Markdown: files of the repository as pages, and TeX as MathML.

MkDocs calls the functions whose names begin with ``on_``.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from posixpath import join, normpath
from typing import Any

import reference
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[2]
# Pages that show a file from outside of docs/, which is where readers of the repository look.
SHOWN = {
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_TEX = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page that stands for a file gets its text, with links that lead from here; a page of the
    reference gets its names, a tutorial its notebook."""
    if page.file.src_uri.startswith("reference/"):
        return reference.expand(markdown)
    if page.file.src_uri.startswith("tutorials/"):
        title, _, rest = markdown.partition("\n")
        return f"{title}\n\n{_as_notebook(Path(page.file.src_uri).stem, config)}\n{rest}"
    shown = SHOWN.get(page.file.src_uri)
    if shown is None:
        return markdown
    text = (ROOT / shown).read_text(encoding="utf-8")
    return _LINK.sub(lambda match: _moved(match, Path(shown).parent.as_posix()), text)


def _as_notebook(name: str, config: Any) -> str:
    """Where a tutorial is to be had as a notebook; in Colab, if the repository has an address."""
    links = f"[This page as a notebook]({name}.ipynb){{ download }}"
    if config.repo_url:
        place = config.repo_url.removeprefix("https://").removesuffix("/").removesuffix(".git")
        path = f"{place.replace('.com', '', 1)}/blob/main/docs/tutorials/{name}.ipynb"
        links += f" · [open it in Colab](https://colab.research.google.com/{path})"
    return links + "\n"


def _moved(match: re.Match[str], folder: str) -> str:
    """A link of a file in ``folder`` as a link of a page in docs/; its text alone where the site
    has no such page."""
    picture, text, target = match.groups()
    if re.match(r"https?://|mailto:|#", target):
        return match[0]
    path, _, anchor = target.partition("#")
    path = normpath(join(folder, path))
    pages = {file: page for page, file in SHOWN.items()} | {"README.md": "index.md"}
    if path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path in pages:
        path = pages[path]
    else:
        return text
    return f"{picture}[{text}]({path}{'#' * bool(anchor)}{anchor})"


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """TeX becomes MathML, which browsers show without a script."""

    def mathml(match: re.Match[str]) -> str:
        return convert(unescape(match[3]), display="block" if match[2] == "[" else "inline")

    return _TEX.sub(mathml, html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The pages in Vietnamese say that they are."""
    if page.file.src_uri.startswith("vi/"):
        output = output.replace('<html lang="en"', '<html lang="vi"', 1)
    return output

"""What the HTML reports share: one self-contained document, its style, and small parts.

Nothing in a document refers to anything outside: figures are data URIs, styles are inline, and a
content policy forbids loading, so the file can be mailed and opened in ten years.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1f2328;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .75rem; }
p { margin: 0 0 1rem; max-width: 46rem; }
a { color: #0a5ca8; }
.finding { font-size: 1.15rem; line-height: 1.55; border-left: 4px solid #0072b2;
  padding-left: 1rem; margin-bottom: 1.25rem; }
.warning { background: #fff6e5; border-left: 4px solid #d98200; padding: .75rem 1rem; }
.scroll { overflow-x: auto; margin-bottom: .75rem; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem; text-align: right; vertical-align: bottom; }
.numbers th, .numbers td { white-space: nowrap; }
.numbers td { vertical-align: top; }
thead th { border-bottom: 2px solid #59636e; line-height: 1.3; }
tbody th { font-weight: 600; vertical-align: top; }
th.text, td.text { text-align: left; }
.facts { margin-bottom: 1rem; }
.facts th { text-align: left; font-weight: 600; white-space: nowrap; padding-left: 0; }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts th, .facts td { border-bottom: 1px solid #dfe3e8; vertical-align: top; }
figure { margin: 0 0 2.25rem; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid #dfe3e8;
  border-radius: 6px; }
figcaption, .note { font-size: .92rem; line-height: 1.5; color: #59636e; max-width: 46rem; }
figcaption { margin-top: .6rem; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", Menlo, monospace; background: #f3f5f7;
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 1.25rem 1rem 2rem; }
  h1 { font-size: 1.4rem; }
  .finding { font-size: 1.05rem; }
  th, td { padding: .3rem .45rem; }
  .numbers { font-size: .84rem; }
}
@media print { figure, table { break-inside: avoid; } main { max-width: none; } }
"""


def document(title: str, body: str, css: str = "") -> str:
    """A whole document; ``title`` and ``body`` are HTML already, ``css`` adds to the style."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{CSS}{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def paragraph(text: str) -> str:
    """Text, escaped, as a paragraph."""
    return f"<p>{escape(text)}</p>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, escaped."""
    lines = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def svg_uri(svg: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")

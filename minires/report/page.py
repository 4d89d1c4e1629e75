"""HTML pages from Jinja templates: self-contained documents that can be mailed.

The templates are in ``templates/``. They escape whatever they are given, so no name, title or path
can become markup, and a value that a template asks for and does not get is an error. Every page
extends ``page.html``, whose content policy forbids loading: figures are data URIs, styles are
inline, and the file can be opened in ten years.
"""

from __future__ import annotations

import base64
import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, /, **values: Any) -> str:
    """The page that a template makes of these values.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not among them.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> Environment:
    """The templates and their settings; Jinja is imported on first use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("minires.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,  # a line that holds a tag and nothing else leaves no line
        lstrip_blocks=True,
    )
    environment.filters["svg_uri"] = svg_uri
    environment.filters["png_uri"] = png_uri
    return environment


def svg_uri(svg: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def png_uri(png: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

"""HTML pages that hold all they show: one layout for data sets, runs and clips, in the templates of this folder."""

import base64
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

CHARACTERS = 300
"""At most so much of an id, a label or a sentence is shown."""


def render(name: str, /, **values: Any) -> str:
    """The page of the template ``name``; all of ``values`` is text in it, never markup."""
    return _templates().get_template(f"{name}.html.j2").render(values)


def data_url(content: bytes, kind: str) -> str:
    """``content`` of the media type ``kind`` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("avtool", "html")
    html = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=loader
    )
    html.filters |= {"cut": _cut, "number": "{:,}".format}
    return html


def _cut(text: object) -> str:
    text = str(text)
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"

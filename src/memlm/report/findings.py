"""What a person wrote in ``findings.md``, as a part of the page: no HTML of its own, and nothing that is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

HIGHEST = 3
"""The level of the highest heading: the page's own title and sections lie above it."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def render(findings: str) -> Markup:
    """Returns Markdown (CommonMark, and GitHub's tables) as HTML.

    HTML in it is shown as it was typed. Links lead to http, https or a relative place; others stay as they were typed.
    An image, which the page would have to load, becomes a link to it. The page lies beside ``findings.md``, so relative
    links hold as they are.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    parser.validateLink = _is_safe
    tokens = parser.parse(findings)
    for place, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{max(HIGHEST, int(token.tag[1:]))}"
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[place + 1].content))
    html: str = parser.renderer.render(_scrolling(tokens), parser.options, {})
    return Markup(html)


def _is_safe(url: str) -> bool:
    """Whether a link leads to the web, or to a place told from where the page lies."""
    scheme = _SCHEME.match(url)
    return scheme[0].lower() in ("http:", "https:") if scheme else not url.startswith("/")


def _anchor(heading: str) -> str:
    """Returns the name by which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _scrolling(tokens: Sequence[Token]) -> list[Token]:
    """Puts each table into an element that scrolls by itself, so that a wide one does not widen the page."""
    around: list[Token] = []
    for token in tokens:
        if token.type == "table_open":
            around.append(Token("scroll_open", "div", 1, attrs={"class": "scroll"}))
        around.append(token)
        if token.type == "table_close":
            around.append(Token("scroll_close", "div", -1))
    return around

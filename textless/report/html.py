"""Pieces of HTML, and escaping: a string that enters a page is escaped, unless it is a piece of a page."""

from __future__ import annotations

import html
import json
import re
import string
from collections.abc import Iterable
from typing import Any, LiteralString


class Html(str):
    """A piece of a page. Only the functions below return one; any other string is escaped when it enters a page."""


def text(value: object) -> Html:
    """Anything, escaped for HTML and for attributes in quotes; a piece of a page as it is.

    Surrogates, of file names that are not UTF-8, become U+FFFD: no file in UTF-8 can hold them.
    """
    return value if isinstance(value, Html) else Html(re.sub("[\ud800-\udfff]", "\ufffd", html.escape(str(value))))


class _Escaping(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return text(format(value, format_spec) if format_spec else value)


def markup(template: LiteralString, *values: object, **named: object) -> Html:
    """Format a template of `str.format`; each value is escaped unless it is a piece of a page.

    The template is a literal: an f-string would insert its values before they can be escaped.
    """
    return Html(_Escaping().format(template, *values, **named))


def joined(pieces: Iterable[object], between: LiteralString = "") -> Html:
    """Concatenate pieces of a page; anything else is escaped."""
    return Html(between.join(map(text, pieces)))


def data(value: Any) -> Html:
    """JSON for a <script> element: nothing in it can end the element."""
    out = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Html(out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

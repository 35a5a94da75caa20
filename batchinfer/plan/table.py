"""Rows of a label and a text below a heading: as HTML for notebooks, and as plain text for where there is no front end."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable

WIDTH = 100
"""Columns of the plain text."""
_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:none;background:none"
_LABEL = f"{_CELL};font-weight:normal;opacity:.7;white-space:nowrap"
_VALUE = f"{_CELL};overflow-wrap:anywhere;white-space:pre-line"


def to_html(heading: str, rows: Iterable[tuple[str, str]], beside: str = "") -> str:
    """A heading and its rows. No colour is fixed, so that they are seen in light and dark themes.

    Args:
        heading: in bold.
        rows: label and text; lines of a text stay lines.
        beside: what stands after the heading.

    """
    cells = "".join(
        f'<tr style="background:none"><th style="{_LABEL}">{html.escape(label)}</th><td style="{_VALUE}">{html.escape(text)}</td></tr>'
        for label, text in rows
    )
    head = f"<b>{html.escape(heading)}</b> {html.escape(beside)}".rstrip()
    return f'<div>{head}<table style="margin:2px 0;border:none;border-collapse:collapse">{cells}</table></div>'


def to_text(heading: str, rows: Iterable[tuple[str, str]], beside: str = "") -> str:
    """The same as plain text. Paths and other long words are never broken."""
    listed = list(rows)
    left = max((len(label) for label, _ in listed), default=0) + 4
    lines = [f"{heading} {beside}".rstrip()]
    for label, text in listed:
        first, *more = [
            piece
            for line in text.split("\n")
            for piece in textwrap.wrap(line, WIDTH - left, break_long_words=False, break_on_hyphens=False) or [""]
        ]
        lines += [f"  {label:<{left - 2}}{first}".rstrip(), *(" " * left + piece for piece in more)]
    return "\n".join(lines)

"""Rows of a label and a text below a heading: as HTML for notebooks, and as plain text for where there is no front end."""

from __future__ import annotations

import html
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

WIDTH = 100
"""Columns of the plain text."""
_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:none;background:none"
_LABEL = f"{_CELL};font-weight:normal;opacity:.7;white-space:nowrap"
_VALUE = f"{_CELL};overflow-wrap:anywhere;white-space:pre-line"


@dataclass(frozen=True)
class Table:
    """What a job, a plan or a run shows of itself."""

    heading: str
    """In bold."""
    beside: str
    """After it, in the same line."""
    rows: tuple[tuple[str, str], ...]
    """Label and text; lines of a text stay lines."""

    def html(self, above: str = "") -> str:
        """For a notebook. No colour is fixed, so that it is seen in light and dark themes.

        `above` is HTML between the heading and the rows.
        """
        cells = "".join(
            f'<tr style="background:none"><th style="{_LABEL}">{html.escape(label)}</th><td style="{_VALUE}">{html.escape(text)}</td></tr>'
            for label, text in self.rows
        )
        rows = f'<table style="margin:2px 0;border:none;border-collapse:collapse">{cells}</table>' if cells else ""
        head = f"<b>{html.escape(self.heading)}</b> {html.escape(self.beside)}".rstrip()
        return f"<div>{head}{above}{rows}</div>"

    def text(self) -> str:
        """For where there is no front end. Paths and other long words are never broken."""
        left = max((len(label) for label, _ in self.rows), default=0) + 4
        lines = [f"{self.heading} {self.beside}".rstrip()]
        for label, text in self.rows:
            first, *more = [piece for line in text.split("\n") for piece in _wrapped(line, WIDTH - left)]
            lines += [f"  {label:<{left - 2}}{first}".rstrip(), *(" " * left + piece for piece in more)]
        return "\n".join(lines)


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]


class ShowsTable(ABC):
    """What shows a table of itself as the value of a cell: HTML, and plain text where there is no front end. Elsewhere it is one line."""

    @abstractmethod
    def table(self) -> Table:
        """The table."""

    @abstractmethod
    def _line(self) -> str:
        """The line."""

    def __repr__(self) -> str:
        return self._line()

    def _repr_html_(self) -> str:
        return self.table().html()

    def _repr_pretty_(
        self, printer: Any, cycle: bool
    ) -> None:  # IPython passes it over where a subclass has a __repr__
        printer.text(repr(self) if cycle else self.table().text())

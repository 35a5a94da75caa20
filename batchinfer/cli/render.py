"""Text for people: tables of two columns, durations, shares."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

MAX_WIDTH = 120


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Labels and values below each other, wrapped at the terminal's width; paths are never broken."""
    listed = list(rows)
    left = max(len(label) for label, _ in listed) + 4
    width = max(40, min(shutil.get_terminal_size().columns, MAX_WIDTH) - left)
    lines = []
    for label, value in listed:
        wrapped = [piece for line in value.split("\n") for piece in _wrap(line, width)]
        lines += [f"  {label:<{left - 2}}{wrapped[0]}", *(" " * left + more for more in wrapped[1:])]
    return "\n".join(lines)


def _wrap(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]

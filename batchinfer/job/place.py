"""Places in a job file: the way from its top to one value, and a finding about such a place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

COMMAND_LINE = 0
"""As the line of a finding: what is wrong stands in no file."""

Place = tuple[str | int, ...]
"""Keys of mappings and indices of lists, from the top of the file: `("steps", 0, "precision")`."""

_PLAIN_PART = re.compile(r'[^."\s]+')
_SPELLED_PART = re.compile(r'"([^"]*)"|([^."]+)')


class Finding(NamedTuple):
    """One mistake, before it is known how the user wrote its place."""

    place: Place
    message: str
    line: int | None = None
    """Only where it isn't the place's own line: that of the second of two equal keys, or `COMMAND_LINE`."""


def spell(place: Place) -> str:
    """`steps.0.precision`; a key with a dot or a space stands in quotes."""
    return ".".join(str(part) if _PLAIN_PART.fullmatch(str(part)) else f'"{part}"' for part in place)


def parse(text: str) -> Place | None:
    """The inverse of `spell` for `--set`, with every part as text; None for a malformed one."""
    parts: list[str] = []
    at = 0
    while True:
        match = _SPELLED_PART.match(text, at)
        if match is None:
            return None
        parts.append(match[1] if match[1] is not None else match[2])
        at = match.end()
        if at == len(text):
            return tuple(parts)
        if text[at] != ".":
            return None
        at += 1


def within(place: Place, ancestors: Collection[Place]) -> bool:
    """Whether the place is one of `ancestors`, best a set, or lies under one."""
    return any(place[:depth] in ancestors for depth in range(len(place) + 1))


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped, so that a terminal neither obeys nor refuses it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *head, last = list(words)
    return f"{', '.join(head)} or {last}" if head else last

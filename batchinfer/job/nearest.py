"""What a mistyped word was probably meant to be: asked here by whatever says `did you mean`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100
"""Nobody mistypes a word this long, and difflib takes quadratic time."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that the user probably meant."""
    found = all_near(word, known, most=1)
    return found[0] if found else None


def all_near(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known words that the user may have meant, the nearest first; those that differ in case alone, where none is near otherwise."""
    if len(word) > _LONGEST:
        return []
    words = list(known)
    return (
        difflib.get_close_matches(word, words, n=most, cutoff=0.6)
        or [each for each in words if each.lower() == word.lower()][:most]
    )

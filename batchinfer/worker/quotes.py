"""Messages without what they repeat of a row: a dead letter holds where the row is, and its values only where that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from batchinfer.job.secrets import HIDDEN, SHORTEST, Secrets

_RUN = 16
"""Characters in a row that a message and a text share only where one repeats the other."""
_LONGEST = 16_384
_WORD = re.compile(r"[\w@.+-]*[\d@][\w@.+-]*")


def without_values(message: str, values: Iterable[Any]) -> str:
    """The message without these values of a row.

    Of each from six characters up: the whole of it, as it is written or quoted; words of it with a digit or an @; and sixteen
    or more characters in a row.
    """
    texts = [text[:_LONGEST] for value in values for text in _texts(value) if len(text) >= SHORTEST]
    if not texts:
        return message
    words = {word for word in _WORD.findall(message) if len(word) >= SHORTEST and any(word in text for text in texts)}
    message = Secrets(frozenset([*texts, *words])).hide(message)
    for text in texts:
        message = _without_runs(message, text)
    return message


def _texts(value: Any) -> Iterator[str]:
    """What a value, or any value inside it, may be written as."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _without_runs(message: str, text: str) -> str:
    at = 0
    while at + _RUN <= len(message):
        end = at + _RUN
        if message[at:end] not in text:
            at += 1
            continue
        while end < len(message) and message[at : end + 1] in text:
            end += 1
        message = message[:at] + HIDDEN + message[end:]
        at += len(HIDDEN)
    return message

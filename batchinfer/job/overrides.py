"""`--set a.b.0.c=value`: one key of the job file replaced from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchinfer.errors import JobFileError
from batchinfer.job.document import MAX_DEPTH, parse
from batchinfer.job.place import COMMAND_LINE, Finding, Place, spell
from batchinfer.job.place import parse as parse_place


class _MisplacedError(Exception):
    """The place can't be set in this document."""


def apply(data: dict[str, Any], set_values: Sequence[str]) -> tuple[list[Place], list[Finding]]:
    """Set each `place=value` in `data`, which is changed; the places that were set, and what was wrong.

    The value is YAML as it would stand in the file, so `8` is a number and `[a, b]` a list. Missing mappings on the way
    are made; a list is not extended. `steps.0` is another name for the short form `model`, and the reverse.
    """
    places: list[Place] = []
    findings: list[Finding] = []
    for text in set_values:
        spelled, equals, value = text.partition("=")
        place = parse_place(spelled.strip())
        if not equals or place is None or len(place) > MAX_DEPTH:
            # What was written may be a secret, so it isn't repeated.
            message = "--set needs a key, an equals sign and a value: --set batching.rows=32"
            findings.append(Finding((), message, COMMAND_LINE))
            continue
        place = _as_written(place, data)
        try:
            document = parse(value, "--set")
            place = _set(data, place, document.value)
        except JobFileError as error:
            findings.append(Finding(place, f"the value {error.problems[0].message}"))
        except _MisplacedError as error:
            findings.append(Finding(place, str(error)))
        else:
            findings += [Finding((*place, *f.place), f.message) for f in document.findings]
        places.append(place)
    return places, findings


def _as_written(place: Place, data: dict[str, Any]) -> Place:
    if place[:2] == ("steps", "0") and "steps" not in data:
        return ("model", *place[2:])
    if place[0] == "model" and "steps" in data:
        return ("steps", "0", *place[1:])
    return place


def _set(data: dict[str, Any], place: Place, value: Any) -> Place:
    """Set it and give back the place with the indices of lists as numbers."""
    container: Any = data
    walked: list[str | int] = []
    for depth, part in enumerate(place):
        key = _key(container, str(part), walked)
        walked.append(key)
        if depth == len(place) - 1:
            container[key] = value
        elif isinstance(container, dict) and container.get(str(key)) is None:
            container[key] = {}
        container = container[key]
    return tuple(walked)


def _key(container: Any, part: str, walked: list[str | int]) -> str | int:
    if isinstance(container, dict):
        return part
    where = spell(tuple(walked))
    if not isinstance(container, list):
        raise _MisplacedError(f"{where} holds a single value, so nothing can be set under it")
    if not (part.isascii() and part.isdigit()):
        raise _MisplacedError(f"{where} is a list: write the number of an item, from 0, in place of {part}")
    if len(part) > 9 or int(part) >= len(container):
        raise _MisplacedError(f"{where} is a list of {len(container)}: there is no item {part}, they count from 0")
    return int(part)

"""From pydantic's errors to findings in our words: one for each place, saying what to write there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from batchinfer.job import accepted
from batchinfer.job.accepted import Schema
from batchinfer.job.nearest import nearest
from batchinfer.job.place import Finding, Place


def translate(
    errors: Sequence[ErrorDetails], data: Any, schema: Schema, may_echo: Callable[[Place], bool]
) -> list[Finding]:
    """The findings for the errors of validating `data`; a value is repeated only where `may_echo` its place."""
    by_place: dict[Place, list[ErrorDetails]] = {}
    for error in errors:
        by_place.setdefault(place_of(error, data), []).append(error)
    # Of a union, one branch fails at the value and another deeper inside it: the deeper one is the mistake.
    above_another = {place[:depth] for place in by_place for depth in range(len(place))}
    return [
        Finding(place, _message(place, group, data, schema, may_echo(place)))
        for place, group in by_place.items()
        if place not in above_another
    ]


def place_of(error: ErrorDetails, data: Any) -> Place:
    """The error's place in the data, without the names of union branches that pydantic puts in between."""
    place: list[str | int] = []
    value = data
    for part in error["loc"]:
        if _has(value, part):
            place.append(part)
            value = value[part]
    if error["type"] == "missing":
        place.append(error["loc"][-1])
    return tuple(place)


def value_at(data: Any, place: Place) -> Any:
    """The value at a place, or None where there is none."""
    for part in place:
        if not _has(data, part):
            return None
        data = data[part]
    return data


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _message(place: Place, group: list[ErrorDetails], data: Any, root: Schema, may_echo: bool) -> str:
    types = {error["type"] for error in group}
    if "extra_forbidden" in types:
        return _unknown_key(place, root)
    for error in group:
        if error["type"] == "value_error":
            return str(error["ctx"]["error"])
    schema = accepted.at(root, place) or {}
    wanted = f"write {accepted.describe(root, schema)}"
    if description := schema.get("description"):
        wanted += f" ({description})"
    if "missing" in types:
        return f"is missing: {wanted}"
    value = value_at(data, place)
    if value in ("", [], {}):
        return f"must not be empty: {wanted}"
    meant = nearest(value, accepted.choices(root, schema)) if isinstance(value, str) else None
    advice = f"{wanted}; did you mean {meant}?" if meant is not None and may_echo else wanted
    return f"{_shown(value)} can't stand here: {advice}" if may_echo else advice


def _shown(value: Any) -> str:
    """The value, shortly; text in quotes, so that "1" isn't taken for 1."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, str | int | float):
        shown = json.dumps(value, ensure_ascii=False)
        return shown if len(shown) <= 60 else f"{shown[:60]}…"
    return f"a Python {type(value).__name__}"


def _unknown_key(place: Place, root: Schema) -> str:
    known = accepted.keys(root, place[:-1])
    meant = nearest(str(place[-1]), known)
    if meant is not None:
        return f"is an unknown key: did you mean {meant}?"
    return f"is an unknown key: known here are {', '.join(known)}"

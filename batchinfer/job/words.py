"""The words that may stand in `--set` and `--param`, for completion: from the schema, and from a job file that may be half written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from batchinfer.job import accepted, document
from batchinfer.job.place import Place, parse, spell

_COLUMN = {("input", "key"), ("input", "columns"), ("output", "carry"), ("model", "gate", "label")}
"""Keys whose value is a column of the input, with `model` for any step; those of lists take one here."""
_SHORT, _LIST = "model", "steps"


def read(path: str) -> dict[str, Any]:
    """The values of a job file as they stand in it, whether they are right or not. Raises JobFileError where they can't be read."""
    value = document.parse(document.read(Path(path)), path).value
    return value if isinstance(value, dict) else {}


def parameters(job: Mapping[str, Any]) -> dict[str, Any]:
    """The names that `--param` may give, with their defaults."""
    declared = job.get("params")
    return dict(declared) if isinstance(declared, dict) else {}


def settings(written: str, job: Mapping[str, Any], columns: Callable[[], Iterable[str]]) -> list[str]:
    """What `--set` may go on with after `written`: keys that end with `=`, or with `.` where more follows; after a `=`, values.

    `columns` gives those of the input, and is called where a column is wanted.
    """
    from batchinfer.job.schema import model_schema

    root, (key, equals, value) = model_schema(), written.partition("=")
    if equals:
        place = parse(key)
        known = [] if place is None else _values(root, place, columns)
        return [f"{key}={word}" for word in known if word.startswith(value)]
    return _keys(root, key, job)


def _keys(root: accepted.Schema, written: str, job: Mapping[str, Any]) -> list[str]:
    parent, dot, last = written.rpartition(".")
    place = parse(parent) if dot else ()
    if place is None:
        return []
    found = []
    for child in dict.fromkeys([*_of_schema(root, place, job), *_of_job(place, job)]):
        if child.startswith(last):
            inner = (*place, child)
            more = bool(_of_schema(root, inner, job) or _of_job(inner, job))
            found.append(f"{parent}{dot}{spell((child,))}{'.' if more else '='}")
    only = found[0] if len(found) == 1 else ""
    return _keys(root, only, job) if only.endswith(".") else found


def _of_schema(root: accepted.Schema, place: Place, job: Mapping[str, Any]) -> list[str]:
    if place == (_LIST,):
        steps = job.get(_LIST)
        return [str(n) for n in range(len(steps) if isinstance(steps, list) else 1)]
    found = accepted.keys(root, _indexed(place))
    if not place:  # a job has one of the two
        found = [key for key in found if key != (_SHORT if _LIST in job else _LIST if _SHORT in job else None)]
    return found


def _of_job(place: Place, job: Any) -> list[str]:
    """Names of the user's own there, such as those of parameters and of a model's options."""
    for part in _indexed(place):
        try:
            job = job[part]
        except (KeyError, IndexError, TypeError):
            return []
    return list(job) if isinstance(job, dict) else []


def _indexed(place: Place) -> Place:
    """With the index of a step as the number that it is."""
    if len(place) > 1 and place[0] == _LIST and str(place[1]).isdecimal():
        return (_LIST, int(place[1]), *place[2:])
    return place


def _values(root: accepted.Schema, place: Place, columns: Callable[[], Iterable[str]]) -> list[str]:
    schema = accepted.at(root, _indexed(place))
    found = [] if schema is None else accepted.words(root, schema)
    alike = (_SHORT, *place[2:]) if place[:1] == (_LIST,) else place
    if alike in _COLUMN or (alike[:2] == (_SHORT, "inputs") and len(alike) == 3):
        found += columns()
    return found

"""In plain words, what a key of the job file accepts: read from the models' JSON Schema, so that the two agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from batchinfer.job.place import Place, either

Schema = dict[str, Any]


def at(root: Schema, place: Place) -> Schema | None:
    """The schema of the value at a place; None where the root knows of none."""
    found: list[Schema] = [root]
    for part in place:
        found = [inner for schema in found for inner in _inner(root, schema, part)]
    return found[0] if found else None


def keys(root: Schema, place: Place) -> list[str]:
    """The keys that the mapping at a place may have."""
    schema = at(root, place)
    branches = _branches(root, schema) if schema is not None else ()
    return [key for branch in branches for key in branch.get("properties", {})]


def describe(root: Schema, schema: Schema) -> str:
    """`auto or a whole number from 1`."""
    phrases: list[str] = []
    for branch in _branches(root, schema):
        phrases += [phrase for phrase in _phrases(root, branch) if phrase not in phrases]
    return either(phrases)


def choices(root: Schema, schema: Schema) -> list[str]:
    """The words among what is accepted, for `did you mean`."""
    return [
        word
        for branch in _branches(root, schema)
        for word in [*branch.get("enum", ()), branch.get("const")]
        if isinstance(word, str)
    ]


def words(root: Schema, schema: Schema) -> list[str]:
    """Whatever is accepted that is a word: the choices, true and false."""
    found = choices(root, schema)
    if any(branch.get("type") == "boolean" for branch in _branches(root, schema)):
        found += ["true", "false"]
    return list(dict.fromkeys(found))


def _branches(root: Schema, schema: Schema) -> Iterator[Schema]:
    """The schema without references and alternatives."""
    if "$ref" in schema:
        yield from _branches(root, root["$defs"][schema["$ref"].rpartition("/")[2]])
    elif alternatives := schema.get("anyOf") or schema.get("oneOf"):
        for branch in alternatives:
            yield from _branches(root, branch)
    else:
        yield schema


def _inner(root: Schema, schema: Schema, part: str | int) -> Iterator[Schema]:
    for branch in _branches(root, schema):
        if isinstance(part, int):
            inner = branch.get("items")
        else:
            inner = branch.get("properties", {}).get(part, branch.get("additionalProperties"))
        if isinstance(inner, dict):
            yield inner


def _phrases(root: Schema, schema: Schema) -> list[str]:
    if "const" in schema:
        return [_spelled(schema["const"])]
    if "enum" in schema:
        return [_spelled(value) for value in schema["enum"]]
    match schema.get("type"):
        case "string":
            return ["text"]
        case "integer":
            return [f"a whole number{_bound(schema)}"]
        case "number":
            return [f"a number{_bound(schema)}"]
        case "boolean":
            return ["true", "false"]
        case "null":
            return ["null"]
        case "array":
            return [f"a list of {describe(root, schema['items'])}"]
        case "object" if "properties" in schema:
            return [f"a mapping with the keys {', '.join(schema['properties'])}"]
        case "object":
            return ["a mapping of names"]
        case _:
            return ["a value"]


def _bound(schema: Schema) -> str:
    if "minimum" in schema:
        return f" from {schema['minimum']}"
    return f" above {schema['exclusiveMinimum']}" if "exclusiveMinimum" in schema else ""


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

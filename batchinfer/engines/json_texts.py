"""Texts that are to be JSON of a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
"""JSON as chat models like to show it."""


def problem(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a JSON Schema; None where nothing is."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    elsewhere = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
    if elsewhere is not None:
        return (
            f"refers to {elsewhere}, and nothing is fetched for a schema: put it under $defs, and refer to #/$defs/name"
        )
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return f"is no JSON Schema: {error.json_path}: {error.message}"
    return None


class JSONTexts:
    """Checks texts against a schema without a `problem`."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema.validators import validator_for
        from referencing import Registry

        self._validator = validator_for(schema)(schema, registry=Registry())

    def checked(self, text: str) -> str:
        """The JSON of a text, without blanks or a Markdown fence around it.

        Raises ValueError where it is no JSON, or doesn't keep to the schema.
        """
        from jsonschema.exceptions import best_match

        text = text.strip()
        fenced = _FENCED.fullmatch(text)
        text = fenced[1].strip() if fenced else text
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the text is no JSON: {error}") from error
        wrong = best_match(self._validator.iter_errors(value))
        if wrong is not None:
            raise ValueError(f"the JSON doesn't keep to the schema: {wrong.json_path}: {wrong.message}")
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value of JSON")


def _references(value: Any) -> Iterator[str]:
    """What `$ref` and its like name, at any depth."""
    if isinstance(value, Mapping):
        yield from (v for k, v in value.items() if k in ("$ref", "$dynamicRef") and isinstance(v, str))
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _references(inner)

"""The job file as JSON Schema, for editors: completion, the descriptions, and a red line under a mistake."""

from __future__ import annotations

from typing import Any

from batchinfer.job.spec import JobSpec

SCHEMA_ID = "https://batchinfer.dev/schema/job.v1.json"

_INTERPOLATED = {
    "description": "filled in when the job is read: ${VAR}, ${VAR:-default}, ${VAR:?message} or ${params.name}",
    "type": "string",
    "pattern": r"\$\{[^}]+\}",
}
_BY_NAME = {"properties", "$defs"}
"""Keywords whose value maps names of our own to schemas, rather than being a schema."""


def model_schema() -> dict[str, Any]:
    """The schema of a job's values after `${…}` is filled in, with `model` beside `steps`."""
    schema = JobSpec.model_json_schema()
    properties = {}
    for name, value in schema["properties"].items():
        if name == "steps":
            properties["model"] = {**_reference("Step"), "description": "short for steps: with this one step"}
            value = {**value, "description": "the models, in the order in which they run"}
        properties[name] = value
    schema["properties"] = properties
    return schema


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file as users write it."""
    schema: dict[str, Any] = _as_written(model_schema())
    schema["$defs"]["Interpolated"] = _INTERPOLATED
    schema["required"] = [name for name in schema["required"] if name != "steps"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "A batchinfer job",
        "oneOf": [{"required": ["model"]}, {"required": ["steps"]}],
    }


def _as_written(schema: Any) -> Any:
    """The schema with `${…}` allowed wherever a number, a boolean or one of some words is wanted."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {
        key: {name: _as_written(item) for name, item in value.items()}
        if key in _BY_NAME
        else value
        if key in ("default", "enum", "const", "required")
        else _as_written(value)
        for key, value in schema.items()
        # pydantic's titles repeat the key.
        if key != "title" or not isinstance(value, str)
    }
    if "anyOf" in inner:
        allowed = [*inner["anyOf"], _reference("Interpolated")]
        return {**inner, "anyOf": allowed} if any(map(_needs_more_than_text, inner["anyOf"])) else inner
    if not _needs_more_than_text(inner):
        return inner
    about = {key: inner.pop(key) for key in ("description", "default") if key in inner}
    return {**about, "anyOf": [inner, _reference("Interpolated")]}


def _needs_more_than_text(schema: dict[str, Any]) -> bool:
    if schema.get("type") in ("integer", "number", "boolean") or "enum" in schema or "const" in schema:
        return True
    return "pattern" in schema or any("$ref" in branch for branch in schema.get("anyOf", ()))


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}

"""Arrow types as users write them in `outputs: {y: {column: y, type: …}}`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

_ADVICE = (
    "write an Arrow type such as float32, int64, string, bool, timestamp[us], decimal128(10, 2), list<float32>, "
    "fixed_size_list<float32>[384] or struct<label: string, score: float32>"
)


def parse_type(text: str) -> pa.DataType:
    """The Arrow type that `text` names. Raises ValueError with advice where it names none."""
    text = text.strip()
    if match := re.fullmatch(r"fixed_size_list<(.+)>\[(\d+)\]", text):
        return pa.list_(parse_type(match[1]), int(match[2]))
    if match := re.fullmatch(r"(list|large_list)<(.+)>", text):
        return pa.list_(parse_type(match[2])) if match[1] == "list" else pa.large_list(parse_type(match[2]))
    if match := re.fullmatch(r"struct<(.+)>", text):
        return pa.struct([_field(part) for part in _top_level(match[1])])
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([\w/+:-]+)\]", text):
        return pa.timestamp(match[1], tz=match[2])
    if match := re.fullmatch(r"decimal(128|256)?\((\d+),\s*(-?\d+)\)", text):
        return (pa.decimal256 if match[1] == "256" else pa.decimal128)(int(match[2]), int(match[3]))
    try:
        return pa.type_for_alias(text)
    except ValueError:
        raise ValueError(f"unknown type {text!r}: {_ADVICE}") from None


def _field(text: str) -> pa.Field:
    name, colon, kind = text.partition(":")
    if not colon:
        raise ValueError(f"struct field {text.strip()!r} lacks a type: {_ADVICE}")
    return pa.field(name.strip(), parse_type(kind))


def _top_level(text: str) -> Iterator[str]:
    """Split at the commas that stand outside of brackets."""
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character in "<[(") - (character in ">])")
        if character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]

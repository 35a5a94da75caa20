"""Arrow types as users write them in `outputs: {y: {column: y, type: …}}`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

_ADVICE = (
    "write an Arrow type such as float32, int64, string, bool, timestamp[us], decimal128(10, 2), list<float32>, "
    "fixed_size_list<float32>[384] or struct<label: string, score: float32>"
)


_DEEPEST = 16


def parse_type(text: str) -> pa.DataType:
    """The Arrow type that `text` names. Raises ValueError with advice where it names none, or one that Parquet can't hold."""
    if text.count("<") > _DEEPEST:
        raise ValueError(f"a type of more than {_DEEPEST} levels: {_ADVICE}")
    try:
        return _parse(text)
    except OverflowError:
        raise ValueError(f"unknown type {text.strip()!r}, a number in it is too large: {_ADVICE}") from None


def _parse(text: str) -> pa.DataType:
    text = text.strip()
    if match := re.fullmatch(r"fixed_size_list<(.+)>\[(\d+)\]", text):
        return pa.list_(_parse(match[1]), int(match[2]))
    if match := re.fullmatch(r"(list|large_list)<(.+)>", text):
        return pa.list_(_parse(match[2])) if match[1] == "list" else pa.large_list(_parse(match[2]))
    if match := re.fullmatch(r"struct<(.+)>", text):
        return pa.struct([_field(part) for part in _top_level(match[1])])
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([\w/+:-]+)\]", text):
        return pa.timestamp(match[1], tz=match[2])
    if match := re.fullmatch(r"decimal(128|256)?\((\d+),\s*(-?\d+)\)", text):
        return (pa.decimal256 if match[1] == "256" else pa.decimal128)(int(match[2]), int(match[3]))
    try:
        kind = pa.type_for_alias(text)
        if not pa.types.is_interval(kind):
            return kind
    except ValueError:
        pass
    raise ValueError(f"unknown type {text!r}: {_ADVICE}")


def _field(text: str) -> pa.Field:
    name, colon, kind = text.partition(":")
    if not colon:
        raise ValueError(f"struct field {text.strip()!r} lacks a type: {_ADVICE}")
    return pa.field(name.strip(), _parse(kind))


def _top_level(text: str) -> Iterator[str]:
    """Split at the commas that stand outside of brackets."""
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character in "<[(") - (character in ">])")
        if character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]

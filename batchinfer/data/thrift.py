"""Thrift's compact protocol: what a footer really holds, read by itself where a decoder would take it on trust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Struct = dict[int, Any]
"""Values by field number: int, bool, bytes, list, Struct; a double stays 8 bytes, a map a list of pairs."""
Wanted = Mapping[int, "Wanted | None"]
"""Fields by number, with those wanted of the struct, or of the structs in the list, that they hold; None for all of it."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


def parse(data: bytes, wanted: Wanted | None = None) -> Struct:
    """The struct that `data` begins with; None stands for a field that is there and isn't `wanted`.

    Stricter than the protocol where values are wanted: a field that comes twice, and a number of more than 64 bits, are errors,
    since decoders make different things of them.

    Raises:
        ValueError: the bytes are no struct.

    """
    try:
        return _struct(data, 0, wanted)[0]
    except (IndexError, RecursionError) as e:
        raise ValueError("not a struct of Thrift's compact protocol") from e


# Footers have many values and few that are wanted: what follows passes positions around and skips what it can, for speed.


def _struct(data: bytes, at: int, wanted: Wanted | None) -> tuple[Struct, int]:
    fields: Struct = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        kind = head & 15
        if kind == 0:
            return fields, at
        if head > 15:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if number in fields:
            raise ValueError(f"field {number} comes twice")
        if wanted is not None and number not in wanted:
            fields[number] = None
            at = _skip(data, at, kind)
        elif kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, None if wanted is None else wanted[number])


def _value(data: bytes, at: int, kind: int, wanted: Wanted | None) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _BINARY:
        size, at = _size(data, at)
        return data[at : at + size], at + size
    if kind == _STRUCT:
        return _struct(data, at, wanted)
    if kind in (_LIST, _SET):
        size, inner, at = _list(data, at)
        values = []
        for _ in range(size):
            value, at = _value(data, at, inner, wanted)
            values.append(value)
        return values, at
    if kind == _MAP:
        size, kinds, at = _map(data, at)
        pairs = []
        for _ in range(size):
            key, at = _value(data, at, kinds >> 4, wanted)
            value, at = _value(data, at, kinds & 15, wanted)
            pairs.append((key, value))
        return pairs, at
    if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth value is a byte
        return data[at], at + 1
    return data[at : at + 8], _skip(data, at, kind)


def _skip(data: bytes, at: int, kind: int, *, inside: bool = False) -> int:
    """Where a value ends; `inside` a list or map, a truth value is a byte."""
    if kind in _INTEGERS:
        while data[at] > 0x7F:
            at += 1
        return at + 1
    if kind == _BINARY:
        size, at = _size(data, at)
        return at + size
    if kind == _STRUCT:
        while (head := data[at]) & 15:
            at = _skip(data, at + 1 if head > 15 else _skip(data, at + 1, _INTEGERS[0]), head & 15)
        return at + 1
    if kind in (_LIST, _SET):
        size, inner, at = _list(data, at)
        for _ in range(size):
            at = _skip(data, at, inner, inside=True)
        return at
    if kind == _MAP:
        size, kinds, at = _map(data, at)
        for _ in range(size):
            at = _skip(data, _skip(data, at, kinds >> 4, inside=True), kinds & 15, inside=True)
        return at
    if kind in (_TRUE, _FALSE):
        return at + inside
    if kind not in (_BYTE, _DOUBLE):
        raise ValueError(f"no type has the number {kind}")
    return at + (1 if kind == _BYTE else 8)


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """Size and kind of a list's values, and where they begin."""
    head = data[at]
    size, at = (head >> 4, at + 1) if head < 0xF0 else _size(data, at + 1)
    return size, head & 15, at


def _map(data: bytes, at: int) -> tuple[int, int, int]:
    """Size of a map, the kinds of its keys and values in one byte, and where they begin."""
    size, at = _size(data, at)
    return (size, data[at], at + 1) if size else (0, 0, at)


def _size(data: bytes, at: int) -> tuple[int, int]:
    """A number of bytes or of values, each of which takes one byte at least."""
    size, at = _varint(data, at)
    if size > len(data) - at:
        raise ValueError("cut off")
    return size, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    while byte > 0x7F:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        byte = data[at]
    value |= byte << shift
    if value >> 64:
        raise ValueError("a number of more than 64 bits")
    return value, at + 1

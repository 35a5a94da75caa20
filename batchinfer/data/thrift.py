"""Thrift's compact protocol: what a footer really holds, read by itself where a decoder would take it on trust."""

from __future__ import annotations

from typing import Any

Struct = dict[int, Any]
"""Values by field number: int, bool, bytes, list, Struct; a double stays 8 bytes, a map a list of pairs."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


def parse(data: bytes) -> Struct:
    """The struct that `data` begins with.

    Stricter than the protocol: a field that comes twice, and a number of more than 64 bits, are errors, since decoders make
    different things of them.

    Raises:
        ValueError: the bytes are no struct.

    """
    try:
        return _Reader(data).struct()
    except (IndexError, RecursionError) as e:
        raise ValueError("not a struct of Thrift's compact protocol") from e


class _Reader:
    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while (kind := (head := self._byte()) & 15) != 0:
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError(f"field {number} comes twice")
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._size())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            head = self._byte()
            size, inner = head >> 4 if head < 0xF0 else self._size(), head & 15
            return [self._value(inner) for _ in range(size)]
        if kind == _MAP:
            size = self._size()
            head = self._byte() if size else 0
            return [(self._value(head >> 4), self._value(head & 15)) for _ in range(size)]
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth value is a byte
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ValueError(f"no type has the number {kind}")

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _bytes(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("cut off")
        return self._data[start : self._at]

    def _size(self) -> int:
        """A number of bytes or of values, each of which takes one byte at least."""
        size = self._varint()
        if size > len(self._data) - self._at:
            raise ValueError("cut off")
        return size

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._data[self._at]) > 0x7F:
            value |= (byte & 0x7F) << shift
            shift += 7
            self._at += 1
        self._at += 1
        value |= byte << shift
        if value >> 64:
            raise ValueError("a number of more than 64 bits")
        return value

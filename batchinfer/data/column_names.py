"""The names of a Parquet file's columns, from its footer alone and without a Parquet library, whose import takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchinfer.data import thrift

_MAGIC = b"PAR1"
_SCHEMA, _NAME, _CHILDREN = 2, 4, 5
"""Numbers of the fields in a footer, and in each of its schema's elements."""
_MOST = 2**24
"""Bytes of a footer that are worth reading for this."""


def column_names(path: Path) -> list[str]:
    """Top-level columns of a local file. Raises OSError, and ValueError for a file that is no Parquet or has a footer of over 16 MiB."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        size, magic = file.read(4), file.read(4)
        length = int.from_bytes(size, "little")
        if magic != _MAGIC or length > min(end - 8, _MOST):
            raise ValueError(f"{path}: no Parquet file, or one whose footer is too long")
        file.seek(end - 8 - length)
        elements = thrift.parse(file.read(length), {_SCHEMA: {_NAME: None, _CHILDREN: None}}).get(_SCHEMA)
    if not elements:
        raise ValueError(f"{path}: a footer without a schema")
    return list(_top(elements))


def _top(elements: list[dict[int, Any]]) -> Iterator[str]:
    """The children of the root, which is the first element; each element is followed by its own children."""
    at = 1
    for _ in range(elements[0].get(_CHILDREN) or 0):
        yield elements[at][_NAME].decode()
        pending = 1
        while pending:
            pending += (elements[at].get(_CHILDREN) or 0) - 1
            at += 1

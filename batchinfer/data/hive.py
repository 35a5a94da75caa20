"""Hive partitions: columns that are spelled in folder names, such as `date=2026-11-22/lang=en/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from batchinfer.data.inputs import InputFile
from batchinfer.errors import InputError

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")

Partition = tuple[tuple[str, str | None], ...]


def partition_of(folders: Sequence[str], path: str) -> Partition:
    """The keys and values that `folders` (the path's folder names below the input's base) spell, decoded, in path order.

    Raises:
        InputError: a key stands twice in one path.

    """
    found: dict[str, str | None] = {}
    for folder in folders:
        key, equals, value = folder.partition("=")
        if not equals or not key:
            continue
        name = unquote(key)
        if name in found:
            raise InputError(f"{path}: the partition key {name!r} stands twice in the path; rename one of the folders")
        found[name] = None if value == _NULL else unquote(value)
    return tuple(found.items())


def partition_schema(files: Sequence[InputFile]) -> pa.Schema:
    """The partition columns of all files: int64 where every value of every file parses as one, else string.

    Raises:
        InputError: two files have different keys.

    """
    if not files:
        return pa.schema([])
    first = files[0]
    keys = [key for key, _ in first.partition]
    expected = set(keys)
    values: dict[str, set[str | None]] = {key: set() for key in keys}
    for file in files:
        if {key for key, _ in file.partition} != expected:
            raise InputError(
                f"{file.path} has the partition keys {_keys(file)}, but {first.path} has {_keys(first)}: "
                "give input.path a folder or a glob below which every file has the same key=value folders"
            )
        for key, value in file.partition:
            values[key].add(value)
    return pa.schema([pa.field(key, pa.int64() if _all_integers(values[key]) else pa.string()) for key in keys])


def constant(value: str | None, kind: pa.DataType) -> int | str | None:
    """A partition value in its column's type."""
    return int(value) if value is not None and pa.types.is_int64(kind) else value


def _keys(file: InputFile) -> str:
    return ", ".join(key for key, _ in file.partition) or "none"


def _all_integers(values: set[str | None]) -> bool:
    known = [v for v in values if v is not None]
    return bool(known) and all(_INTEGER.fullmatch(v) and -(2**63) <= int(v) < 2**63 for v in known)

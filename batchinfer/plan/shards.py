"""The input cut into shards, and how many rows a shard and a window get. Functions of the footers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from batchinfer.data.hive import constant
from batchinfer.data.inputs import RowRange
from batchinfer.data.scan import RowGroup, ScannedFile
from batchinfer.data.statistics import ColumnStats
from batchinfer.data.where import Condition

_MIB = 2**20


@dataclass(frozen=True)
class Shard:
    """The unit of scheduling and of commit."""

    number: int
    """From 0, in input order."""
    first: int
    """Ordinal in the plan of its first row."""
    ranges: tuple[RowRange, ...]
    """In input order; neighbours in one file are one range."""

    @property
    def rows(self) -> int:
        """Ordinals that it spans, pruned rows included."""
        return sum(r.rows for r in self.ranges)


def cut(
    files: Sequence[ScannedFile],
    where: Condition | None,
    limit: int | None,
    shard_rows: int,
    *,
    first_number: int = 0,
    first_row: int = 0,
) -> tuple[Shard, ...]:
    """Cut the first `limit` rows of `files` into shards of at most `shard_rows` rows that are read.

    Shards end at row groups where they can; a row group that is larger is split evenly. Row groups that `where` can't match
    ride along without counting. Ordinals are contiguous from `first_row`, numbers from `first_number`.
    """
    if shard_rows < 1:
        raise ValueError(f"a shard needs at least one row, not {shard_rows}")
    shards: list[Shard] = []
    ranges: list[RowRange] = []
    counted = 0
    ordinal = first_row

    def close() -> None:
        nonlocal ranges, counted, ordinal
        if ranges:
            shards.append(Shard(first_number + len(shards), ordinal, tuple(ranges)))
            ordinal += shards[-1].rows
            ranges, counted = [], 0

    for piece in _pieces(files, where, limit, shard_rows):
        weight = 0 if piece.pruned else piece.rows
        if counted and counted + weight > shard_rows:
            close()
        _append(ranges, piece)
        counted += weight
    close()
    return tuple(shards)


def _append(ranges: list[RowRange], piece: RowRange) -> None:
    last = ranges[-1] if ranges else None
    if last and last.file is piece.file and last.pruned == piece.pruned and last.start + last.rows == piece.start:
        ranges[-1] = RowRange(last.file, last.start, last.rows + piece.rows, last.pruned)
    else:
        ranges.append(piece)


def _pieces(
    files: Sequence[ScannedFile], where: Condition | None, limit: int | None, shard_rows: int
) -> Iterator[RowRange]:
    """Row groups in input order, cut off at `limit`; those that are read and larger than `shard_rows` in even pieces."""
    left = sum(f.file.rows for f in files) if limit is None else limit
    for scanned in files:
        start = 0
        for group in scanned.row_groups:
            if left <= 0:
                return
            rows = min(group.rows, left)
            pruned = where is not None and not where.may_match(_statistics(scanned, group, where), group.rows)
            yield from _split(scanned, start, rows, rows if pruned else shard_rows, pruned=pruned)
            left -= rows
            start += group.rows


def _split(scanned: ScannedFile, start: int, rows: int, most: int, *, pruned: bool) -> Iterator[RowRange]:
    count = -(-rows // most) if rows else 0
    for i in range(count):
        begin, end = rows * i // count, rows * (i + 1) // count
        yield RowRange(scanned.file, start + begin, end - begin, pruned)


def _statistics(scanned: ScannedFile, group: RowGroup, where: Condition) -> Mapping[str, ColumnStats]:
    """What is known of each column of `where` in a row group: from the footer, from the folder names, or absent and so null."""
    found = dict(group.statistics)
    partition = dict(scanned.file.partition)
    for field in where.schema:
        if field.name in partition:
            found[field.name] = ColumnStats.constant(constant(partition[field.name], field.type), group.rows)
        elif field.name not in scanned.schema.names:
            found[field.name] = ColumnStats.constant(None, group.rows)
    return found


def auto_sizes(files: Sequence[ScannedFile], schema: pa.Schema, *, numeric: bool) -> tuple[int, int]:
    """Rows a shard and rows a window, from the size of a row; a shard is a whole number of windows.

    Args:
        files: scanned with the columns of `schema`, whose bytes their row groups count.
        schema: of what is read.
        numeric: whether the model's inputs all have a fixed size, so that windows need no sorting by length.

    """
    rows = sum(f.file.rows for f in files)
    encoded = sum(g.bytes for f in files for g in f.row_groups) / max(rows, 1)
    per_row = max(1.0, encoded, sum(_fixed_bytes(field.type) for field in schema))
    if numeric:
        window = _clamp(int(8 * _MIB / per_row), 1024, 65_536)
        shard = _clamp(int(32 * _MIB / per_row), window, 1_000_000)
    else:
        window = _clamp(int(64 * _MIB / per_row), 1, 4096)
        shard = 8 * window
    return shard - shard % window, window


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _fixed_bytes(kind: pa.DataType) -> float:
    """Bytes that every value takes in memory; 0 where it depends on the value."""
    if isinstance(kind, pa.BaseExtensionType):
        return _fixed_bytes(kind.storage_type)
    if isinstance(kind, pa.FixedSizeListType):
        return float(kind.list_size * _fixed_bytes(kind.value_type))
    if pt.is_primitive(kind) or pt.is_decimal(kind) or pt.is_fixed_size_binary(kind):
        return float(kind.bit_width / 8)
    return 0.0

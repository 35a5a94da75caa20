"""The input cut into shards, and how many rows a shard and a window get. Functions of the footers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from batchinfer.data.hive import constant, partition_schema
from batchinfer.data.inputs import RowRange
from batchinfer.data.scan import RowGroup, ScannedFile
from batchinfer.data.statistics import UNKNOWN, ColumnStats
from batchinfer.data.where import Where

_MIB = 2**20


@dataclass(frozen=True)
class Shard:
    """The unit of scheduling and of commit."""

    number: int
    """From 0, in input order, on through the generations."""
    first: int
    """The job's row that its first one is; the rows of a job are numbered from 0, in input order."""
    ranges: tuple[RowRange, ...]
    """In input order; neighbours in one file are one range."""
    rows_at: tuple[int, ...] = ()
    """In a retry: the job's row that each range begins with. Else a shard's rows follow each other from `first`."""
    retries: tuple[tuple[int, str], ...] = ()
    """In a retry: the dead rows that it attempts again, by the shard that left them and their ordinals in it (`data.ordinals`)."""

    @property
    def rows(self) -> int:
        """Ordinals that it spans, pruned rows included."""
        return sum(r.rows for r in self.ranges)

    def job_rows(self) -> NDArray[np.int64]:
        """The job's rows by the shard's ordinals: int64 of shape (rows,), ascending."""
        if not self.rows_at:
            return np.arange(self.first, self.first + self.rows, dtype=np.int64)
        spans = [np.arange(at, at + r.rows, dtype=np.int64) for at, r in zip(self.rows_at, self.ranges, strict=True)]
        return np.concatenate(spans)


def cut(
    files: Sequence[ScannedFile],
    where: Where | None,
    limit: int | None,
    shard_rows: int,
    *,
    by_file: bool = False,
) -> tuple[Shard, ...]:
    """Cut the first `limit` rows of `files` into shards of at most `shard_rows` rows that are read.

    Shards end at row groups where they can; a row group that is larger is split evenly. Row groups that `where` can't match
    ride along without counting. `by_file`: no shard has rows of two files.
    """
    if shard_rows < 1:
        raise ValueError(f"a shard needs at least one row, not {shard_rows}")
    shards: list[Shard] = []
    ranges: list[RowRange] = []
    counted = 0
    ordinal = 0

    def close() -> None:
        nonlocal ranges, counted, ordinal
        if ranges:
            shards.append(Shard(len(shards), ordinal, tuple(ranges)))
            ordinal += shards[-1].rows
            ranges, counted = [], 0

    for piece in _pieces(files, where, limit, shard_rows):
        weight = 0 if piece.pruned else piece.rows
        if (counted and counted + weight > shard_rows) or (by_file and ranges and ranges[-1].file is not piece.file):
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
    files: Sequence[ScannedFile], where: Where | None, limit: int | None, shard_rows: int
) -> Iterator[RowRange]:
    """Row groups in input order, cut off at `limit`; those read and larger than `shard_rows` in even pieces."""
    left = sum(f.file.rows for f in files) if limit is None else limit
    partitions = partition_schema([f.file for f in files])
    for scanned in files:
        start = 0
        for group in scanned.row_groups:
            if left <= 0:
                return
            rows = min(group.rows, left)
            pruned = where is not None and not _may_match(where, scanned, group, partitions)
            yield from _split(scanned, start, rows, rows if pruned else shard_rows, pruned=pruned)
            left -= rows
            start += group.rows


def _split(scanned: ScannedFile, start: int, rows: int, most: int, *, pruned: bool) -> Iterator[RowRange]:
    count = -(-rows // most) if rows else 0
    for i in range(count):
        begin, end = rows * i // count, rows * (i + 1) // count
        yield RowRange(scanned.file, start + begin, end - begin, pruned)


def _may_match(where: Where, scanned: ScannedFile, group: RowGroup, partitions: pa.Schema) -> bool:
    """Judge a row group by the footer, by the folder names, and by the columns that are absent and so null."""
    known: dict[str, ColumnStats] = {}
    fields: list[pa.Field] = []
    partition = dict(scanned.file.partition)
    for name in where.columns:
        if name in partition:
            field = partitions.field(name)
            known[name] = ColumnStats.constant(constant(partition[name], field.type), group.rows)
        elif name in scanned.schema.names:
            field = scanned.schema.field(name)
            known[name] = group.statistics.get(name, UNKNOWN)
        else:
            field = pa.field(name, pa.null())
            known[name] = ColumnStats.constant(None, group.rows)
        fields.append(field)
    return where.may_match(known, pa.schema(fields), group.rows)


def auto_sizes(files: Sequence[ScannedFile], columns: Collection[str], *, numeric: bool) -> tuple[int, int]:
    """Rows a shard and rows a window, from the size of a row; a shard is a whole number of windows.

    Args:
        files: in input order.
        columns: those that are read.
        numeric: whether the model's inputs all have a fixed size, so that windows need no sorting by length.

    """
    rows = encoded = fixed = 0.0
    needed = frozenset(columns)
    for scanned in files:
        count = scanned.file.rows
        rows += count
        for field, size in zip(scanned.schema, scanned.column_bytes, strict=True):
            if field.name in needed:
                encoded += size
                fixed += count * _fixed_bytes(field.type)
    per_row = max(1.0, encoded / max(rows, 1), fixed / max(rows, 1))
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

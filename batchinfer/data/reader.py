"""The rows of a shard in windows: fixed spans of ordinals, filtered, in the unified schema."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.inputs import RowRange
from batchinfer.data.stream import FileStream
from batchinfer.data.volumes import Volumes
from batchinfer.data.where import Where
from batchinfer.storage.kept_bytes import KeptBytes
from batchinfer.storage.store import StorageOptions

_SMALLEST_BATCH = 4096


@dataclass(frozen=True)
class Window:
    """A span of a shard's ordinals and those of its rows that pass `where`."""

    first: int
    """Ordinal inside the shard of the first row that the window spans."""
    rows: int
    """Ordinals that it spans, filtered rows included."""
    table: pa.Table
    """The rows that pass, one chunk a column."""
    ordinals: NDArray[np.int64]
    """Shard ordinals of the table's rows, ascending."""
    ranges: tuple[RowRange, ...] = field(repr=False)
    """The shard's."""

    def sources(self, ordinals: Iterable[int]) -> list[tuple[str, int]]:
        """File and row in the file of shard ordinals."""
        return sources(self.ranges, ordinals)


def sources(ranges: Sequence[RowRange], ordinals: Iterable[int]) -> list[tuple[str, int]]:
    """File and row in the file (from 0) of each of a shard's ordinals. Raises IndexError past the shard's end."""
    ends = list(accumulate(r.rows for r in ranges))
    found = []
    for ordinal in ordinals:
        if not 0 <= ordinal < (ends[-1] if ends else 0):
            raise IndexError(f"the shard has no row {ordinal}")
        i = bisect_right(ends, ordinal)
        found.append((ranges[i].file.path, ranges[i].start + ordinal - (ends[i - 1] if i else 0)))
    return found


class Reader:
    """Reads shards one after the other; the last file stays open, so that neighbouring shards of a row group are decoded once.

    Not safe for several threads at once.

    Args:
        schema: the unified schema, as made by `unify`.
        where: the filter; None keeps every row.
        columns: those that windows have, in this order; None for all of the schema. Columns of `where` are read besides.
        kept: where bytes of remote files are kept.
        options: fsspec options by URL prefix.

    """

    def __init__(
        self,
        schema: pa.Schema,
        where: Where | None = None,
        options: StorageOptions | None = None,
        *,
        columns: Sequence[str] | None = None,
        kept: KeptBytes | None = None,
    ) -> None:
        self.columns = tuple(schema.names if columns is None else columns)
        needed = {*self.columns, *(where.columns if where else ())}
        self._schema = pa.schema([f for f in schema if f.name in needed])
        self._where = where
        self._volumes = Volumes(options, kept)
        self._stream: FileStream | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of the windows' tables."""
        return pa.schema([self._schema.field(name) for name in self.columns])

    def windows(self, ranges: Sequence[RowRange], size: int) -> Iterator[Window]:
        """The windows `[0, size), [size, 2 size), …` of a shard; the last may be shorter, one without rows has an empty table.

        Raises:
            InputError: a file changed since it was planned, can't be decoded, or `where` fails on a row.
            StorageError, AccessError: the store can't be read.

        """
        if size < 1:
            raise ValueError(f"a window needs at least one row, not {size}")
        shard = tuple(ranges)
        total = sum(r.rows for r in shard)
        first = 0
        spans: list[tuple[int, int, pa.Table]] = []
        for ordinal, rows, table in self._pieces(shard, size):
            stop = ordinal + rows
            while stop > first + size:  # only a pruned range goes past a window's end
                yield self._window(shard, first, size, spans)
                spans, first = [], first + size
            if table is not None:
                spans.append((ordinal, rows, table))
            if stop == first + size:
                yield self._window(shard, first, size, spans)
                spans, first = [], stop
        if first < total:
            yield self._window(shard, first, total - first, spans)

    def _pieces(self, ranges: Sequence[RowRange], size: int) -> Iterator[tuple[int, int, pa.Table | None]]:
        """(ordinal, rows, table) in order; a table never crosses a window's end, and None stands for a pruned range."""
        batch_rows = size * max(1, _SMALLEST_BATCH // size)
        ordinal = 0
        for part in ranges:
            if part.pruned:
                yield ordinal, part.rows, None
                ordinal += part.rows
                continue
            for count, table in self._open(part).rows(part.start, part.start + part.rows, batch_rows):
                begin = 0
                while begin < count:
                    rows = min(count - begin, size - ordinal % size)
                    yield ordinal, rows, table.slice(begin, rows) if rows < count else table
                    begin += rows
                    ordinal += rows

    def _open(self, part: RowRange) -> FileStream:
        if self._stream is None or self._stream.file != part.file:
            self._stream = None
            store, path = self._volumes.locate(part.file.path)
            self._stream = FileStream(self._volumes.kept(store, part.file.version), path, part.file, self._schema)
        return self._stream

    def _window(
        self, ranges: tuple[RowRange, ...], first: int, rows: int, spans: Sequence[tuple[int, int, pa.Table]]
    ) -> Window:
        if not spans:
            return Window(first, rows, self.schema.empty_table(), np.empty(0, np.int64), ranges)
        tables = [table for _, _, table in spans]
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        ordinals = np.concatenate([np.arange(o, o + n, dtype=np.int64) for o, n, _ in spans])
        if self._where is not None:
            mask = self._where.mask(table if self._schema.names else pa.table({"": ordinals}))
            if mask.true_count < len(mask):
                table = table.filter(mask) if self._schema.names else table
                table = table.combine_chunks() if any(c.num_chunks > 1 for c in table.columns) else table
                ordinals = ordinals[np.asarray(mask)]
        return Window(first, rows, table.select(list(self.columns)), ordinals, ranges)

"""The rows of one input file in order, from any row on, with one handle and one decoder kept between requests."""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from batchinfer.data import footer as footers
from batchinfer.data.access import RandomAccess
from batchinfer.data.hive import constant
from batchinfer.data.inputs import InputFile
from batchinfer.data.schema import conform
from batchinfer.errors import BatchinferError, InputError
from batchinfer.storage.store import Store

_RUN_BYTES = 64 * 2**20
"""Compressed bytes of row groups that are fetched at once; a larger row group is streamed."""
_BATCH_BYTES = 32 * 2**20
_STREAM_BUFFER = 2 * 2**20
_PLACE_ROWS = 1024


class FileStream:
    """Decodes rows forward; a request behind the position, or in another run of row groups, starts the decoder anew.

    Args:
        store: holds the file.
        path: of the file, inside the store.
        file: as it was planned.
        schema: the unified schema of what is read, partition columns included.

    Raises:
        InputError: the file isn't the one that was planned.
        StorageError, AccessError: the store can't be read.

    """

    def __init__(self, store: Store, path: str, file: InputFile, schema: pa.Schema) -> None:
        self.file = file
        self._schema = schema
        self._metadata = _checked_metadata(store, path, file)
        self._ends = list(
            accumulate(self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups))
        )
        self._access = RandomAccess(store, path, file.size)
        self._parquet: Any = None
        self._names: list[str] = []
        partition = {key for key, _ in file.partition}
        with self._decoding(0, file.rows):
            self._parquet = pq.ParquetFile(
                pa.PythonFile(self._access, mode="r"),
                metadata=self._metadata,
                pre_buffer=False,
                buffer_size=_STREAM_BUFFER if self._largest() > _RUN_BYTES else 0,
                page_checksum_verification=True,
                **footers.THRIFT_LIMITS,
            )
            names = set(self._parquet.schema_arrow.names)
        self._names = [name for name in schema.names if name in names and name not in partition]
        self._leaves = self._leaf_indices()
        leaves = [self._metadata.schema.column(i).path for i in self._leaves]
        # pyarrow gives no column for a struct without fields, since no leaf stands for it: it reads as null
        self._names = [n for n in self._names if any(p == n or p.startswith(f"{n}.") for p in leaves)]
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._held: pa.Table | None = None
        self._position = 0
        self._run_stop = 0

    def rows(self, start: int, stop: int, batch_rows: int) -> Iterator[tuple[int, pa.Table]]:
        """The rows `[start, stop)` of the file in the unified schema, in tables of at most `batch_rows` rows.

        Each comes with its number of rows, which a table without columns doesn't know.

        Raises:
            InputError: a page can't be decoded, or a text isn't UTF-8.
            StorageError, AccessError: the store can't be read.

        """
        while start < stop:
            with self._decoding(start, stop):
                if self._batches is None or not self._position <= start < self._run_stop:
                    self._begin(start, stop, batch_rows)
                rows, piece = self._next(start, stop)
            start += rows
            yield rows, piece

    def _begin(self, start: int, stop: int, batch_rows: int) -> None:
        """Start a decoder at the row group that holds `start`, over as many as `stop` needs and one fetch allows."""
        first = bisect_right(self._ends, start)
        last, size, plain = first, 0, 0
        while last < len(self._ends) and (last == first or self._ends[last - 1] < stop):
            more = sum(stop - start for start, stop in self._spans(last))
            if last > first and size + more > _RUN_BYTES:
                break
            size += more
            plain += self._metadata.row_group(last).total_byte_size
            last += 1
        groups = range(first, last)
        self._position = self._ends[first - 1] if first else 0
        self._run_stop = self._ends[last - 1]
        self._held = None
        count = self._run_stop - self._position
        if not self._names:  # nothing to decode: the rows are counted, and all that is asked for is the same in each
            self._batches = iter(())
            return
        spans = [span for g in groups for span in self._spans(g)] if size <= _RUN_BYTES else []
        self._access.prefetch(spans)
        fitting = max(1, _BATCH_BYTES * count // max(plain, 1))
        self._batches = self._parquet.iter_batches(
            min(batch_rows, fitting, count), row_groups=groups, columns=self._names, use_threads=True
        )

    def _next(self, start: int, stop: int) -> tuple[int, pa.Table]:
        """Rows from `start` on, as many as one batch has and `stop` allows."""
        assert self._batches is not None
        if not self._names:
            rows = min(stop, self._run_stop) - start
            self._position = start + rows
            return rows, self._fit(pa.table({}), rows)
        while True:
            batch = self._held
            if batch is None:
                raw = next(self._batches, None)
                if raw is None or self._position + raw.num_rows > self._run_stop:
                    raise ValueError("its pages hold another number of rows than the footer says")
                batch = (
                    self._fit(pa.Table.from_batches([raw]), raw.num_rows)
                    if self._position + raw.num_rows > start
                    else raw
                )
            end = self._position + batch.num_rows
            if end > start:
                break
            self._position, self._held = end, None
        piece = batch.slice(start - self._position, min(end, stop) - start)
        if end > stop:
            self._held = batch
        else:
            self._position, self._held = end, None
        return piece.num_rows, piece

    def _fit(self, table: pa.Table, rows: int) -> pa.Table:
        """Checked, with partition columns, in the unified schema."""
        for name in self._names:
            column = table.column(name)
            if _holds_text(column.type):
                try:
                    column.validate(full=True)
                except pa.ArrowInvalid as e:
                    raise ValueError(f"column {name!r}: {e}") from e
        columns = {name: table.column(name) for name in self._names}
        for key, value in self.file.partition:
            if key in self._schema.names:
                kind = self._schema.field(key).type
                columns[key] = pa.repeat(pa.scalar(constant(value, kind), kind), rows)
        for field in self._schema:
            if field.name not in columns:
                columns[field.name] = pa.nulls(rows, field.type)
        arrays = [columns[field.name] for field in self._schema]
        return conform(pa.Table.from_arrays(arrays, self._schema.names), self._schema)

    @contextlib.contextmanager
    def _decoding(self, start: int, stop: int) -> Iterator[None]:
        """Everything that a decoder raises becomes InputError; what the store raised stays as it is."""
        self._access.fault = None
        try:
            yield
        except BatchinferError:
            self._batches = None
            raise
        except Exception as e:
            # For bytes that are corrupt pyarrow raises OSError, ArrowException, UnicodeDecodeError and more.
            self._batches = None
            fault = self._access.fault
            if isinstance(fault, BatchinferError):
                raise fault from e
            if isinstance(fault, FileNotFoundError):
                raise InputError(
                    f"{self.file.path}: the file is gone; it was there when the job was planned: bring it back, or plan anew"
                ) from e
            if fault is not None:
                raise fault from e
            text = " ".join(str(e).split())[:300] or type(e).__name__
            raise InputError(
                f"{self.file.path}: rows {start:,} to {stop - 1:,} can't be read ({self._place(start, stop)}{type(e).__name__}: {text}): "
                "the file is damaged; write it anew, or leave it out of input.path"
            ) from e

    def _place(self, start: int, stop: int) -> str:
        """The first row group and column that can't be decoded, as the beginning of a message; empty where it can't be told."""
        groups = range(bisect_right(self._ends, start), bisect_right(self._ends, stop - 1) + 1)
        for group, name in itertools.product(groups, self._names):
            try:
                deque(self._parquet.iter_batches(_PLACE_ROWS, row_groups=[group], columns=[name]), maxlen=0)
            except Exception:  # noqa: BLE001 - a decoder raises anything
                return f"row group {group}, column {name!r}, " if self._access.fault is None else ""
        return ""

    def _leaf_indices(self) -> list[int]:
        """Leaf columns that belong to the columns that are read."""
        wanted = set(self._names)
        paths = [self._metadata.schema.column(i).path for i in range(self._metadata.num_columns)]
        return [
            i for i, path in enumerate(paths) if path in wanted or any(path.startswith(f"{name}.") for name in wanted)
        ]

    def _spans(self, group: int) -> list[tuple[int, int]]:
        """The byte ranges of a row group's needed column chunks, as far as they lie inside the file."""
        row_group = self._metadata.row_group(group)
        spans = []
        for i in self._leaves:
            chunk = row_group.column(i)
            start = chunk.data_page_offset
            if (
                chunk.has_dictionary_page
                and chunk.dictionary_page_offset is not None
                and 0 < chunk.dictionary_page_offset < start
            ):
                start = chunk.dictionary_page_offset
            stop = start + chunk.total_compressed_size
            if 0 <= start < stop <= self.file.size:
                spans.append((start, stop))
        return spans

    def _largest(self) -> int:
        return max(
            (
                sum(
                    self._metadata.row_group(g).column(i).total_compressed_size
                    for i in range(self._metadata.num_columns)
                )
                for g in range(len(self._ends))
            ),
            default=0,
        )


def _checked_metadata(store: Store, path: str, file: InputFile) -> pq.FileMetaData:
    advice = "plan anew to read it as it is now, or bring the planned file back"
    try:
        footer = footers.fetch(store, path, file.size, file.path)
    except InputError as e:
        raise InputError(f"the input changed since the job was planned: {e}; {advice}") from e
    if footers.digest(footer) != file.footer:
        raise InputError(
            f"{file.path}: the input changed since the job was planned: its footer is another one; {advice}"
        )
    return footers.parse(footer, file.size, file.path, known=True).metadata


def _holds_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_text(kind.storage_type)
    if pt.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if pt.is_nested(kind):
        return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))

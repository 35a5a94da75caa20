"""Parquet in memory: equal rows give equal bytes, however they arrive."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from batchinfer.data import footer as footers
from batchinfer.storage.store import Store

PREFIX = "batchinfer."
_LEVELS = {"zstd": 1}


class PartWriter:
    """Builds one Parquet file in memory. No time, host or path goes in.

    Args:
        schema: of every table that is written.
        compression: a codec that Parquet knows, or `none`.
        row_group_rows: rows of every row group but the last.

    """

    def __init__(self, schema: pa.Schema, compression: str = "zstd", row_group_rows: int = 65_536) -> None:
        self._schema = schema
        self._group = row_group_rows
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._sink = io.BytesIO()
        dictionary, statistics = _column_choices(schema)
        self._writer: Any = pq.ParquetWriter(
            self._sink,
            schema,
            compression=compression,
            compression_level=_LEVELS.get(compression),
            use_dictionary=dictionary,
            write_statistics=statistics,
            write_page_checksum=True,
        )

    def write(self, table: pa.Table) -> None:
        """Add rows; column names and types must be the schema's. Raises pyarrow.ArrowInvalid or ValueError where they aren't."""
        if not table.schema.equals(self._schema):
            raise ValueError(
                f"a table with the schema\n{table.schema}\ncan't go into a part with the schema\n{self._schema}"
            )
        self._waiting.append(table)
        self._rows += table.num_rows
        while self._rows >= self._group:
            self._flush(self._group)

    def finish(self, metadata: Mapping[str, str]) -> bytes:
        """Write what is left, the `metadata` with `batchinfer.` before each key, and give the whole file."""
        if self._rows:
            self._flush(self._rows)
        self._writer.add_key_value_metadata({PREFIX + key: metadata[key] for key in sorted(metadata)})
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self, rows: int) -> None:
        """Write the first `rows` waiting rows as one row group, each column one chunk without spare dictionary values."""
        waiting = pa.concat_tables(self._waiting)
        head, rest = waiting.slice(0, rows), waiting.slice(rows)
        columns = [_canonical(column) for column in head.columns]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=rows)
        self._waiting = [rest] if rest.num_rows else []
        self._rows -= rows


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values, independent of how they were chunked: a dictionary lists its values by first appearance."""
    kind = column.type
    if not pt.is_dictionary(kind):
        return column.combine_chunks() if column.num_chunks != 1 else column
    plain = pa.chunked_array([c.dictionary_decode() for c in column.chunks], kind.value_type).combine_chunks()
    encoded = plain.dictionary_encode()
    parts = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    made = [
        pa.DictionaryArray.from_arrays(p.indices.cast(kind.index_type), p.dictionary, ordered=kind.ordered)
        for p in parts
    ]
    return pa.chunked_array(made, kind)


def _column_choices(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Leaf columns that get a dictionary (texts and bytes), and those that get statistics (all but lists of floats)."""
    empty = io.BytesIO()
    pq.ParquetWriter(empty, schema).close()  # of an empty table there is none where an extension type is nested
    leaves = pq.read_metadata(pa.BufferReader(empty.getvalue())).schema
    dictionary, statistics = [], []
    for i in range(len(leaves)):
        leaf = leaves.column(i)
        top = schema.get_field_index(leaf.path)
        encoded = top >= 0 and pt.is_dictionary(schema.field(top).type)
        if leaf.physical_type == "BYTE_ARRAY" or encoded:
            dictionary.append(leaf.path)
        if not (
            leaf.max_repetition_level
            and (leaf.physical_type in ("FLOAT", "DOUBLE") or leaf.logical_type.type == "FLOAT16")
        ):
            statistics.append(leaf.path)
    return dictionary, statistics


def unstorable(field: pa.Field) -> str | None:
    """Why a part can't hold this column; None where it can."""
    try:
        PartWriter(pa.schema([field])).finish({})
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as e:
        return str(e)
    return None


@dataclass(frozen=True)
class PartFooter:
    """What a part says of itself."""

    metadata: dict[str, str]
    """Ours, without the prefix `batchinfer.`."""
    rows: int
    size: int
    """Bytes of the whole file."""


def read_footer(data: bytes) -> PartFooter:
    """The footer of a whole part in memory. Raises InputError where it is no sound Parquet file."""
    return _footer(_InMemory(data), "", len(data), "the part")


def fetch_footer(store: Store, path: str, size: int) -> PartFooter:
    """The footer of a stored part of `size` bytes, from its tail.

    Raises:
        InputError: it is gone, no sound Parquet file, or of another size.
        StorageError, AccessError: the store can't be read.

    """
    return _footer(store, path, size, f"{store.root.rstrip('/')}/{path}")


def _footer(store: Any, path: str, size: int, url: str) -> PartFooter:
    parsed = footers.parse(footers.fetch(store, path, size, url), size, url)
    return PartFooter(ours(parsed.metadata), parsed.metadata.num_rows, size)


def ours(metadata: pq.FileMetaData) -> dict[str, str]:
    """What `PartWriter.finish` was given, from a file's footer."""
    prefix = PREFIX.encode()
    found = metadata.metadata or {}
    return {k.removeprefix(prefix).decode(): v.decode() for k, v in found.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class _InMemory:
    data: bytes

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        del path
        return self.data[start:stop]

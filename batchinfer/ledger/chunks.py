"""Checkpoints: results of finished batches of a shard that has no part yet. Immutable, named by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

_SETTINGS = b"batchinfer.settings"
_STEP = b"batchinfer.step"
_SHARD = b"batchinfer.shard"

DEAD_TYPE = pa.struct(
    [
        ("error_class", pa.string()),
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("retryable", pa.bool_()),
        ("exit_signal", pa.string()),
    ]
)


def schema(outputs: pa.Schema) -> pa.Schema:
    """Columns of a chunk: where the row stands in its shard, its outputs or its error, and whether it was cut."""
    return pa.schema(
        [pa.field("_ordinal", pa.int64()), pa.field("_truncated", pa.bool_()), pa.field("_dead", DEAD_TYPE), *outputs]
    )


def put(store: Store, job: JobPaths, shard: int, results: pa.Table, step: str, settings: str) -> None:
    """Make finished rows of a shard durable."""
    # Arrow's file format takes one dictionary a column, and batches may come with their own.
    table = results.unify_dictionaries().replace_schema_metadata({_STEP: step, _SETTINGS: settings, _SHARD: str(shard)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    store.put(job.chunk(shard, hashlib.sha256(data).hexdigest()[:12]), data)


def load(
    store: Store, job: JobPaths, shard: int, outputs: Mapping[str, pa.Schema], settings: str
) -> dict[str, pa.Table]:
    """By step, every row that the shard's chunks hold, each ordinal once, sorted by ordinal.

    A chunk that is torn, altered, of another shard, other settings or another version of batchinfer, or gone since the listing is passed
    over: its rows are computed again. `outputs` are the columns of each step.
    """
    tables = {name: [schema(columns).empty_table()] for name, columns in outputs.items()}
    for entry in store.list(job.chunks(shard)):
        if job.shard_of_chunk(entry.path) != shard:
            continue
        try:
            data = store.read(entry.path)
        except FileNotFoundError:
            continue
        if entry.path != job.chunk(shard, hashlib.sha256(data).hexdigest()[:12]):
            continue
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        metadata = table.schema.metadata or {}
        ours = metadata.get(_SETTINGS) == settings.encode() and metadata.get(_SHARD) == str(shard).encode()
        mine = tables.get(metadata.get(_STEP, b"").decode())
        if ours and mine is not None and table.schema.equals(mine[0].schema):
            mine.append(table.replace_schema_metadata(None))
    return {name: _first_of_each(pa.concat_tables(found)) for name, found in tables.items()}


def _first_of_each(table: pa.Table) -> pa.Table:
    """Two runners may both have computed a batch: either result is right, and the first is taken."""
    _, first = np.unique(table["_ordinal"].to_numpy(), return_index=True)
    return table.take(pa.array(first))


def delete(store: Store, job: JobPaths, shard: int) -> None:
    """Remove a shard's chunks, once its part stands."""
    for entry in store.list(job.chunks(shard)):
        store.delete(entry.path)

"""Parts of an output without the run that would have made them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from batchinfer.data.part import PartWriter
from batchinfer.ledger.parts import Counts, Part
from batchinfer.storage.store import Store, open_store


def written(folder: Path, *tables: pa.Table, group: int = 1000) -> tuple[Store, list[Part]]:
    """A store with one part for each table, in row groups of so many rows."""
    store = open_store(str(folder))
    parts = []
    for shard, table in enumerate(tables):
        writer = PartWriter(table.schema, row_group_rows=group)
        writer.write(table)
        data = writer.finish({})
        path = f"data/part-{shard:07d}-00000000.parquet"
        store.put(path, data)
        parts.append(Part(shard, path, len(data), "", Counts(len(table), len(table)), None))
    return store, parts

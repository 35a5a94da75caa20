"""Rows of an output's parts, few enough to look at: the same ones each time, from places spread evenly over the output."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data import footer as footers
from batchinfer.data.access import RandomAccess
from batchinfer.errors import InputError, OutputError, RefusedError
from batchinfer.job.nearest import nearest
from batchinfer.ledger.host import HERE
from batchinfer.ledger.parts import Part
from batchinfer.storage.store import Store

PLACES = 64
"""Row groups that are read at most, where not all rows are."""
_THREADS = 4
_BATCH_ROWS = 256
_BUFFER = 256 * 1024
_ADVICE = "put it back from a copy, or begin anew with --restart"


@dataclass(frozen=True)
class _Share:
    """What is read of one part."""

    part: Part
    at: tuple[int, ...] | None
    """Rows of the part that the places lie at; None for all of the part."""
    rows: int
    """Of each place, or of the part."""
    bytes: int


def sampled_rows(
    store: Store, parts: Sequence[Part], columns: Sequence[str] | None, most_rows: int, most_bytes: int
) -> pa.Table:
    """All rows where they are few, else about `most_rows` of them, or fewer where they would take more than about `most_bytes` in memory.

    Where there are more, `PLACES` places at equal distances are looked at: of the row group that each lies in, rows at equal distances,
    or its first ones where the row group is large.

    Args:
        store: the output.
        parts: of the output that count.
        columns: those that are read; None for all.
        most_rows: bound of the rows.
        most_bytes: bound of what they take in memory, about.

    Raises:
        OutputError: a part is gone or damaged.
        RefusedError: the parts lack a column.
        StorageError, AccessError: the store can't be read.

    """
    ordered = sorted(parts, key=lambda p: p.shard)
    if not ordered:
        return pa.table({})
    shares = _shares([p for p in ordered if p.counts.succeeded], most_rows, most_bytes)
    shares = shares or [_Share(ordered[0], None, 0, 0)]  # of no rows there are types still
    with HERE.threads(_THREADS, "batchinfer-sample") as pool:
        tables = list(pool.map(lambda share: _read(store, share, columns), shares))
    return pa.concat_tables(tables, promote_options="permissive")


def _shares(parts: Sequence[Part], most_rows: int, most_bytes: int) -> list[_Share]:
    total = sum(p.counts.succeeded for p in parts)
    if total <= most_rows and len(parts) <= PLACES:
        return [_Share(p, None, p.counts.succeeded, max(1, most_bytes * p.counts.succeeded // total)) for p in parts]
    ends = list(accumulate(p.counts.succeeded for p in parts))
    within: dict[int, list[int]] = {}
    for place in range(PLACES):
        row = (2 * place + 1) * total // (2 * PLACES)
        n = bisect_right(ends, row)
        within.setdefault(n, []).append(row - (ends[n] - parts[n].counts.succeeded))
    return [
        _Share(parts[n], tuple(at), max(1, most_rows // PLACES), max(1, most_bytes // PLACES))
        for n, at in within.items()
    ]


def _read(store: Store, share: _Share, columns: Sequence[str] | None) -> pa.Table:
    part, where = share.part, f"{store.root}/{share.part.path}"
    access = RandomAccess(store, part.path, part.bytes)
    try:
        parsed = footers.parse(footers.fetch(store, part.path, part.bytes, where), part.bytes, where)
        names = _asked(parsed.schema.names, columns, where)
        file = pq.ParquetFile(
            pa.PythonFile(access, mode="r"),
            metadata=parsed.metadata,
            pre_buffer=False,
            buffer_size=_BUFFER,
            page_checksum_verification=True,
            **footers.THRIFT_LIMITS,
        )
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        tables = [_group(file, group, names, rows, size) for group, rows, size in _groups(share, parsed.metadata)]
        return pa.concat_tables([schema.empty_table(), *tables]).replace_schema_metadata(None)
    except InputError as e:
        raise OutputError(f"{where}: this part is damaged ({e}): {_ADVICE}") from e
    except (OSError, ValueError, pa.ArrowException) as e:
        if access.fault is not None and not isinstance(access.fault, FileNotFoundError):
            raise access.fault from None
        raise OutputError(f"{where}: this part is damaged ({' '.join(str(e).split())}): {_ADVICE}") from e


def _asked(there: Sequence[str], columns: Sequence[str] | None, where: str) -> list[str]:
    for name in columns or ():
        if name not in there:
            near = nearest(name, there)
            advice = f"did you mean {near!r}?" if near else f"it has {', '.join(map(repr, there[:12]))}"
            raise RefusedError(f"{where}: there is no column {name!r}; {advice}")
    return list(there) if columns is None else [name for name in there if name in columns]


def _groups(share: _Share, metadata: pq.FileMetaData) -> list[tuple[int, int, int]]:
    """Row groups that are read, with the rows and bytes of each."""
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    if share.at is None:
        total = max(1, sum(sizes))
        return [(n, size, max(1, share.bytes * size // total)) for n, size in enumerate(sizes) if share.rows]
    ends = list(accumulate(sizes))
    hits = Counter(min(bisect_right(ends, at), len(ends) - 1) for at in share.at) if ends else Counter()
    return [(n, share.rows * count, share.bytes * count) for n, count in sorted(hits.items())]


def _group(file: pq.ParquetFile, group: int, names: Sequence[str], most_rows: int, most_bytes: int) -> pa.Table:
    """Rows of a row group at equal distances, or of its beginning where it is large."""
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(names), use_threads=False):
        batches.append(batch)
        size += batch.nbytes
        if size >= most_bytes:
            break
    table = pa.Table.from_batches(batches, file.schema_arrow.empty_table().select(list(names)).schema)
    if table.num_rows <= most_rows:
        return table
    return table.take(pa.array(np.arange(most_rows) * table.num_rows // most_rows))

"""The dead rows of a job over all its generations: the newest letter of each, and what predicted the row after all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchinfer.data.dead_letters import DEAD_LETTER_SCHEMA
from batchinfer.errors import OutputError
from batchinfer.ledger.host import HERE, Host
from batchinfer.ledger.parts import Part
from batchinfer.plan.generation import Generation
from batchinfer.storage.store import Store


def letters(store: Store, parts: Iterable[Part], generations: Iterable[Generation], host: Host = HERE) -> pa.Table:
    """One dead letter for every row that ever died, in input order; `resolved_by` is the path of the part that settled it.

    Args:
        store: the output.
        parts: those that count, with what they retried.
        generations: all of the job.
        host: whose threads read.

    Raises:
        OutputError: a file of dead letters is gone or damaged.

    """
    ordered = sorted(parts, key=lambda p: p.shard)
    named = [p for p in ordered if p.dead_letters]
    with host.threads(8, "batchinfer-dead") as pool:
        tables = list(pool.map(lambda part: _read(store, part), named))
    table = pa.concat_tables([DEAD_LETTER_SCHEMA.empty_table(), *tables])
    newest = _last_of_each(table["row"].to_numpy())
    table = table.take(pa.array(newest))
    index = DEAD_LETTER_SCHEMA.get_field_index("resolved_by")
    return table.set_column(index, DEAD_LETTER_SCHEMA.field(index), _resolved_by(table, ordered, generations))


def counted(table: pa.Table) -> pa.Table:
    """Of those letters the ones whose rows are dead still."""
    return table.filter(pc.is_null(table["resolved_by"]))


def _last_of_each(values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each value stands last, by ascending value."""
    _, first = np.unique(values[::-1], return_index=True)
    return np.asarray(len(values) - 1 - first, np.intp)


def _resolved_by(table: pa.Table, parts: Sequence[Part], generations: Iterable[Generation]) -> pa.Array:
    """For each letter the path of a newer part that attempted its row, in which it didn't die again."""
    shards = {s.number: s for g in generations for s in g.shards if s.retries}
    retried = [p for p in parts if p.retries and p.counts.not_attempted == 0]
    paths: list[str | None] = [None] * len(table)
    if not retried or not len(table):
        return pa.array(paths, pa.string())
    spans = [shards[p.shard].job_rows() for p in retried]
    rows, by = np.concatenate(spans), np.repeat(np.arange(len(retried)), [len(s) for s in spans])
    newest = _last_of_each(rows)
    rows, by = rows[newest], by[newest]
    dead, left_by = table["row"].to_numpy(), table["shard"].to_numpy()
    at = np.minimum(np.searchsorted(rows, dead), len(rows) - 1)
    for n in np.flatnonzero(rows[at] == dead):
        part = retried[by[at[n]]]
        if part.shard > left_by[n]:
            paths[n] = part.path
    return pa.array(paths, pa.string())


def _read(store: Store, part: Part) -> pa.Table:
    path, advice = part.dead_letters, "put it back as it was, or begin anew with --restart"
    assert path is not None
    try:
        return pq.read_table(pa.BufferReader(store.read(path))).cast(DEAD_LETTER_SCHEMA)
    except FileNotFoundError as e:
        raise OutputError(
            f"{store.root}/{path}: {part.counts.dead:,} dead rows stood in this file, and it is gone: {advice}"
        ) from e
    except (OSError, ValueError, pa.ArrowException) as e:
        raise OutputError(f"{store.root}/{path}: this file of dead letters is damaged ({e}): {advice}") from e

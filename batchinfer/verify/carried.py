"""What a part carries from the input, and which rows `where` leaves, against the input as it stands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from batchinfer.data.part import PartWriter
from batchinfer.data.reader import Reader
from batchinfer.data.scan import ScannedInput
from batchinfer.data.schema import unify
from batchinfer.data.where import Where
from batchinfer.data.widen import widen
from batchinfer.ledger.parts import Decision
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import StorageOptions


class Original:
    """The pinned input.

    Args:
        scanned: its files, found to be as they were planned.
        where: the job's filter.
        window: rows that are held at once.
        options: fsspec options by URL prefix.

    """

    def __init__(self, scanned: ScannedInput, where: str | None, window: int, options: StorageOptions) -> None:
        self._scanned, self._where, self._window, self._options = scanned, where, window, options

    def differences(self, shard: Shard, decision: Decision, carried: pa.Table) -> Iterator[str]:
        """What differs, the first row of each column.

        Raises:
            InputError: the input can't be read.
            StorageError, AccessError: its store can't be read.

        """
        where = Where(self._where) if self._where else None
        needed = [*carried.schema.names, *(where.columns if where else ())]
        schema = unify(self._scanned.files, list(dict.fromkeys(needed))).schema
        for field in carried.schema:
            at, kind = schema.get_field_index(field.name), schema.field(field.name).type
            if (
                not kind.equals(field.type) and widen(kind, field.type) == field.type
            ):  # as other files of the job have it
                schema = schema.set(at, field)
            elif not kind.equals(field.type):
                yield f"the column {field.name!r} is {field.type}, and {schema.field(field.name).type} in the input"
                return
        at = 0
        reader = Reader(schema, where, self._options, columns=carried.schema.names)
        for window in reader.windows(shard.ranges, self._window):
            span = np.arange(window.first, window.first + window.rows)
            if not np.array_equal(np.intersect1d(span, decision.filtered), np.setdiff1d(span, window.ordinals)):
                yield f"rows {shard.first + window.first:,} and on: others pass `where` than the part's footer says"
                return
            alive = ~np.isin(window.ordinals, decision.dead)
            expected = window.table.filter(pa.array(alive))
            rows = int(alive.sum())
            found = carried.slice(at, rows)
            for name in carried.schema.names:
                row = _first_difference(found.select([name]), expected.select([name]))
                if row is not None:
                    ((path, source_row),) = window.sources([int(window.ordinals[alive][row])])
                    yield f"row {at + row:,}, column {name!r}: another value than row {source_row:,} of {path}"
                    return
            at += rows


def _first_difference(a: pa.Table, b: pa.Table) -> int | None:
    """The first row that differs in two tables of equal schema; None where none does."""
    if len(a) != len(b):
        return min(len(a), len(b))
    if _same(a, b):
        return None
    low, high = 0, len(a)  # the first `low` rows are the same, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if _same(a.slice(low, middle - low), b.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low


def _same(a: pa.Table, b: pa.Table) -> bool:
    """Whether the values are the same, NaN being the same as NaN: equal rows give equal bytes in a part."""
    return a.equals(b) or _bytes(a) == _bytes(b)


def _bytes(table: pa.Table) -> bytes:
    writer = PartWriter(table.schema.remove_metadata(), "none")
    writer.write(table.replace_schema_metadata(None))
    return writer.finish({})

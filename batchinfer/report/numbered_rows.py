"""The rows of an output by the job's numbers of them, read forward through its parts, rows of retries at their places."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data import footer as footers
from batchinfer.data.inputs import InputFile
from batchinfer.data.part import ours
from batchinfer.data.stream import FileStream
from batchinfer.errors import InputError, OutputError
from batchinfer.ledger.parts import Decision, Part
from batchinfer.plan.extension import standing_shards
from batchinfer.plan.shards import Shard
from batchinfer.report.columns import plain
from batchinfer.report.standing import StandingOutput

_ADVICE = "put it back from a copy, or begin anew with --restart"


@dataclass(frozen=True)
class Rows:
    """What became of some consecutive rows of a job."""

    numbers: NDArray[np.int64]
    """The job's numbers of the rows that are predicted, ascending, shape (n,)."""
    table: pa.Table
    """Of n rows."""
    dead: NDArray[np.int64]
    """Numbers of the dead ones."""


class NumberedRows:
    """An output's rows by number. What was read is let go of when a later row is asked for, so that memory holds a few parts' windows.

    Args:
        output: as it stands.
        columns: that are read, carried or computed.

    """

    def __init__(self, output: StandingOutput, columns: Sequence[str]) -> None:
        self._output, self._columns = output, tuple(columns)
        shards = standing_shards(output.generations)
        self._shards = {p.shard: shards[p.shard] for p in output.parts}
        self._planned = sorted((p for p in output.parts if not p.retries), key=lambda p: shards[p.shard].first)
        self._firsts = [shards[p.shard].first for p in self._planned]
        self._retried = [p for p in output.parts if p.retries]
        self._extents = {p.shard: _extent(shards[p.shard]) for p in output.parts}
        self._opened: dict[int, _OpenPart] = {}
        self.stop = max((stop for _, stop in self._extents.values()), default=0)
        """One beyond the last number."""

    def read(self, start: int, stop: int) -> Rows:
        """The rows with the numbers `[start, stop)`.

        Raises:
            OutputError: a part is gone or damaged, or lacks a column.
            StorageError, AccessError: the store can't be read.

        """
        numbers: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        dead: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        tables: list[pa.Table] = []
        for part in self._between(start, stop):
            found = self._open(part)
            begin, end = np.searchsorted(found.numbers, [start, stop])
            numbers.append(found.numbers[begin:end])
            dead.append(found.dead[slice(*np.searchsorted(found.dead, [start, stop]))])
            tables += found.rows(int(begin), int(end))
        self._let_go(stop)
        order = np.argsort(together := np.concatenate(numbers), kind="stable")
        table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        ascending = bool((np.diff(order) == 1).all())
        return Rows(
            together[order],
            table if ascending else table.take(pa.array(order)),
            np.setdiff1d(np.concatenate(dead), together),
        )

    def _between(self, start: int, stop: int) -> list[Part]:
        first = max(0, bisect_right(self._firsts, start) - 1)
        parts = self._planned[first : bisect_right(self._firsts, stop - 1)]
        return [
            *parts,
            *(p for p in self._retried if self._extents[p.shard][0] < stop and self._extents[p.shard][1] > start),
        ]

    def _open(self, part: Part) -> _OpenPart:
        if part.shard not in self._opened:
            self._opened[part.shard] = _OpenPart(self._output, part, self._shards[part.shard], self._columns)
        return self._opened[part.shard]

    def _let_go(self, stop: int) -> None:
        for number in [n for n in self._opened if self._extents[n][1] <= stop]:
            del self._opened[number]


def _extent(shard: Shard) -> tuple[int, int]:
    """The number of a shard's first row, and one beyond that of its last."""
    if not shard.rows_at:
        return shard.first, shard.first + shard.rows
    return shard.rows_at[0], shard.rows_at[-1] + shard.ranges[-1].rows


class _OpenPart:
    """A part that is being read."""

    def __init__(self, output: StandingOutput, part: Part, shard: Shard, columns: Sequence[str]) -> None:
        store = output.store
        self._where = f"{store.root}/{part.path}"
        self._columns = columns
        try:
            footer = footers.parse(footers.fetch(store, part.path, part.bytes, self._where), part.bytes, self._where)
            decision = Decision.from_metadata(ours(footer.metadata), self._where)
            rows = shard.job_rows()
            self.dead = rows[decision.dead]
            gone = (
                np.arange(len(rows))
                if decision.counts.not_attempted
                else np.concatenate([decision.dead, decision.filtered])
            )
            self.numbers = np.delete(rows, gone)
            if len(self.numbers) != footer.metadata.num_rows:
                raise OutputError(
                    f"{self._where}: this part is damaged: it holds other rows than its footer says: {_ADVICE}"
                )
            for name in columns:
                if name not in footer.schema.names:
                    raise OutputError(f"{self._where}: this part has no column {name!r}: was it altered? {_ADVICE}")
            schema = pa.schema([footer.schema.field(name) for name in columns]).remove_metadata()
            file = InputFile(self._where, part.bytes, "", footer.digest, footer.metadata.num_rows)
            self._stream = FileStream(store, part.path, file, schema)
        except (InputError, IndexError) as e:
            raise OutputError(f"{self._where}: this part is damaged ({e}): {_ADVICE}") from e

    def rows(self, start: int, stop: int) -> list[pa.Table]:
        """Rows of the part, without dictionaries."""
        try:
            return [_plain(table) for _, table in self._stream.rows(start, stop, max(1, stop - start))]
        except InputError as e:
            raise OutputError(f"{self._where}: this part is damaged ({e}): {_ADVICE}") from e


def _plain(table: pa.Table) -> pa.Table:
    return pa.table(
        {name: pa.chunked_array([plain(c) for c in table.column(name).chunks]) for name in table.schema.names}
    )

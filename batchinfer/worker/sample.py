"""Rows of a job to measure on: its first ones, and some that are spread over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from batchinfer.data.reader import Reader
from batchinfer.errors import InputError
from batchinfer.measure.comparison import Sample
from batchinfer.pipeline.graph import Graph
from batchinfer.plan.fingerprint import digest_of
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context
from batchinfer.worker.trial import Trial, open_reader

SHARDS = 8
"""A sample comes from so many shards: each costs the reading of one window."""
READ_WHOLE = 4
"""A job of at most so many times the sample's rows is read as a whole, so that a small one is known to its last row."""


class JobSample:
    """Rows of the shards that are left.

    Args:
        context: the job.
        graph: its steps.
        shards: in input order.
        trial: reads a shard in a child process first; None for shards that have ended no process.

    """

    def __init__(self, context: Context, graph: Graph, shards: Sequence[Shard], trial: Trial | None) -> None:
        self._context, self._shards, self._trial = context, shards, trial
        self._inputs = list(graph.needed)
        labels = [step.gate.label for step in context.spec.models if step.gate != "off" and step.gate.label is not None]
        self._columns = list(dict.fromkeys([*self._inputs, *labels]))

    @property
    def rows(self) -> int:
        """Rows that are read, before `where`."""
        return sum(r.rows for s in self._shards for r in s.ranges if not r.pruned)

    def first(self) -> Iterator[pa.Table]:
        """The input columns from the first row on that can be read: a shard with damaged rows is left to its own turn, unless there
        is no other.
        """
        reader = open_reader(self._context)
        seen, refused = False, None
        for shard in self._shards:
            try:
                for table in self._windows(reader, shard):
                    seen = True
                    yield table.select(self._inputs)
            except InputError as e:
                refused = refused or e
        if refused is not None and not seen:
            raise refused

    def spread(self, most: int) -> Sample | None:
        """At most so many rows, from the first windows of shards spread over the job, evenly from each window.

        All rows of a small job. Where shards are in quarantine, the rows of the first ones that suffice: each must be read in a
        process of its own before. None where no row can be read.
        """
        reader = open_reader(self._context)
        small = self.rows <= READ_WHOLE * most
        picked = self._shards if small or self._trial else _evenly(self._shards, SHARDS)
        share = most if small or self._trial else -(-most // max(1, len(picked)))
        tables: list[pa.Table] = []
        used: list[Shard] = []
        damaged = False
        for shard in picked:
            if not small and sum(map(len, tables)) >= most:
                break
            try:
                tables += self._some(reader, shard, None if small else share)
                used.append(shard)
            except InputError:  # left to its own turn
                damaged = True
        rows = pa.concat_tables(tables) if tables else None
        if rows is None or not len(rows):
            return None
        whole = small and not damaged and len(rows) <= most
        chosen = rows.take(_positions(len(rows), most)) if len(rows) > most else rows
        which = [[s.number, s.first, s.rows, [list(r) for r in s.retries]] for s in used]
        digest = digest_of([self._context.rows, most, small, which]) if self._context.rows else ""
        return Sample(chosen.unify_dictionaries().combine_chunks(), whole, digest)

    def _some(self, reader: Reader, shard: Shard, most: int | None) -> list[pa.Table]:
        """Rows of a shard: all, or so many, evenly from each of the windows that are needed for them."""
        tables: list[pa.Table] = []
        left = most
        for table in self._windows(reader, shard):
            if left is None:
                tables.append(table.select(self._columns))
                continue
            tables.append(table.take(_positions(len(table), left)).select(self._columns))
            left -= len(tables[-1])
            if left <= 0:
                break
        return tables

    def _windows(self, reader: Reader, shard: Shard) -> Iterator[pa.Table]:
        if self._trial is not None:
            self._trial.read(shard)
        for window in reader.windows(shard.ranges, self._context.reading.window):
            if len(window.table):
                yield window.table


def _evenly(shards: Sequence[Shard], count: int) -> list[Shard]:
    return [shards[int(n)] for n in _positions(len(shards), count)]


def _positions(rows: int, most: int) -> np.ndarray:
    """At most so many positions, evenly over so many rows, ascending."""
    return np.unique(np.linspace(0, max(0, rows - 1), min(rows, most)).astype(np.int64))

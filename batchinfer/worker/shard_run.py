"""One shard on its way through a worker: what is finished, what is checkpointed, and the part that grows."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.data.dead_letters import DeadRow, to_bytes
from batchinfer.data.part import PartWriter
from batchinfer.data.reader import Window
from batchinfer.engines.protocol import Engine
from batchinfer.ledger import chunks, parts
from batchinfer.ledger.host import HERE, Host
from batchinfer.ledger.parts import Counts, Decision, Part
from batchinfer.measure.settings import Settings
from batchinfer.plan.plan import input_columns
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store
from batchinfer.worker.context import Context, Outcome, RowError, Seconds, Usage
from batchinfer.worker.quotes import without_values


@dataclass
class WindowRows:
    """The rows of a window that are still out, and the results that are in (tables of the chunk's schema)."""

    window: Window
    missing: int
    results: list[pa.Table] = field(default_factory=list)

    def add(self, results: pa.Table) -> bool:
        """Take results in; True when the window is complete."""
        self.results.append(results)
        self.missing -= len(results)
        return self.missing == 0

    def in_order(self) -> pa.Table:
        """All results in input order."""
        table = pa.concat_tables(self.results).combine_chunks()
        ordinals = table["_ordinal"].to_numpy()
        if np.any(ordinals[1:] <= ordinals[:-1]):
            table = table.take(pa.array(np.argsort(ordinals)))
        return table


class ShardRun:
    """Collects a shard's results and commits its part.

    What grows (`accept`, `checkpoint`, `commit`) belongs to the worker's writing thread; any stage may call the others.
    """

    def __init__(
        self,
        shard: Shard,
        context: Context,
        settings: Settings,
        store: Store,
        outcome: Future[Outcome],
        engine: Engine,
        host: Host = HERE,
        *,
        quarantined: bool = False,
    ) -> None:
        self.shard = shard
        self.outcome = outcome
        self.engine, self.quarantined = engine, quarantined
        self.halved = 0
        """Batches that did not fit into memory."""
        self.error: BaseException | None = None
        self._seconds = dict.fromkeys(Seconds.__dataclass_fields__, 0.0)
        self._rows = self._batches = self._tokens = self._padded = 0
        self._counting = threading.Lock()
        self._context, self._settings, self._store, self._host = context, settings, store, host
        self._step, self._secrets = context.spec.steps[0], context.spec.secrets
        self._chunk_schema = chunks.schema(settings.outputs)
        carried = [context.reading.schema.field(c) for c in context.reading.carry]
        self._schema = pa.schema([*carried, *settings.outputs])
        compression = context.spec.output.compression
        self._writer = PartWriter(self._schema, compression, context.reading.window)
        self._unsaved: list[pa.Table] = []
        self._unsaved_since: float | None = None
        self._storing = 0.0
        """Seconds that the last checkpoint took."""
        self._dead: list[DeadRow] = []
        self._dead_ordinals: list[int] = []
        self._filtered: list[NDArray[np.int64]] = []
        self._succeeded = self._truncated = 0
        self._complete: dict[int, WindowRows] = {}
        self._next = 0
        self.checkpointed = chunks.load(store, context.job, shard.number, settings.outputs, settings.digest)
        self.known = self.checkpointed["_ordinal"].to_numpy()

    def fail(self, error: BaseException) -> None:
        """Give the shard up: what is still on its way is dropped. The first error counts."""
        if self.error is None:
            self.error = error

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage, a field of `Seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add time to a stage, a field of `Seconds`."""
        with self._counting:
            self._seconds[stage] += seconds

    def count(self, lengths: NDArray[np.int64] | None, rows: NDArray[np.intp]) -> None:
        """Count a batch that the model saw: rows, and tokens with and without padding."""
        some = lengths[rows] if lengths is not None and len(rows) else None
        with self._counting:
            self._batches += 1
            self._rows += len(rows)
            self._begin_unsaved()
            if some is not None:
                self._tokens += int(some.sum())
                self._padded += int(some.max()) * len(rows)

    @property
    def usage(self) -> Usage:
        """What the shard cost so far."""
        return Usage(Seconds(**self._seconds), self._rows, self._batches, self._tokens, self._padded, self.halved)

    def no_rows(self) -> pa.Table:
        """Results of a window that has no rows left."""
        return self._chunk_schema.empty_table()

    def from_checkpoint(self, ordinals: NDArray[np.int64]) -> pa.Table | None:
        """The checkpointed results of these rows; None unless every one of them is there."""
        if not len(self.known) or not len(ordinals):
            return None
        at = np.searchsorted(self.known, ordinals)
        if at.max() >= len(self.known) or not np.array_equal(self.known[at], ordinals):
            return None
        return self.checkpointed.take(pa.array(at))

    def results(
        self,
        ordinals: NDArray[np.int64],
        outputs: list[pa.Array],
        truncated: NDArray[np.bool_] | None,
        invalid: dict[int, RowError],
    ) -> pa.Table:
        """Rows that the model answered, as a table of the chunk's schema; those with an invalid output are dead."""
        count = len(ordinals)
        dead = (
            pa.array([self._letter(e) if (e := invalid.get(n)) else None for n in range(count)], chunks.DEAD_TYPE)
            if invalid
            else pa.nulls(count, chunks.DEAD_TYPE)
        )
        cut = pa.array(np.zeros(count, np.bool_) if truncated is None else truncated)
        if invalid:
            alive = dead.is_null()
            outputs = [_nulled(o, alive) for o in outputs]
        return pa.Table.from_arrays([pa.array(ordinals), cut, dead, *outputs], schema=self._chunk_schema)

    def dead_rows(self, window: Window, ordinals: NDArray[np.int64], errors: list[RowError]) -> pa.Table:
        """Rows of a window that the model could not answer, as a table of the chunk's schema."""
        count = len(ordinals)
        empty = [pa.nulls(count, f.type) for f in self._settings.outputs]
        shown = self._context.reading.key  # it names the row
        inputs = [name for name in input_columns(self._step) if name != shown]
        rows = window.table.select(inputs).take(pa.array(np.searchsorted(window.ordinals, ordinals))).to_pylist()
        told = (replace(e, message=without_values(e.message, r.values())) for e, r in zip(errors, rows, strict=True))
        dead = pa.array([self._letter(e) for e in told], chunks.DEAD_TYPE)
        return pa.Table.from_arrays(
            [pa.array(ordinals), pa.array(np.zeros(count, np.bool_)), dead, *empty], schema=self._chunk_schema
        )

    def _letter(self, error: RowError) -> Mapping[str, object]:
        return replace(error, message=self._secrets.hide(error.message)).to_json()

    def accept(self, rows: WindowRows, results: pa.Table, *, fresh: bool) -> None:
        """Take the results of a batch; complete windows go into the part, in input order. `fresh`: no checkpoint holds them yet."""
        if fresh:
            self._unsaved.append(results)
            self._begin_unsaved()
        if rows.add(results):
            self._complete[rows.window.first] = rows
        while (whole := self._complete.pop(self._next, None)) is not None:
            self._write(whole)
            self._next += whole.window.rows

    def _begin_unsaved(self) -> None:
        """The interval begins with the model's first answer, not when that is taken in: the part before may still be stored."""
        if self._unsaved_since is None:
            self._unsaved_since = self._host.monotonic()

    def checkpoint_due(self) -> bool:
        """Whether results must be made durable now, to be so within the interval.

        What storing takes belongs to the interval, as the model goes on meanwhile; a slow store is left alone as long as it takes,
        and for an interval at most.
        """
        if not self._unsaved or self._unsaved_since is None:
            return False
        interval, storing = self._context.spec.checkpoint.interval, self._storing
        pause = max(interval - storing, storing + min(storing, interval))
        return self._host.monotonic() - self._unsaved_since >= pause

    def checkpoint(self) -> None:
        """Make what is finished durable."""
        if not self._unsaved:
            return
        self._unsaved_since = self._host.monotonic()
        table = pa.concat_tables(self._unsaved)
        chunks.put(self._store, self._context.job, self.shard.number, table, self._step.name, self._settings.digest)
        self._unsaved = []
        self._storing = self._host.monotonic() - self._unsaved_since

    def _write(self, rows: WindowRows) -> None:
        results = rows.in_order()
        window = rows.window
        span = np.arange(window.first, window.first + window.rows)
        self._filtered.append(np.setdiff1d(span, window.ordinals, assume_unique=True))
        dead = results["_dead"].is_valid()
        carried = window.table.select(list(self._context.reading.carry))
        if pc.any(dead).as_py():
            self._note_dead(window, results.filter(dead))
            alive = pc.invert(dead)
            results, carried = results.filter(alive), carried.filter(alive)
        self._succeeded += len(results)
        self._truncated += pc.sum(results["_truncated"]).as_py() or 0
        outputs = [results[f.name] for f in self._settings.outputs]
        self._writer.write(pa.Table.from_arrays([*carried.columns, *outputs], schema=self._schema))

    def _note_dead(self, window: Window, dead: pa.Table) -> None:
        at = np.searchsorted(window.ordinals, dead["_ordinal"].to_numpy())
        key = self._context.reading.key
        keys = window.table[key].take(pa.array(at)).to_pylist() if key else [None] * len(at)
        ordinals, errors = dead["_ordinal"].to_pylist(), dead["_dead"].to_pylist()
        sources = window.sources(ordinals)
        for ordinal, (path, source_row), error, name in zip(ordinals, sources, errors, keys, strict=True):
            self._dead_ordinals.append(ordinal)
            self._dead.append(
                DeadRow(
                    shard=self.shard.number,
                    row=int(self._job_rows[ordinal]),
                    source_file=path,
                    source_row=source_row,
                    key=None if name is None else str(name),
                    step=self._step.name,
                    **error,
                )
            )

    @functools.cached_property
    def _job_rows(self) -> NDArray[np.int64]:
        return self.shard.job_rows()

    def commit(self) -> Part:
        """Encode the part and decide the shard."""
        dead_letters = to_bytes(self._dead) if self._dead else None
        filtered = np.concatenate(self._filtered) if self._filtered else np.empty(0, np.int64)
        counts = Counts(self.shard.rows, self._succeeded, len(self._dead), len(filtered), 0, self._truncated)
        counts.check(f"shard {self.shard.number}")
        decision = Decision(
            self.shard.number,
            self.shard.first,
            counts,
            np.array(sorted(self._dead_ordinals), np.int64),
            filtered,
            hashlib.sha256(dead_letters).hexdigest() if dead_letters else None,
        )
        data = self._writer.finish(decision.to_metadata())
        return parts.commit(self._store, self._context.job, decision, data, dead_letters)


def _nulled(array: pa.Array, alive: pa.Array) -> pa.Array:
    """The values with nulls where not alive. Taking works for every type; choosing by `if_else` doesn't."""
    index = pc.if_else(alive, pa.array(np.arange(len(array))), pa.scalar(None, pa.int64()))
    return array.take(index)

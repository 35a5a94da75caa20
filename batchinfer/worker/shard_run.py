"""One shard on its way through a worker: what is finished, what is checkpointed, and the part that grows."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

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
from batchinfer.pipeline.graph import Graph
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store
from batchinfer.worker.context import Context, Outcome, RowError, Usage
from batchinfer.worker.failures import row_error
from batchinfer.worker.quotes import without_values
from batchinfer.worker.recall import Recall
from batchinfer.worker.stage_times import StageTimes
from batchinfer.worker.step_run import StepRun
from batchinfer.worker.window_rows import WindowRows


class ShardRun:
    """Collects a shard's results and commits its part.

    What grows (`accept`, `checkpoint`, `commit`) belongs to the worker's writing thread; any stage may call the others.
    """

    def __init__(
        self,
        shard: Shard,
        context: Context,
        graph: Graph,
        settings: Settings,
        store: Store,
        outcome: Future[Outcome],
        engines: Sequence[Engine],
        recalls: Sequence[Recall | None],
        host: Host = HERE,
        *,
        quarantined: bool = False,
        times: StageTimes | None = None,
    ) -> None:
        self.shard = shard
        self.times = StageTimes() if times is None else times
        self.outcome = outcome
        self.quarantined = quarantined
        self.error: BaseException | None = None
        self._counting = threading.Lock()
        self._context, self._graph, self._settings, self._store, self._host = context, graph, settings, store, host
        self._secrets = context.spec.secrets
        known = chunks.load(
            store,
            context.job,
            shard.number,
            {name: step.outputs for name, step in settings.steps.items()},
            settings.digest,
        )
        self.steps = [
            StepRun(node, settings.steps[node.name], engine, known[node.name], recall)
            for node, engine, recall in zip(graph.nodes, engines, recalls, strict=True)
        ]
        """In running order."""
        carried = [context.reading.schema.field(c) for c in context.reading.carry]
        self._schema = pa.schema([*carried, *settings.outputs])
        compression = context.spec.output.compression
        self._writer = PartWriter(self._schema, compression, context.reading.window)
        self._unsaved_since: float | None = None
        self._storing = 0.0
        """Seconds that the last checkpoint took."""
        self._dead: list[DeadRow] = []
        self._dead_ordinals: list[int] = []
        self._filtered: list[NDArray[np.int64]] = []
        self._succeeded = self._truncated = 0
        self._complete: dict[int, WindowRows] = {}
        self._next = 0
        self._open = 0
        self._over: Callable[[], None] | None = None

    def fail(self, error: BaseException) -> None:
        """Give the shard up: what is still on its way is dropped. The first error counts."""
        with self._counting:
            if self.error is None:
                self.error = error
            over, self._over = self._over, None
        if over is not None:
            over()

    def count(self, window: WindowRows, lengths: NDArray[np.int64] | None, rows: NDArray[np.intp]) -> None:
        """Count a batch that a step saw, see `StepRun.count`."""
        with self._counting:
            self._begin_unsaved()
        self.at(window).count(lengths, rows)

    def at(self, window: WindowRows) -> StepRun:
        """The step that a window is at."""
        return self.steps[window.step]

    @property
    def usage(self) -> Usage:
        """What the shard cost so far."""
        return Usage(self.times.seconds, {step.node.name: step.usage for step in self.steps})

    def begin(self, window: Window) -> WindowRows:
        """A window at the first step that takes rows of it."""
        rows = WindowRows(window, self._graph)
        with self._counting:
            self._open += 1
        self._to_next(rows)
        return rows

    @property
    def open(self) -> int:
        """Windows that were begun and are not complete; none where what is on its way is of no use."""
        return 0 if self.error is not None else self._open

    def is_over(self, otherwise: Callable[[], None]) -> bool:
        """Whether no window is on its way any more; `otherwise` is called once that is so, on the thread that makes it so.

        Call it once all windows were begun.
        """
        with self._counting:
            self._over = otherwise if self.open else None
            return self._over is None

    def _to_next(self, rows: WindowRows) -> None:
        """To the next step that takes rows of a window; the others have given it nothing."""
        while True:
            ordinals, errors = rows.go_on()
            if errors:
                rows.add(self.dead_rows(rows, ordinals, [row_error(e, attempts=1) for e in errors]))
            if rows.is_through or rows.missing:
                return
            self._leave(rows)

    def _leave(self, rows: WindowRows) -> None:
        """Have a window leave a step that has answered all that it took."""
        step = self.at(rows)
        skip = step.node.step.errors.on_failure == "skip"
        failed = rows.leave(step.settings.outputs.names, step.schema, skip=skip)
        step.skipped += failed if skip else 0

    def results(
        self,
        window: WindowRows,
        ordinals: NDArray[np.int64],
        outputs: list[pa.Array],
        truncated: NDArray[np.bool_] | None,
        invalid: dict[int, RowError],
    ) -> pa.Table:
        """Rows that a step answered, as a table of its chunk's schema; those with an invalid output are dead."""
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
        return pa.Table.from_arrays([pa.array(ordinals), cut, dead, *outputs], schema=self.at(window).schema)

    def dead_rows(self, window: WindowRows, ordinals: NDArray[np.int64], errors: list[RowError]) -> pa.Table:
        """Rows of a window that its step could not answer, as a table of the chunk's schema."""
        count, step = len(ordinals), self.at(window)
        empty = [pa.nulls(count, f.type) for f in step.settings.outputs]
        shown = self._context.reading.key  # it names the row
        seen = window.looked_at(ordinals)
        rows = seen.select([name for name in seen.column_names if name != shown]).to_pylist()
        told = (replace(e, message=without_values(e.message, r.values())) for e, r in zip(errors, rows, strict=True))
        dead = pa.array([self._letter(e) for e in told], chunks.DEAD_TYPE)
        return pa.Table.from_arrays(
            [pa.array(ordinals), pa.array(np.zeros(count, np.bool_)), dead, *empty], schema=step.schema
        )

    def _letter(self, error: RowError) -> Mapping[str, object]:
        return replace(error, message=self._secrets.hide(error.message)).to_json()

    def accept(self, rows: WindowRows, results: pa.Table, *, fresh: bool) -> bool:
        """Take the results of a batch; True where its window must be prepared: for another step, or for rows that waited for others.

        Complete windows go into the part, in input order. `fresh`: no checkpoint holds the results yet.
        """
        if not rows.is_through:
            step = self.at(rows)
            if fresh and step.node.is_model:
                step.unsaved.append(results)
                self._begin_unsaved()
            if fresh and step.recall is not None:
                step.recall.note(rows, results)
            if not rows.add(results):
                return rows.waits
            self._leave(rows)
            self._to_next(rows)
            if not rows.is_through:
                return True
        self._complete[rows.window.first] = rows
        while (whole := self._complete.pop(self._next, None)) is not None:
            self._write(whole)
            self._next += whole.window.rows
        with self._counting:
            self._open -= 1
            over, self._over = (None, self._over) if self._open else (self._over, None)
        if over is not None:
            over()
        return False

    def _begin_unsaved(self) -> None:
        """The interval begins with the model's first answer, not when that is taken in: the part before may still be stored."""
        if self._unsaved_since is None:
            self._unsaved_since = self._host.monotonic()

    def checkpoint_due(self) -> bool:
        """Whether results must be made durable now, to be so within the interval.

        What storing takes belongs to the interval, as the model goes on meanwhile; a slow store is left alone as long as it takes,
        and for an interval at most.
        """
        if self._unsaved_since is None or not any(step.unsaved for step in self.steps):
            return False
        interval, storing = self._context.spec.checkpoint.interval, self._storing
        pause = max(interval - storing, storing + min(storing, interval))
        return self._host.monotonic() - self._unsaved_since >= pause

    def checkpoint(self) -> None:
        """Make what is finished durable."""
        unsaved = [step for step in self.steps if step.unsaved]
        if not unsaved:
            return
        self._unsaved_since = began = self._host.monotonic()
        for step in unsaved:
            table = pa.concat_tables(step.unsaved)
            chunks.put(self._store, self._context.job, self.shard.number, table, step.node.name, self._settings.digest)
            step.unsaved = []
        self._storing = self._host.monotonic() - began

    def _write(self, rows: WindowRows) -> None:
        window, passage = rows.window, rows.passage
        span = np.arange(window.first, window.first + window.rows)
        self._filtered.append(np.setdiff1d(span, window.ordinals, assume_unique=True))
        alive = passage.alive
        for unanswered in rows.unanswered:
            self._note_dead(window, unanswered.results, self.steps[unanswered.step].node.name)
        carried = window.table.select(list(self._context.reading.carry))
        if len(alive) < len(passage):
            carried = carried.take(pa.array(alive))
        self._succeeded += len(alive)
        self._truncated += int(rows.truncated[alive].sum())
        outputs = passage.select(self._graph.written, alive).columns
        used = [] if self._graph.step_used is None else [passage.used(alive)]
        self._writer.write(pa.Table.from_arrays([*carried.columns, *outputs, *used], schema=self._schema))

    def _note_dead(self, window: Window, dead: pa.Table, step: str) -> None:
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
                    step=step,
                    **error,
                )
            )

    @functools.cached_property
    def _job_rows(self) -> NDArray[np.int64]:
        return self.shard.job_rows()

    def commit(self) -> Part:
        """Encode the part and decide the shard."""
        dead_letters = to_bytes(sorted(self._dead, key=lambda row: row.row)) if self._dead else None
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

"""A step's memory in a worker: rows whose content it has answered before are not predicted again.

Of a window, rows go three ways: those whose answer is known have it at once; the first of those with equal content goes to the model; the
others of them, and those whose like is on its way in a batch before, wait until the window's own rows are answered, and then have that
answer too. Batches are answered in their order, so what they wait for is there by then; where it isn't, since that row was dead or its
shard ended, they go to the model themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.row_keys import row_keys
from batchinfer.engines.registry import reads_files
from batchinfer.job.steps import Step
from batchinfer.ledger import chunks
from batchinfer.measure.settings import StepSettings
from batchinfer.pipeline.answers import Answers
from batchinfer.pipeline.graph import Node
from batchinfer.pipeline.prediction_cache import FORM, PredictionCache
from batchinfer.plan.fingerprint import digest_of
from batchinfer.storage.store import open_store
from batchinfer.worker.context import Context
from batchinfer.worker.step_run import StepRun
from batchinfer.worker.window_rows import WindowRows

_LEAST_BYTES, _MOST_BYTES, _SECONDS = 4 << 20, 64 << 20, 10.0
"""What is new is stored at the end of a shard where there is so much of it, or so long after the last time; and when there is more."""


class Recall:
    """See above. Preparing asks, writing tells: any thread may call.

    Args:
        step: the step.
        outputs: the columns that it writes.
        cache: where answers outlive the run; None for those of this run alone.

    """

    def __init__(self, step: Step, outputs: pa.Schema, cache: PredictionCache | None) -> None:
        self._step, self._cache = step, cache
        self._answers = Answers()
        self._columns = ["_truncated", *outputs.names]
        self._asked: set[bytes] = set()
        """Keys of rows that are on their way to the model."""
        self._new: list[tuple[list[bytes], pa.Table]] = []
        """Answers that the cache doesn't have yet."""
        self._new_bytes = 0
        self._stored = time.monotonic()
        self._lock = threading.Lock()

    def look(self, rows: WindowRows, step: StepRun) -> pa.Table | None:
        """Results of a window's rows that need no model; the others, the window is narrowed to.

        None where that is nothing. A table without rows where the model isn't needed now: what is still missing waits.
        """
        if rows.followers is not None:
            return self._late(rows, step)
        rows.keys = self._keys(rows.table)
        every = np.arange(len(rows.keys))
        known, table = step.checkpointed_among(rows.taken)
        with self._lock:
            if len(table):
                self._note([rows.keys[at] for at in known], table, new=False)
            rest = np.setdiff1d(every, known)
            positions, answered = self._find(rows.keys, rest)
            rest = np.setdiff1d(rest, positions)
            leaders: list[int] = []
            for at in rest:
                if (key := rows.keys[at]) not in self._asked:
                    self._asked.add(key)
                    leaders.append(int(at))
        step.reuse(len(rest) - len(leaders) + len(positions))
        found = [table] if len(table) else []
        if answered is not None:
            found.append(self._results(rows.taken[positions], answered, step))
        rows.narrow(np.array(leaders, np.intp), followers=np.setdiff1d(rest, leaders))
        if found:
            return pa.concat_tables(found)
        return None if leaders else step.no_rows()

    def _late(self, rows: WindowRows, step: StepRun) -> pa.Table | None:
        """The same for rows that waited for others: what they waited for is known by now, or the model has to answer them."""
        assert rows.keys is not None
        assert rows.followers is not None
        with self._lock:
            positions, answered = self._find(rows.keys, rows.followers)
        rest = np.setdiff1d(rows.followers, positions)
        step.reuse(-len(rest))
        results = None if answered is None else self._results(rows.taken[positions], answered, step)
        rows.narrow(rest, followers=None)
        return results

    def _find(self, keys: Sequence[bytes], some: NDArray[np.intp]) -> tuple[NDArray[np.intp], pa.Table | None]:
        """Which of some rows are known, and their answers in this order."""
        wanted = [keys[at] for at in some]
        at, table = self._answers.find(wanted)
        if self._cache is None or len(at) == len(some):
            return some[at], table
        left = np.setdiff1d(np.arange(len(some)), at)
        more, stored = self._cache.find([wanted[n] for n in left])
        tables = [t for t in (table, stored) if t is not None]
        return some[np.concatenate([at, left[more]])], pa.concat_tables(tables) if tables else None

    def _keys(self, table: pa.Table) -> list[bytes]:
        named = ((columns,) if isinstance(columns, str) else columns for columns in self._step.inputs.values())
        return row_keys([table.column(column) for columns in named for column in columns])

    def _results(self, ordinals: NDArray[np.int64], answers: pa.Table, step: StepRun) -> pa.Table:
        dead = pa.nulls(len(answers), chunks.DEAD_TYPE)
        columns = [pa.array(ordinals), answers.column(0), dead, *answers.columns[1:]]
        return pa.Table.from_arrays(columns, schema=step.schema)

    def note(self, rows: WindowRows, results: pa.Table) -> None:
        """Take in what a model has just answered, of a window that `look` has seen."""
        assert rows.keys is not None
        keys = [rows.keys[at] for at in np.searchsorted(rows.taken, results["_ordinal"].to_numpy())]
        with self._lock:
            self._asked.difference_update(keys)
            self._note(keys, results, new=True)

    def _note(self, keys: list[bytes], results: pa.Table, *, new: bool) -> None:
        dead = results["_dead"]
        if dead.null_count < len(results):
            alive = np.flatnonzero(np.asarray(dead.is_null()))
            keys, results = [keys[at] for at in alive], results.take(pa.array(alive))
        answers = results.select(self._columns).rename_columns(["_truncated", *self._step.outputs])
        self._answers.add(keys, answers)
        if new and self._cache is not None:
            self._new.append((keys, answers))
            self._new_bytes += answers.nbytes

    def store(self, *, whole: bool = False) -> None:
        """Have the cache store what is new: where that is due, or all of it."""
        if self._cache is None:
            return
        due = self._new_bytes >= _LEAST_BYTES or time.monotonic() - self._stored >= _SECONDS
        with self._lock:
            if not self._new or not (whole or due):
                return
            new, self._new, self._new_bytes = self._new, [], 0
        keys = [key for some, _ in new for key in some]
        segment = self._cache.add(keys, pa.concat_tables([table for _, table in new]))
        self._stored = time.monotonic()
        if segment is not None:
            with self._lock:
                self._cache.include(segment)

    @property
    def is_full(self) -> bool:
        """Whether so much is new that it is to be stored in the middle of a shard."""
        return self._new_bytes >= _MOST_BYTES

    def close(self) -> None:
        """Store what is left."""
        if self._cache is not None:
            self.store(whole=True)
            self._cache.close()


def recall_of(node: Node, context: Context, settings: StepSettings) -> Recall | None:
    """What a worker remembers of a step; None where it isn't to."""
    step, asked = node.step, context.spec.cache
    if not isinstance(step, Step) or not step.cache:
        return None
    path = None if reads_files(step) else asked.path  # a file may be another by the next run
    if not (settings.deduplicate or path):
        return None
    if path is None:
        return Recall(step, settings.outputs, None)
    names = ("_truncated", *step.outputs)
    types = (pa.bool_(), *settings.outputs.types)
    schema = pa.schema([pa.field(name, kind) for name, kind in zip(names, types, strict=True)])
    on_invalid = step.errors.on_invalid_output or context.spec.errors.on_invalid_output
    inputs = [[name, None if isinstance(given, str) else len(given)] for name, given in step.inputs.items()]
    model = digest_of([FORM, context.models[step.name], settings.precision, str(schema), inputs, on_invalid])
    cache = PredictionCache(open_store(path, context.spec.storage), model[:32], schema, asked.max_bytes)
    return Recall(step, settings.outputs, cache)

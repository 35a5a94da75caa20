"""What a model gives for a batch, whatever goes wrong: bad rows are found, a batch that doesn't fit is cut."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines import faults
from batchinfer.engines.faults import Fault
from batchinfer.errors import BatchinferError, StoppedError
from batchinfer.job.steps import AnyStep, OnInvalidOutput
from batchinfer.worker.apart import Apart, Pending
from batchinfer.worker.check import check
from batchinfer.worker.failures import fault
from batchinfer.worker.isolate import isolate
from batchinfer.worker.items import Batch, Outputs, Results
from batchinfer.worker.shard_run import ShardRun


class Inference:
    """The calls of a step's model on batches. All but `finished` belong to the device's thread, or to those of its streams.

    Args:
        step: the step.
        on_invalid: what becomes of rows with an invalid output.
        stopping: when set, no further call is made.
        turn: held during calls that need the cores to themselves.

    """

    def __init__(
        self,
        step: AnyStep,
        on_invalid: OnInvalidOutput,
        stopping: threading.Event,
        turn: Callable[[], contextlib.AbstractContextManager[object]],
    ) -> None:
        self._step, self._on_invalid = step, on_invalid
        self._stopping, self._turn = stopping, turn
        self._most: int | None = None
        """What fitted into the device's memory when more did not: rows times the longest of them."""
        self._never_fitted = 0
        self._full = False

    def outputs(self, item: Batch) -> Iterator[Outputs | Results]:
        """What the model gives for the batch, in several pieces where it doesn't fit as a whole."""
        pieces = 1 if self._most is None else min(len(item.rows), -(-_size(item) // self._most))
        for piece in [item] if pieces == 1 else _cut(item, pieces):
            yield from self._attempted(piece)

    def _attempted(self, item: Batch) -> Iterator[Outputs | Results]:
        run = item.run
        if self._stopping.is_set():
            run.fail(StoppedError("stopped before the shard was finished"))
        if run.error is not None:
            return
        failure: Fault | None = None
        try:
            engine = run.at(item.window).engine
            with self._alone(run), self._timed(item, "wait" if isinstance(engine, Apart) else "infer"):
                outputs = engine.infer(item.payload)
            run.count(item.window, item.prepared.lengths, item.rows)
        except BatchinferError as e:
            run.fail(e)
            return
        except BaseException as e:  # noqa: BLE001 - isolate raises what is no row's fault
            failure = self._judged(e)
        else:
            yield Outputs(item, outputs)
            return
        if failure is Fault.MEMORY:
            self._free()
            yield from self._halves(item) if len(item.rows) > 1 else self.isolated(item)
        else:
            yield from self.isolated(item)

    @contextlib.contextmanager
    def _alone(self, run: ShardRun) -> Iterator[None]:
        """Hold the cores; waiting for them is the device's waiting."""
        with contextlib.ExitStack() as turn:
            with run.times.timed("wait"):
                turn.enter_context(self._turn())
            yield

    @contextlib.contextmanager
    def _timed(self, item: Batch, stage: str) -> Iterator[None]:
        """Add the block's time to the shard's, and to the step's where it is the model's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(item, stage, time.perf_counter() - start)

    def _add(self, item: Batch, stage: str, seconds: float) -> None:
        item.run.times.add(stage, seconds)
        if stage == "infer":
            item.run.at(item.window).add(seconds)

    def _judged(self, error: BaseException) -> Fault | None:
        """The fault behind an error, noted."""
        found = fault(error)
        self._full |= found is Fault.MEMORY
        return found

    def _free(self) -> None:
        """Free memory after a call that lacked it: not where it was caught, since what was raised holds the batch."""
        if self._full:
            faults.free_memory()
        self._full = False

    def _halves(self, item: Batch) -> Iterator[Outputs | Results]:
        """A batch that doesn't fit, cut in two; the size that fits is kept, unless a row was there that fits nowhere."""
        halves, before = _cut(item, 2), self._never_fitted
        item.run.at(item.window).halved += 1
        for half in halves:
            yield from self._attempted(half)
        if self._never_fitted == before:
            fits = max(_size(half) for half in halves)
            self._most = fits if self._most is None else min(self._most, fits)

    def isolated(self, item: Batch) -> Iterator[Results]:
        """The results of a batch that fails as a whole: the rows that do so alone are dead."""
        run = item.run

        def attempt(some: NDArray[np.intp]) -> pa.Table:
            if self._stopping.is_set():  # many bad rows are many calls, and a stop has seconds
                raise StoppedError("stopped before the shard was finished")
            self._free()
            run.count(item.window, item.prepared.lengths, item.rows[some])
            payload, engine = item.prepared.batch(item.rows[some]), run.at(item.window).engine
            try:
                return self._checked(item, some, engine.finish(engine.infer(payload)))
            except BaseException as e:
                self._judged(e)
                raise

        try:
            with self._alone(run), self._timed(item, "infer"):
                found = isolate(attempt, np.arange(len(item.rows)))
        except BaseException as e:  # noqa: BLE001 - becomes the shard's outcome
            run.fail(e)
            return
        tables = [table for _, table in found.results]
        if found.dead:
            self._never_fitted += sum(e.error_class == "out_of_memory" for _, e in found.dead)
            at = np.array([n for n, _ in found.dead])
            tables.append(run.dead_rows(item.window, item.ordinals[at], [e for _, e in found.dead]))
        yield Results(run, item.window, pa.concat_tables(tables), fresh=True)

    def finished(self, item: Outputs) -> Results | Fault | None:
        """The results of a batch that the model answered; where finishing it failed, the fault behind that: see `mended`.

        Raises BatchinferError.
        """
        batch = item.batch
        try:
            outputs = item.outputs
            if isinstance(outputs, Pending):
                self._add(batch, "infer", outputs.seconds)
                outputs = outputs.outputs()
            with batch.run.times.timed("write"):
                columns = batch.run.at(batch.window).engine.finish(outputs)
                table = self._checked(batch, np.arange(len(batch.rows)), columns)
        except BatchinferError:
            raise
        except BaseException as e:  # noqa: BLE001 - isolate raises what is no row's fault
            return self._judged(e)
        return Results(batch.run, batch.window, table, fresh=True)

    def mended(self, item: Batch, failure: Fault | None) -> Iterator[Results]:
        """The results of a batch that failed when it was finished: it may have been elsewhere until then."""
        self._free()
        whole = failure is not Fault.MEMORY or len(item.rows) == 1
        for piece in self.isolated(item) if whole else self._halves(item):
            if isinstance(piece, Results):
                yield piece
                continue
            try:
                found = self.finished(piece)
            except BatchinferError as e:
                item.run.fail(e)
                return
            if isinstance(found, Results):
                yield found
            else:
                yield from self.mended(piece.batch, found)

    def _checked(self, item: Batch, some: NDArray[np.intp], columns: Any) -> pa.Table:
        """Finished outputs of some rows of a batch (positions in it), checked, as results."""
        schema = item.run.at(item.window).settings.outputs
        outputs, invalid = check(columns, len(some), self._step, schema, self._on_invalid)
        truncated = item.prepared.truncated
        cut = None if truncated is None else truncated[item.rows[some]]
        return item.run.results(item.window, item.ordinals[some], outputs, cut, invalid)


def _size(item: Batch) -> int:
    """Rows, times the longest where they have lengths: what a batch takes of the device."""
    lengths = item.prepared.lengths
    return len(item.rows) * (1 if lengths is None else max(1, int(lengths[item.rows].max())))


def _cut(item: Batch, pieces: int) -> list[Batch]:
    """The batch as several of about equal size, in its order."""
    return [
        Batch(
            item.run,
            item.window,
            item.prepared,
            item.rows[some],
            item.ordinals[some],
            item.prepared.batch(item.rows[some]),
        )
        for some in np.array_split(np.arange(len(item.rows)), pieces)
    ]

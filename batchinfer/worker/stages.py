"""What happens to a shard in each of a worker's stages: the life of a row between reading and the part."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.reader import Reader, Window
from batchinfer.engines.protocol import Engine
from batchinfer.errors import (
    BatchinferError,
    CircuitBreakerError,
    InputError,
    RefusedError,
    StoppedError,
    TransientError,
)
from batchinfer.ledger.host import HERE, Host
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import batches, positions
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.plan.plan import input_columns
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store
from batchinfer.worker.check import check
from batchinfer.worker.context import Context, Done, Failed, Failure, Outcome
from batchinfer.worker.isolate import isolate
from batchinfer.worker.items import Batch, End, Outputs, Read, Results
from batchinfer.worker.shard_run import ShardRun, WindowRows


class Stages:
    """The four stages. Each method takes one item and gives those for the next stage; each runs on one thread of its own.

    None of them raises: a thread that ended would leave the others waiting. So whatever a model raises is caught, SystemExit
    too, and becomes the row's error or the shard's outcome.

    On a CPU, preparing and the device take turns: side by side they would fight for the same cores.
    """

    def __init__(
        self, context: Context, store: Store, reader: Reader, engine: Engine, *, on_cpu: bool, host: Host = HERE
    ) -> None:
        self.engine = engine
        self.settings: Settings | None = None
        self.stopping = threading.Event()
        self.shard: int | None = None
        """The shard on the device."""
        self.rows = self.dead = self.in_hand = 0
        """Rows finished, dead ones among them, and those of shards that are not decided yet."""
        self._context, self._store, self._reader, self._host = context, store, reader, host
        self._spec, self._step = context.spec, context.spec.steps[0]
        self._breaker = CircuitBreaker(enabled=context.breaker)
        self._model = threading.RLock()
        self._preparing: contextlib.AbstractContextManager[Any] = self._model if on_cpu else contextlib.nullcontext()

    def read(self, item: tuple[Shard, Future[Outcome]]) -> Iterator[Read | End]:
        """The shard's windows."""
        shard, future = item
        assert self.settings is not None
        try:
            run = ShardRun(shard, self._context, self.settings, self._store, future, self._host)
        except BaseException as e:  # noqa: BLE001 - see _failed
            future.set_result(_failed(shard.number, e))
            return
        windows = self._reader.windows(shard.ranges, self._context.reading.window)
        while (window := self._next(run, windows)) is not None:
            yield Read(run, window)
        yield End(run)

    def _next(self, run: ShardRun, windows: Iterator[Window]) -> Window | None:
        """The next window; None at the end of the shard, also where it ends by an error or a stop."""
        if run.error is not None:
            return None
        try:
            with run.timed("read"):
                window = next(windows, None)
        except BaseException as e:  # noqa: BLE001 - see _failed
            run.fail(e)
            return None
        if window is not None and self.stopping.is_set():
            run.fail(StoppedError("stopped before the shard was finished"))
            return None
        return window

    def prepare(self, item: Read | End) -> Iterator[Batch | Results | End]:
        """The window's batches, and the results of rows that need no model."""
        if isinstance(item, End):
            yield item
        elif item.run.error is None:
            try:
                with self._preparing, item.run.timed("prepare"):
                    prepared = list(self._prepared(item.run, item.window))
            except BaseException as e:  # noqa: BLE001 - see _failed
                item.run.fail(e)
            else:
                yield from prepared

    def _prepared(self, run: ShardRun, window: Window) -> Iterator[Batch | Results]:
        rows = WindowRows(window, len(window.table))
        if (known := run.from_checkpoint(window.ordinals)) is not None or not len(window.table):
            yield Results(run, rows, run.no_rows() if known is None else known, fresh=False)
            return
        assert self.settings is not None
        table = window.table.select(input_columns(self._step))
        good = np.arange(len(table))
        dead: Results | None = None
        try:
            prepared = self.engine.prepare(table)
        except BatchinferError:
            raise
        except BaseException:  # noqa: BLE001 - whatever a row raises, isolate finds the row
            found = isolate(lambda some: self.engine.prepare(table.take(pa.array(some))), good)
            at = np.array([n for n, _ in found.dead], np.intp)
            dead = Results(run, rows, run.dead_rows(window.ordinals[at], [e for _, e in found.dead]), fresh=True)
            good = np.setdiff1d(good, at)
            if not len(good):
                yield dead
                return
            prepared = self.engine.prepare(table.take(pa.array(good)))
        for some in batches(len(good), prepared.lengths, self.settings.budget):
            at = positions(some)
            ordinals = window.ordinals[good[at]]
            if (known := run.from_checkpoint(ordinals)) is not None:
                yield Results(run, rows, known, fresh=False)
            else:
                yield Batch(run, rows, prepared, at, ordinals, prepared.batch(some))
        if dead is not None:  # after the others: the circuit breaker shall see what succeeds first
            yield dead

    def infer(self, item: Batch | Results | End) -> Iterator[Outputs | Results | End]:
        """What the model gives for the batch."""
        if not isinstance(item, Batch):
            yield item
            return
        run = item.run
        if self.stopping.is_set():
            run.fail(StoppedError("stopped before the shard was finished"))
        if run.error is not None:
            return
        self.shard = run.shard.number
        try:
            with self._model, run.timed("infer"):
                outputs = self.engine.infer(item.payload)
            run.count(item.prepared.lengths, item.rows)
        except BaseException as e:  # noqa: BLE001 - isolate raises what is no row's fault
            yield from self._isolated(item, e)
        else:
            yield Outputs(item, outputs)

    def _isolated(self, item: Batch, error: BaseException) -> Iterator[Results]:
        """The results of a batch that fails as a whole: the rows that do so alone are dead."""
        run = item.run

        def attempt(some: NDArray[np.intp]) -> Any:
            if self.stopping.is_set():  # many bad rows are many calls, and a stop has seconds
                raise StoppedError("stopped before the shard was finished")
            run.count(item.prepared.lengths, item.rows[some])
            return self._checked(
                item, some, self.engine.finish(self.engine.infer(item.prepared.batch(item.rows[some])))
            )

        if isinstance(error, BatchinferError):
            run.fail(error)
            return
        try:
            with self._model, run.timed("infer"):
                found = isolate(attempt, np.arange(len(item.rows)))
        except BaseException as e:  # noqa: BLE001 - see _failed
            run.fail(e)
            return
        tables = [table for _, table in found.results]
        if found.dead:
            at = np.array([n for n, _ in found.dead])
            tables.append(run.dead_rows(item.ordinals[at], [e for _, e in found.dead]))
        yield Results(run, item.window, pa.concat_tables(tables), fresh=True)

    def _checked(self, item: Batch, some: NDArray[np.intp], columns: Any) -> pa.Table:
        """Finished outputs of some rows of a batch (positions in it), checked, as results."""
        assert self.settings is not None
        outputs, invalid = check(
            columns, len(some), self._step, self.settings.outputs, self._spec.errors.on_invalid_output
        )
        truncated = item.prepared.truncated
        return item.run.results(
            item.ordinals[some], outputs, None if truncated is None else truncated[item.rows[some]], invalid
        )

    def write(self, item: Outputs | Results | End) -> Iterator[Any]:
        """Nothing: results go into the part, and at its end the shard gets its outcome."""
        run = item.batch.run if isinstance(item, Outputs) else item.run
        try:
            if isinstance(item, End):
                self._finish(run)
            elif isinstance(item, Results):
                self._accept(item)
            else:
                for results in self._finished(item):
                    self._accept(results)
        except BaseException as e:  # noqa: BLE001 - see _failed
            run.fail(e)
            if isinstance(item, End):
                run.outcome.set_result(_failed(run.shard.number, e))
        yield from ()

    def _finished(self, item: Outputs) -> Iterator[Results]:
        batch = item.batch
        try:
            with batch.run.timed("write"):
                columns = self.engine.finish(item.outputs)
                table = self._checked(batch, np.arange(len(batch.rows)), columns)
        except BaseException as e:  # noqa: BLE001 - isolate raises what is no row's fault
            yield from self._isolated(batch, e)
        else:
            yield Results(batch.run, batch.window, table, fresh=True)

    def _accept(self, item: Results) -> None:
        run = item.run
        if run.error is not None and not item.fresh:
            return
        dead = item.table["_dead"]
        if dead.null_count:
            self._breaker.succeeded()
        elif len(dead):
            self._breaker.failed(dead.combine_chunks().field("error_type").to_pylist(), dead[0]["message"].as_py())
        with run.timed("write"):
            run.accept(item.window, item.table, fresh=item.fresh)
        self.rows += len(dead)
        self.dead += len(dead) - dead.null_count
        self.in_hand += len(dead)
        if run.checkpoint_due():
            with run.timed("commit"):
                run.checkpoint()

    def _finish(self, run: ShardRun) -> None:
        self.in_hand = 0  # first: whoever has the outcome counts the shard as decided
        if run.error is None:
            with run.timed("commit"):
                part = run.commit()
            run.outcome.set_result(Done(run.shard.number, part, run.usage))
        else:
            if isinstance(run.error, StoppedError) or not isinstance(run.error, (TransientError, CircuitBreakerError)):
                run.checkpoint()
            run.outcome.set_result(_failed(run.shard.number, run.error))
        if self.shard == run.shard.number:  # the device may be at the next one already
            self.shard = None


def _failed(shard: int, error: BaseException) -> Failed:
    """The one place where any exception of a shard becomes a value."""
    kind = Failure.UNEXPECTED
    if isinstance(error, StoppedError):
        kind = Failure.STOPPED
    elif isinstance(error, InputError):
        kind = Failure.INPUT
    elif isinstance(error, (RefusedError, CircuitBreakerError)):
        kind = Failure.REFUSED
    elif isinstance(error, TransientError):
        kind = Failure.TRANSIENT
    text = "".join(traceback.format_exception(error))
    message = str(error) if kind is not Failure.UNEXPECTED else f"{type(error).__name__}: {error}"
    return Failed(shard, kind, message, text, getattr(error, "exit_code", 1))

"""The worker: four stages with bounded queues between them, each a thread, all shards through the same four.

    reading  ──windows──▶  preparing  ──batches──▶  the device  ──outputs──▶  writing ──▶ Outcome

A shard that is read while another is on the device costs no waiting between the two. On a CPU, preparing and the device take
turns: side by side they would fight for the same cores, and OpenMP's barriers make both slower than one after the other.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.reader import Reader, Window
from batchinfer.data.where import Where
from batchinfer.engines import device, registry
from batchinfer.engines.protocol import Engine
from batchinfer.errors import BatchinferError, InputError, RefusedError, StoppedError, TransientError
from batchinfer.measure.choose import choose, load
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import batches, positions
from batchinfer.plan.plan import input_columns
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.store import open_store
from batchinfer.worker.check import check
from batchinfer.worker.context import Context, Done, Failed, Failure, Outcome, Progress
from batchinfer.worker.isolate import isolate
from batchinfer.worker.items import Batch, Call, End, Outputs, Read, Results
from batchinfer.worker.shard_run import ShardRun, WindowRows

AHEAD = 2
"""Shards that a worker should be given at once, so that the next one is read while one is computed."""


class Worker:
    """Holds a model and turns shards into parts. Give it `AHEAD` shards at a time; outcomes come in the order given."""

    def __init__(self, context: Context, number: int = 0) -> None:
        self._context, self._number = context, number
        self._spec = context.spec
        self._step = context.spec.steps[0]
        self._store = open_store(self._spec.output.path, self._spec.storage, scratch=paths.SCRATCH)
        self._engine: Engine = registry.open_engine(self._step, self._spec.code)
        self._device = device.resolve_device(context.gpus) if registry.uses_torch(self._step) else "cpu"
        self._settings: Settings | None = None
        self._loaded: str | None = None
        self._model = threading.RLock()
        self._preparing: contextlib.AbstractContextManager[Any] = (
            self._model if self._device == "cpu" else contextlib.nullcontext()
        )
        self._stopping = threading.Event()
        self._progress = Progress(number, note="idle")
        self._to_read: queue.Queue[Any] = queue.Queue()
        self._to_prepare: queue.Queue[Any] = queue.Queue(2)
        self._to_device: queue.Queue[Any] = queue.Queue(2)
        self._to_write: queue.Queue[Any] = queue.Queue(8)
        stages: list[tuple[str, queue.Queue[Any], Callable[[Any], Iterator[Any]], queue.Queue[Any] | None]] = [
            ("read", self._to_read, self._read, self._to_prepare),
            ("prepare", self._to_prepare, self._prepare, self._to_device),
            ("device", self._to_device, self._infer, self._to_write),
            ("write", self._to_write, self._write, None),
        ]
        self._threads = [
            threading.Thread(target=self._stage, args=(i, w, o), name=f"batchinfer-{number}-{n}", daemon=True)
            for n, i, w, o in stages
        ]
        self._reader = self._open_reader()
        for thread in self._threads:
            thread.start()

    def _open_reader(self) -> Reader:
        reading = self._context.reading
        where = Where(reading.where) if reading.where else None
        return Reader(reading.schema, where, options=self._spec.storage)

    # The worker's surface: called by executors.

    def measure(self, shards: Sequence[Shard]) -> Settings:
        """Load the model, find out on the first rows what is left to choose, and say it. Raises ModelError."""
        self._progress = replace(self._progress, note="measuring")
        inputs = input_columns(self._step)
        reader = self._open_reader()
        sample = (
            w.table.select(inputs)
            for s in shards
            for w in reader.windows(s.ranges, self._context.reading.window)
            if len(w.table)
        )
        rows = sum(s.rows for s in shards)
        settings: Settings = self._on_device(
            lambda: choose(
                self._engine, self._step, sample, self._spec.batching, self._device, self._context.threads, rows
            )
        )
        self._loaded = settings.precision
        return settings

    def start(self, settings: Settings) -> None:
        """Load the model as the settings say. Raises ModelError."""
        self._progress = replace(self._progress, note="loading")
        if self._loaded != settings.precision:
            self._on_device(lambda: load(self._engine, self._step, self._device, settings.precision, settings.threads))
            self._loaded = settings.precision
        self._settings = settings
        self._progress = replace(self._progress, note="idle")

    def submit(self, shard: Shard) -> Future[Outcome]:
        """Take a shard in; the future never raises. `start` must have been called."""
        assert self._settings is not None
        future: Future[Outcome] = Future()
        self._to_read.put((shard, future))
        return future

    def progress(self) -> Progress:
        """What the worker is doing now."""
        return self._progress

    def stop(self) -> None:
        """Finish the batch in hand, checkpoint what is done, and give the rest back as stopped."""
        self._stopping.set()

    def close(self) -> None:
        """End the threads, after the shards that were taken in."""
        self._to_read.put(None)
        for thread in self._threads:
            thread.join()

    # The stages.

    def _stage(
        self, inbox: queue.Queue[Any], work: Callable[[Any], Iterator[Any]], outbox: queue.Queue[Any] | None
    ) -> None:
        while (item := inbox.get()) is not None:
            if isinstance(item, Call):
                item.run()
                continue
            for result in work(item):
                assert outbox is not None
                outbox.put(result)
        if outbox is not None:
            outbox.put(None)

    def _on_device(self, function: Callable[[], Any]) -> Any:
        call = Call(function, Future())
        self._to_device.put(call)
        return call.future.result()

    def _read(self, item: tuple[Shard, Future[Outcome]]) -> Iterator[Read | End]:
        shard, future = item
        assert self._settings is not None
        try:
            run = ShardRun(shard, self._context, self._settings, self._store, future)
        except Exception as e:  # noqa: BLE001 - see _failed
            future.set_result(_failed(shard.number, e))
            return
        windows = self._reader.windows(shard.ranges, self._context.reading.window)
        try:
            while run.error is None:
                with run.timed("read"):
                    window = next(windows, None)
                if window is None:
                    break
                if self._stopping.is_set():
                    run.fail(StoppedError("stopped before the shard was finished"))
                else:
                    yield Read(run, window)
        except Exception as e:  # noqa: BLE001 - see _failed
            run.fail(e)
        yield End(run)

    def _prepare(self, item: Read | End) -> Iterator[Batch | Results | End]:
        if isinstance(item, End):
            yield item
        elif item.run.error is None:
            try:
                with self._preparing, item.run.timed("prepare"):
                    prepared = list(self._prepared(item.run, item.window))
            except Exception as e:  # noqa: BLE001 - see _failed
                item.run.fail(e)
            else:
                yield from prepared

    def _prepared(self, run: ShardRun, window: Window) -> Iterator[Batch | Results]:
        rows = WindowRows(window, len(window.table))
        if (known := run.from_checkpoint(window.ordinals)) is not None or not len(window.table):
            yield Results(run, rows, run.no_rows() if known is None else known, fresh=False)
            return
        assert self._settings is not None
        table = window.table.select(input_columns(self._step))
        good = np.arange(len(table))
        try:
            prepared = self._engine.prepare(table)
        except BatchinferError:
            raise
        except Exception:  # noqa: BLE001 - whatever a row raises, isolate finds the row
            found = isolate(lambda some: self._engine.prepare(table.take(pa.array(some))), good)
            at = np.array([n for n, _ in found.dead], np.intp)
            yield Results(run, rows, run.dead_rows(window.ordinals[at], [e for _, e in found.dead]), fresh=True)
            good = np.setdiff1d(good, at)
            if not len(good):
                return
            prepared = self._engine.prepare(table.take(pa.array(good)))
        for some in batches(len(good), prepared.lengths, self._settings.budget):
            at = positions(some)
            ordinals = window.ordinals[good[at]]
            if (known := run.from_checkpoint(ordinals)) is not None:
                yield Results(run, rows, known, fresh=False)
            else:
                yield Batch(run, rows, prepared, at, ordinals, prepared.batch(some))

    def _infer(self, item: Batch | Results | End) -> Iterator[Outputs | Results | End]:
        if not isinstance(item, Batch):
            yield item
            return
        run = item.run
        if self._stopping.is_set():
            run.fail(StoppedError("stopped before the shard was finished"))
        if run.error is not None:
            return
        self._progress = replace(self._progress, shard=run.shard.number, note="running")
        try:
            with self._model, run.timed("infer"):
                outputs = self._engine.infer(item.payload)
            run.count(item.prepared.lengths, item.rows)
        except Exception as e:  # noqa: BLE001 - isolate raises what is no row's fault
            yield from self._isolated(item, e)
        else:
            yield Outputs(item, outputs)

    def _isolated(self, item: Batch, error: Exception) -> Iterator[Results]:
        """The results of a batch that fails as a whole: the rows that do so alone are dead."""
        run = item.run

        def attempt(some: NDArray[np.intp]) -> Any:
            run.count(item.prepared.lengths, item.rows[some])
            return self._checked(
                item, some, self._engine.finish(self._engine.infer(item.prepared.batch(item.rows[some])))
            )

        if isinstance(error, BatchinferError):
            run.fail(error)
            return
        try:
            with self._model, run.timed("infer"):
                found = isolate(attempt, np.arange(len(item.rows)))
        except Exception as e:  # noqa: BLE001 - see _failed
            run.fail(e)
            return
        tables = [table for _, table in found.results]
        if found.dead:
            at = np.array([n for n, _ in found.dead])
            tables.append(run.dead_rows(item.ordinals[at], [e for _, e in found.dead]))
        yield Results(run, item.window, pa.concat_tables(tables), fresh=True)

    def _checked(self, item: Batch, some: NDArray[np.intp], columns: Any) -> pa.Table:
        """Finished outputs of some rows of a batch (positions in it), checked, as results."""
        assert self._settings is not None
        outputs, invalid = check(
            columns, len(some), self._step, self._settings.outputs, self._spec.errors.on_invalid_output
        )
        truncated = item.prepared.truncated
        return item.run.results(
            item.ordinals[some], outputs, None if truncated is None else truncated[item.rows[some]], invalid
        )

    def _write(self, item: Outputs | Results | End) -> Iterator[Any]:
        run = item.batch.run if isinstance(item, Outputs) else item.run
        try:
            if isinstance(item, End):
                self._finish(run)
            elif isinstance(item, Results):
                self._accept(item)
            else:
                for results in self._finished(item):
                    self._accept(results)
        except Exception as e:  # noqa: BLE001 - see _failed
            run.fail(e)
            if isinstance(item, End):
                run.outcome.set_result(_failed(run.shard.number, e))
        yield from ()

    def _finished(self, item: Outputs) -> Iterator[Results]:
        batch = item.batch
        try:
            with batch.run.timed("write"):
                columns = self._engine.finish(item.outputs)
                table = self._checked(batch, np.arange(len(batch.rows)), columns)
        except Exception as e:  # noqa: BLE001 - isolate raises what is no row's fault
            yield from self._isolated(batch, e)
        else:
            yield Results(batch.run, batch.window, table, fresh=True)

    def _accept(self, item: Results) -> None:
        run = item.run
        if run.error is not None and not item.fresh:
            return
        with run.timed("write"):
            run.accept(item.window, item.table, fresh=item.fresh)
        dead = item.table["_dead"]
        so_far, rows = self._progress, len(item.table)
        self._progress = replace(
            so_far, rows=so_far.rows + rows, dead=so_far.dead + rows - dead.null_count, in_hand=so_far.in_hand + rows
        )
        if run.checkpoint_due():
            with run.timed("commit"):
                run.checkpoint()

    def _finish(self, run: ShardRun) -> None:
        self._progress = replace(
            self._progress, in_hand=0
        )  # first: whoever has the outcome counts the shard as decided
        if run.error is None:
            with run.timed("commit"):
                part = run.commit()
            run.outcome.set_result(Done(run.shard.number, part, run.usage))
        else:
            if not isinstance(run.error, TransientError) or isinstance(run.error, StoppedError):
                run.checkpoint()
            run.outcome.set_result(_failed(run.shard.number, run.error))
        self._progress = replace(self._progress, shard=None, note="idle")


def _failed(shard: int, error: BaseException) -> Failed:
    """The one place where any exception of a shard becomes a value."""
    kind = Failure.UNEXPECTED
    if isinstance(error, StoppedError):
        kind = Failure.STOPPED
    elif isinstance(error, InputError):
        kind = Failure.INPUT
    elif isinstance(error, RefusedError):
        kind = Failure.REFUSED
    elif isinstance(error, TransientError):
        kind = Failure.TRANSIENT
    text = "".join(traceback.format_exception(error))
    message = str(error) if kind is not Failure.UNEXPECTED else f"{type(error).__name__}: {error}"
    return Failed(shard, kind, message, text, getattr(error, "exit_code", 1))

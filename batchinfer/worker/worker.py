"""The worker: four stages with bounded queues between them, each a thread, all shards through the same four.

    reading  ──windows──▶  preparing  ──batches──▶  the device  ──outputs──▶  writing ──▶ Outcome

A shard that is read while another is on the device costs no waiting between the two. What happens in a stage is in `stages`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from batchinfer.data.reader import Reader
from batchinfer.data.where import Where
from batchinfer.engines import device, registry
from batchinfer.measure.choose import choose, load
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.plan.plan import input_columns
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.context import Context, Outcome, Progress
from batchinfer.worker.items import Call
from batchinfer.worker.stages import Stages

AHEAD = 2
"""Shards that a worker should be given at once, so that the next one is read while one is computed."""


class Worker:
    """Holds a model and turns shards into parts. Give it `AHEAD` shards at a time; outcomes come in the order given."""

    def __init__(self, context: Context, number: int = 0) -> None:
        self._context, self._number = context, number
        self._spec = context.spec
        self._step = context.spec.steps[0]
        store = open_store(self._spec.output.path, self._spec.storage, scratch=paths.SCRATCH)
        self._store: Store = SingleWriterStore(store) if context.single_writer else store
        self._engine = registry.open_engine(self._step, self._spec.code)
        self._device = device.resolve_device(context.gpus) if registry.uses_torch(self._step) else "cpu"
        self._loaded: str | None = None
        self._note = "idle"
        reader, on_cpu = self._open_reader(), self._device == "cpu"
        self._stages = Stages(context, self._store, reader, self._engine, on_cpu=on_cpu)
        self._to_read: queue.Queue[Any] = queue.Queue()
        self._to_prepare: queue.Queue[Any] = queue.Queue(2)
        self._to_device: queue.Queue[Any] = queue.Queue(2)
        self._to_write: queue.Queue[Any] = queue.Queue(8)
        stages: list[tuple[str, queue.Queue[Any], Callable[[Any], Iterator[Any]], queue.Queue[Any] | None]] = [
            ("read", self._to_read, self._stages.read, self._to_prepare),
            ("prepare", self._to_prepare, self._stages.prepare, self._to_device),
            ("device", self._to_device, self._stages.infer, self._to_write),
            ("write", self._to_write, self._stages.write, None),
        ]
        self._threads = [
            threading.Thread(target=self._pass_on, args=(i, w, o), name=f"batchinfer-{number}-{n}", daemon=True)
            for n, i, w, o in stages
        ]
        for thread in self._threads:
            thread.start()

    def _open_reader(self) -> Reader:
        reading = self._context.reading
        where = Where(reading.where) if reading.where else None
        return Reader(reading.schema, where, options=self._spec.storage)

    def measure(self, shards: Sequence[Shard]) -> Settings:
        """Load the model, find out on the first rows what is left to choose, and say it. Raises ModelError."""
        self._note = "measuring"
        inputs = input_columns(self._step)
        reader = self._open_reader()
        sample = (
            w.table.select(inputs)
            for s in shards
            for w in reader.windows(s.ranges, self._context.reading.window)
            if len(w.table)
        )
        rows = sum(s.rows for s in shards)
        breaker = CircuitBreaker(enabled=self._context.breaker)
        settings: Settings = self._on_device(
            lambda: choose(
                self._engine,
                self._step,
                sample,
                self._spec.batching,
                self._device,
                self._context.threads,
                rows,
                breaker,
                self._context.outputs,
            )
        )
        self._loaded = settings.precision
        return settings

    def start(self, settings: Settings) -> None:
        """Load the model as the settings say. Raises ModelError."""
        self._note = "loading"
        if self._loaded != settings.precision:
            self._on_device(lambda: load(self._engine, self._step, self._device, settings.precision, settings.threads))
            self._loaded = settings.precision
        self._stages.settings = settings
        self._note = "idle"

    def submit(self, shard: Shard) -> Future[Outcome]:
        """Take a shard in; the future never raises. `start` must have been called."""
        assert self._stages.settings is not None
        future: Future[Outcome] = Future()
        self._to_read.put((shard, future))
        return future

    def progress(self) -> Progress:
        """What the worker is doing now."""
        stages, shard = self._stages, self._stages.shard
        note = self._note if shard is None else "running"
        return Progress(self._number, shard, stages.rows, stages.dead, stages.in_hand, note)

    def stop(self) -> None:
        """Finish the batch in hand, checkpoint what is done, and give the rest back as stopped."""
        self._stages.stopping.set()

    def close(self) -> None:
        """End the threads, after the shards that were taken in."""
        self._to_read.put(None)
        for thread in self._threads:
            thread.join()

    def _pass_on(
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

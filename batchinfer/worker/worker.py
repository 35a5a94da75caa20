"""The worker: four stages with bounded queues between them, each a thread, all shards through the same four.

    reading  ──windows──▶  preparing  ──batches──▶  the device  ──outputs──▶  writing ──▶ Outcome

A shard that is read while another is on the device costs no waiting between the two. What happens in a stage is in `stages`.
Where the settings have several streams, the device's thread hands its batches to as many threads, and what comes of them goes on in
the order of the batches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from batchinfer.engines import device, registry
from batchinfer.engines.protocol import Description, Engine
from batchinfer.measure.choose import choose
from batchinfer.measure.settings import Settings
from batchinfer.measure.timing import load
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.apart import Apart, Models
from batchinfer.worker.context import Context, Outcome, Progress, Served
from batchinfer.worker.device_thread import DeviceThread
from batchinfer.worker.items import Submitted
from batchinfer.worker.memory import Held
from batchinfer.worker.quarantine import Quarantine
from batchinfer.worker.sample import JobSample
from batchinfer.worker.serving import Serving
from batchinfer.worker.stages import Stages
from batchinfer.worker.trial import Trial, open_reader
from batchinfer.worker.watched import Watched

AHEAD = 2
"""Shards that a worker should be given at once, so that the next one is read while one is computed."""


class Worker:
    """Holds a model and turns shards into parts. Give it `AHEAD` shards at a time; outcomes come in the order given.

    Args:
        context: the job.
        number: among the workers.
        models: those that hold the model in place of this worker; None for a model of its own.

    """

    def __init__(self, context: Context, number: int = 0, models: Models | None = None) -> None:
        self._context, self._number = context, number
        self._spec = context.spec
        self._step = context.spec.steps[0]
        store = open_store(self._spec.output.path, self._spec.storage, scratch=paths.SCRATCH)
        self._store: Store = SingleWriterStore(store) if context.single_writer else store
        self._device = registry.device_for(self._step, context.gpus)
        self._loaded: str | None = None
        self._note = "idle"
        timeout = self._spec.retry.timeout
        self._engine: Watched | Apart = (
            Watched(lambda: registry.open_engine(self._step, self._spec.code), timeout)
            if models is None
            else Apart(models, timeout)
        )
        self._to_write: queue.Queue[Any] = queue.Queue(8)
        self._device_thread = DeviceThread(
            lambda item: self._stages.infer(item),
            self._to_write,
            lambda: self._engine.paces.overdue,
            holds_model=models is None,
        )
        self._stages = Stages(
            context,
            self._store,
            open_reader(context),
            self._engine_for,
            self._device_thread.call_now,
            on_cpu=self._device == "cpu" and models is None,
        )
        self._quarantine = Quarantine(
            self._step, self._spec.code, self._device, self._spec.retry, self._stages.stopping, self._spec.secrets
        )
        self._trial = Trial(context, self._stages.stopping)
        self.serving = (
            Serving(self._engine, lambda: self.has_loaded, self._device_thread.inbox.put)
            if isinstance(self._engine, Watched)
            else None
        )
        """The model for batches that other workers have prepared; None where it isn't here."""
        self._to_read: queue.Queue[Any] = queue.Queue()
        self._to_prepare: queue.Queue[Any] = queue.Queue(2)
        stages = self._stages
        work: list[tuple[str, Callable[[], None]]] = [
            ("read", lambda: self._pass_on(self._to_read, stages.read, self._to_prepare)),
            ("prepare", lambda: self._pass_on(self._to_prepare, stages.prepare, self._device_thread.inbox)),
            ("device", self._device_thread.run),
            ("write", self._write),
        ]
        self._threads = [
            threading.Thread(target=function, name=f"batchinfer-{number}-{name}", daemon=True)
            for name, function in work
        ]
        for thread in self._threads:
            thread.start()

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """Load the model, find out on its rows what is left to choose, and say it. Raises ModelError, GateError, HungError,
        DeviceError.

        `quarantined`: in a child process, where one of these rows may have ended a process before.
        """
        self._note, before = "measuring", Held.now()
        sample = JobSample(self._context, shards, self._trial if quarantined else None)
        breaker = CircuitBreaker(enabled=self._context.breaker)
        engine: Quarantine | Watched | Apart = self._quarantine if quarantined else self._engine
        if not quarantined:  # a child process has its own imports, and may die of them
            self._device_thread.call(lambda: registry.import_libraries(self._step))
        settings: Settings = self._device_thread.call(
            lambda: choose(
                engine,
                self._step,
                sample.first(),
                self._spec.batching,
                self._device,
                self._context.threads,
                -(-sample.rows // self._context.workers),
                breaker,
                self._context.outputs,
                sample=sample.spread,
                # The times of a child process are no others'.
                known=None if quarantined or not self._context.model else self._known(),
                side_by_side=not quarantined,
            )
        )
        told: dict[str, Any] = {
            key: {name: self._spec.secrets.hide(why) for name, why in settings.measured[key].items()}
            for key in ("failed", "skipped")
            if settings.measured.get(key)
        }
        self._loaded = None if quarantined else settings.precision
        if by_row := engine.paces.infer.by_row:
            told["seconds_per_row"] = by_row
        if not quarantined and before is not None and (need := before.need()) is not None:
            told["memory"] = need.to_json()
        return replace(settings, measured={**settings.measured, **told})

    def _known(self) -> dict[str, str]:
        return {"model": self._context.model, "machine": device.name_of(self._device)}

    def start(self, settings: Settings, *, quarantined: bool = False, tried: bool = False) -> None:
        """Load the model as the settings say; not yet where the first shards are in quarantine. Raises ModelError, HungError.

        `tried`: in a child process first, which says what ends a process that loads it.
        """
        settings = settings.within(self._context.threads)
        self._stages.inference.settings = settings
        self._device_thread.begin(settings.streams, f"batchinfer-{self._number}-stream")
        for engine in (self._engine, self._quarantine):
            engine.paces.settle(settings.measured.get("seconds_per_row"), settings.budget.rows)
        if tried:
            self._note = "loading"
            self._quarantine.load(self._device, settings.precision, settings.threads)
            self._quarantine.close()
        if not quarantined:
            self._quarantine.close()
            self._load(settings)
        self._note = "idle"

    def _load(self, settings: Settings) -> None:
        self._note = "loading"
        if self._loaded != settings.precision:
            self._device_thread.call(
                lambda: load(self._engine, self._step, self._device, settings.precision, settings.threads)
            )
            self._loaded = settings.precision
        if self.serving is not None:
            self.serving.begin(settings.streams)

    @property
    def has_loaded(self) -> bool:
        """Whether the model is here."""
        return self._loaded is not None

    @property
    def without_model(self) -> tuple[Engine, Description]:
        """The loaded engine for `prepare` and `finish` alone, and what it says of itself."""
        assert isinstance(self._engine, Watched)
        return self._engine.without_model()

    def _engine_for(self, shard: Shard, quarantined: bool) -> Engine:
        """The engine that a shard needs, loaded; the other one is let go of, as there may be no memory for both.

        Raises InputError for a shard in quarantine that can't be read.
        """
        settings = self._stages.settings
        assert settings is not None
        if not quarantined:
            self._quarantine.close()
            self._load(settings)
            return self._engine if isinstance(self._engine, Watched) else self._engine.of(shard.number)
        if self._loaded is not None:
            self._loaded = None  # first: batches of other workers that come now must find another model
            self._device_thread.call(self._engine.drop)
        self._trial.read(shard)
        self._quarantine.use(settings.precision, settings.threads)
        return self._quarantine

    def submit(self, shard: Shard, *, quarantined: bool = False) -> Future[Outcome]:
        """Take a shard in; the future never raises. `start` must have been called.

        `quarantined`: the model runs in a child process, so that a row that ends it or hangs is found and costs no worker.
        """
        assert self._stages.settings is not None
        future: Future[Outcome] = Future()
        self._to_read.put(Submitted(shard, future, quarantined))
        return future

    @property
    def has_seen_deaths(self) -> bool:
        """Whether a row or a file has ended a process in quarantine."""
        return self._quarantine.ended + self._trial.ended > 0

    def progress(self) -> Progress:
        """What the worker is doing now."""
        stages, serving, shard = self._stages, self.serving, self._stages.shard
        if shard is None and serving is not None:
            shard = serving.shard
        note = self._note if shard is None else "running"
        return Progress(
            self._number,
            shard,
            stages.rows,
            stages.dead,
            stages.in_hand,
            note,
            overdue=self._engine.paces.overdue,
            patience=self._engine.paces.patience,
            broken="" if serving is None else serving.broken,
            served=Served() if serving is None else serving.served,
        )

    def stop(self) -> None:
        """Finish the batch in hand, checkpoint what is done, and give the rest back as stopped."""
        self._stages.stopping.set()

    def close(self) -> None:
        """End the threads, after the shards that were taken in; a call that hangs is left alone."""
        self._to_read.put(None)
        for thread in self._threads:
            while thread.is_alive() and self._engine.paces.overdue is None:
                thread.join(0.2)
        self._device_thread.close()
        self._quarantine.close()
        self._trial.close()

    def _pass_on(self, inbox: queue.Queue[Any], work: Callable[[Any], Iterator[Any]], outbox: queue.Queue[Any]) -> None:
        while (item := inbox.get()) is not None:
            for result in work(item):
                outbox.put(result)
        outbox.put(None)

    def _write(self) -> None:
        while (item := self._to_write.get()) is not None:
            for result in item.result() if isinstance(item, Future) else [item]:
                self._stages.write(result)
        self._device_thread.writing_ended()

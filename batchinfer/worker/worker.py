"""The worker: four stages with bounded queues between them, each a thread, all shards through the same four.

    reading  ──windows──▶  preparing  ──batches──▶  the device  ──outputs──▶  writing ──▶ Outcome
                               ▲                                                 │
                               └───────── windows, for their next step ──────────┘

A shard that is read while another is on the device costs no waiting between the two. What happens in a stage is in `stages`.
Windows at a step whose model is in other processes go a way of their own between reading and writing, see `sending`.
Where the settings have several streams, the device's thread hands its batches to as many threads, and what comes of them goes on in
the order of the batches.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from batchinfer.engines.device import gpu_peak
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Engine
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.graph import graph_of
from batchinfer.plan.plan import kept_input
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.apart import Apart, Models
from batchinfer.worker.context import Context, Outcome, Progress, Served
from batchinfer.worker.device_thread import DeviceThread
from batchinfer.worker.held import HeldStep
from batchinfer.worker.items import End, Read, Submitted
from batchinfer.worker.lanes import Lanes, begin, pass_on
from batchinfer.worker.measuring import Measuring
from batchinfer.worker.memory import peak_bytes
from batchinfer.worker.pace import SILENT_SECONDS, Paces
from batchinfer.worker.sending import Sending
from batchinfer.worker.serving import Serving
from batchinfer.worker.stages import Stages
from batchinfer.worker.trial import Trial, open_reader
from batchinfer.worker.watched import Watched

AHEAD = 2
"""Shards that a worker should be given at once, so that the next one is read while one is computed."""


class Worker:
    """Holds the models and turns shards into parts. Give it `AHEAD` shards at a time; outcomes come in the order given.

    Args:
        context: the job.
        number: among the workers.
        models: by step, those that hold its model in place of this worker.
        serves: the step whose model it holds for the batches of other workers, and no other; itself it then takes shards in quarantine
            only. None for a worker that holds the models of all steps but those of `models`.

    """

    def __init__(
        self,
        context: Context,
        number: int = 0,
        models: Mapping[str, Models] | None = None,
        serves: str | None = None,
    ) -> None:
        models = models or {}
        self._context, self._number = context, number
        self._spec = context.spec
        self._graph = graph_of(context.spec)
        store = open_store(self._spec.output.path, self._spec.storage, scratch=paths.SCRATCH)
        self._store: Store = SingleWriterStore(store) if context.single_writer else store
        self._note = "idle"
        self._to_write: queue.Queue[Any] = queue.Queue(8)
        self._to_prepare = Lanes(2)
        holds_model = any(step.name not in models for step in self._spec.models)
        self._device_thread = DeviceThread(
            lambda item: self._stages.infer(item), self._to_write, lambda: self._overdue, holds_model=holds_model
        )
        self._stages = Stages(
            context,
            self._store,
            open_reader(context),
            self._graph,
            self._engines_for,
            self._device_thread.call_now,
            lambda item: self._queue_of(item).put_back(item),
        )
        stages = self._stages
        prepared = PreparedColumns(kept_input(context.spec))
        stages.steps = self._steps = [
            HeldStep(
                node,
                context,
                stages.stopping,
                stages.turn,
                models.get(node.name),
                prepared,
                is_here=node.name not in models and serves in (None, node.name),
            )
            for node in self._graph.nodes
        ]
        stages.on_cpu = holds_model and all(step.device == "cpu" for step in self._steps if step.is_here)
        self._trial = Trial(context, stages.stopping)
        served = next((step.engine for step in self._steps if step.node.name == serves), None)
        self.serving = (
            Serving(served, lambda: self.has_loaded, self._device_thread.inbox.put)
            if isinstance(served, Watched)
            else None
        )
        """The model for batches that other workers have prepared; None where it serves none."""
        self._to_read: queue.Queue[Any] = queue.Queue()
        name = f"batchinfer-{number}"
        self._sending = {
            at: Sending(stages, self._to_write.put, f"{name}-{node.name}")
            for at, node in enumerate(self._graph.nodes)
            if node.name in models
        }
        """By the place of a step in the graph."""
        inbox = self._device_thread.inbox
        self._threads = begin(
            [
                ("read", self._read),
                ("prepare", lambda: pass_on(self._to_prepare.get, stages.prepare, inbox.put)),
                ("device", self._device_thread.run),
                ("write", self._write),
            ],
            name,
        )

    def _queue_of(self, item: Read | End) -> Lanes:
        """Where a window waits to be prepared."""
        sending = self._sending.get(item.window.step) if isinstance(item, Read) else None
        if isinstance(item, Read) and sending is not None and isinstance(item.run.at(item.window).engine, Apart):
            return sending.windows
        return self._to_prepare

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """Load the models, find out on their rows what is left to choose, and say it. Raises ModelError, GateError, HungError,
        DeviceError.

        `quarantined`: in child processes, where one of these rows may have ended a process before.
        """
        self._note = "measuring"
        trial = self._trial if quarantined else None
        return Measuring(self._context, self._graph, self._steps, trial, self._device_thread.call).settings(shards)

    def start(self, settings: Settings, *, quarantined: bool = False, tried: bool = False) -> None:
        """Load the models as the settings say; not yet where the first shards are in quarantine. Raises ModelError, HungError.

        `tried`: in child processes first, which say what ends a process that loads them.
        """
        settings = settings.within(lambda step: self._context.share(step).threads)
        self._stages.settings = settings
        self._stages.graph = self._graph.with_thresholds(settings.thresholds)
        self._device_thread.begin(self._streams, f"batchinfer-{self._number}-stream")
        for step in self._steps:
            step.settle(settings.steps[step.node.name])
        if tried:
            self._note = "loading"
            for step in self._steps:
                step.try_to_load()
        if not quarantined:
            self._load()
        self._note = "idle"

    @property
    def _streams(self) -> int:
        """Calls at a time of the model here that makes the most."""
        return max(step.streams for step in self._steps)

    def _load(self) -> None:
        """Have the models here, and none in a child process: there may be no memory for both."""
        self._note = "loading"
        for step in self._steps:
            step.close_child()
        for step in self._steps:
            if step.is_missing:
                self._device_thread.call(step.load)
        if self.serving is not None:
            self.serving.begin(self._streams)
        self._note = "idle"

    @property
    def has_loaded(self) -> bool:
        """Whether the models that it holds are here."""
        return not any(step.is_missing for step in self._steps)

    @property
    def without_model(self) -> tuple[Engine, Description]:
        """The loaded engine of the step that it serves for `prepare` and `finish` alone, and what it says of itself."""
        assert self.serving is not None
        return self.serving.engine.without_model()

    def _engines_for(self, shard: Shard, quarantined: bool) -> list[Engine]:
        """The engines that a shard needs, in running order, loaded; the others are let go of.

        Raises InputError for a shard in quarantine that can't be read.
        """
        if not quarantined:
            self._load()
        else:
            held = [step for step in self._steps if step.has_loaded]
            for step in held:
                step.leave()  # first: batches of other workers that come now must find another model
            for step in held:
                self._device_thread.call(step.drop)
            self._trial.read(shard)
        return [step.engine_for(shard.number, quarantined=quarantined) for step in self._steps]

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
        return self._trial.ended > 0 or any(s.quarantine is not None and s.quarantine.ended for s in self._steps)

    @property
    def _overdue(self) -> str | None:
        """That a call in hand takes too long, in words; None where none does."""
        return next((said for paces in self._paces if (said := paces.overdue)), None)

    @property
    def _paces(self) -> list[Paces]:
        return [paces for step in self._steps for paces in step.paces[:1]]

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
            overdue=self._overdue,
            patience=max((paces.patience for paces in self._paces), default=SILENT_SECONDS),
            step=stages.step,
            seconds=stages.times.seconds,
            memory=peak_bytes(),
            device_memory=gpu_peak(),
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
            while thread.is_alive() and self._overdue is None:
                thread.join(0.2)
        self._device_thread.close()
        for step in self._steps:
            step.close_child()
            if step.recall is not None:
                step.recall.close()
        self._trial.close()

    def _read(self) -> None:
        while (item := self._to_read.get()) is not None:
            for result in self._stages.read(item):
                self._queue_of(result).put(result)
                self._stages.wait_for_room()
        self._stages.drained()  # windows may come back to be prepared for another step
        for sending in self._sending.values():
            sending.end()
        self._to_prepare.put(None)

    def _write(self) -> None:
        while (item := self._to_write.get()) is not None:
            for outputs in item.result() if isinstance(item, Future) else [item]:
                for result in self._stages.finish(outputs):
                    self._stages.write(result)
        self._device_thread.writing_ended()

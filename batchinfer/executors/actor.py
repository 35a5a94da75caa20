"""A worker in a process of its own, and what is known of it from outside. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchinfer.engines.travel import Packed, pack
from batchinfer.errors import ClusterError
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker import logs, process
from batchinfer.worker.context import Context, Outcome, Progress, Served
from batchinfer.worker.memory import Room, room
from batchinfer.worker.process import ProcessId
from batchinfer.worker.serving import Answer
from batchinfer.worker.worker import AHEAD, Worker

END_SECONDS = 60.0
"""How long a worker that was killed may take to be gone."""


class Actor:
    """A worker in a process of its own. What leaves it, by a log or by an exception, which Ray writes down, repeats no secret."""

    def __init__(self, context: Context, number: int, serves: str | None = None) -> None:
        """`serves`: see Worker."""
        process.settle(context.threads, own=True)
        logs.begin(context.spec.secrets)
        self._context, self._number, self._serves = context, number, serves
        self._worker: Worker | None = None

    def _made(self) -> Worker:
        """The worker, made by the first call (`measure` or `start`), not by the constructor: of what that raises, Ray keeps only the text."""
        if self._worker is None:
            self._worker = Worker(self._context, self._number, serves=self._serves)
        return self._worker

    def process(self) -> ProcessId | None:
        """Who the actor is."""
        return process.this_process()

    def room(self) -> Room:
        """What memory is free where the worker is."""
        return room(self._context.gpus, loaded=self._worker is not None and self._worker.has_loaded)

    def measure(self, shards: Sequence[Shard], former: ProcessId | None, quarantined: bool) -> Settings:
        """See Worker.measure. `former` is the process that this one replaces."""
        _wait_for_end(former)
        with self._context.spec.secrets.kept():
            return self._made().measure(shards, quarantined=quarantined)

    def start(self, settings: Settings, former: ProcessId | None, quarantined: bool, tried: bool) -> None:
        """See Worker.start."""
        _wait_for_end(former)
        with self._context.spec.secrets.kept():
            self._made().start(settings, quarantined=quarantined, tried=tried)

    def run(self, shard: Shard, quarantined: bool) -> Outcome:
        """See Worker.submit."""
        return self._made().submit(shard, quarantined=quarantined).result()

    def without_model(self) -> Packed:
        """See Worker.without_model."""
        return pack(self._made().without_model)

    def infer(self, shard: int, batch: Packed) -> Answer:
        """See Serving.infer. A worker that isn't made yet has no model, and says so."""
        serving = None if self._worker is None else self._worker.serving
        return Answer(None, 0.0, 0) if serving is None else serving.infer(shard, batch)

    def drained(self) -> None:
        """Return once no batch of others waits here."""
        if self._worker is not None and self._worker.serving is not None:
            self._worker.serving.wait_until_drained()

    def progress(self) -> Progress:
        """See Worker.progress."""
        return Progress(self._number, note="starting") if self._worker is None else self._worker.progress()

    def stop(self) -> None:
        """See Worker.stop."""
        if self._worker is not None:
            self._worker.stop()


def _wait_for_end(former: ProcessId | None) -> None:
    """Wait until the process that is replaced is gone: it may hold the device's memory, and write."""
    if former is not None and not process.make_sure_it_ended(former, END_SECONDS):
        raise ClusterError(f"process {former.pid}, which held the worker before, was killed and is still there")


@dataclass
class Place:
    """One worker's place: the actor that holds it now, and what it has in hand."""

    number: int
    actor: Any
    process: Any
    """The call that tells the actor's process."""
    progress: Progress
    running: dict[Any, Shard] = field(default_factory=dict)
    ahead: int = AHEAD
    """Shards that it is given at once."""
    asked: Any = None
    """The call that asks for its progress."""
    asked_at: float = 0.0
    loading: Any = None
    """The call that loads the model; None for a worker that is ready."""
    loading_at: float = 0.0
    waits: bool = False
    """Whether it is to load the model once others on its machine have."""
    machine: str = ""
    """As far as it was asked for, see Room."""
    deaths: int = 0
    """Workers that died here while they loaded the model, one after the other."""
    former: ProcessId | None = None
    """The process of the actor before this one."""
    incarnation: int = 0
    """How many actors were here before this one."""
    serving: bool = False
    """Whether its model is for batches that others prepare."""
    served: Served = field(default_factory=Served)
    """By the actors before this one."""
    gone: str = ""
    """What ended the actor while it had no shard, as far as it was heard."""

    @property
    def room(self) -> int:
        """How many shards it would take now."""
        return self.ahead - len(self.running) if self.is_ready else 0

    @property
    def is_ready(self) -> bool:
        """Whether its model is loaded."""
        return self.loading is None and not self.waits

    def hangs(self, now: float) -> str:
        """Why the worker is taken for hung, in words; empty where it isn't."""
        if self.loading is not None or not (self.running or self.serving):
            return ""
        if self.progress.overdue is not None:
            return self.progress.overdue
        if self.asked is not None and now - self.asked_at > self.progress.patience:
            return f"it gave no sign of life for {self.progress.patience:g} s"
        return ""

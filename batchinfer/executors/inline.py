"""One worker in this process. Imports no Ray."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from batchinfer.errors import DeviceError, HungError
from batchinfer.executors.admission import Candidate, admit
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker import process
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress, Served
from batchinfer.worker.memory import Need, room
from batchinfer.worker.worker import AHEAD, Worker

log = logging.getLogger(__name__)


class InlineExecutor:
    """See Executor.

    A thread can't be ended from outside. So a worker whose call hangs is left behind, and from then on the model runs in a
    child process, where that can be done. After a broken device context the same helps: a child has one of its own. And once a
    row has ended a process in quarantine, others may lie ahead, and would take this process with them.
    """

    name = "inline"
    workers = 1

    def __init__(self, context: Context) -> None:
        process.settle(context.threads, own=False)
        self._context = context
        self._worker = Worker(context)
        self._running: dict[Future[Outcome], Shard] = {}
        self._settings: Settings | None = None
        self._left = False
        """Whether the model in this process is left for good."""

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor."""
        try:
            return self._worker.measure(shards, quarantined=quarantined or self._left)
        except HungError as e:
            self._replace(str(e))
        except DeviceError as e:
            self._leave(str(e))
        return self._worker.measure(shards, quarantined=True)

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._settings = settings
        need = Need.of(settings.memory)
        if need is not None and not (quarantined or self._left):
            free = room(self._context.gpus, loaded=self._worker.has_loaded)
            admit([Candidate(need, free, "resources")])
        try:
            self._worker.start(settings, quarantined=quarantined or self._left)
        except HungError as e:
            self._replace(str(e))

    def wants(self) -> int:
        """See Executor."""
        return AHEAD - len(self._running)

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._running[self._worker.submit(shard, quarantined=quarantined or self._left)] = shard

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        done, _ = concurrent.futures.wait(self._running, seconds, concurrent.futures.FIRST_COMPLETED)
        outcomes = [future.result() for future in list(self._running) if future in done and self._running.pop(future)]
        for outcome in outcomes:
            if isinstance(outcome, Failed) and outcome.failure is Failure.POISONED and not self._left:
                self._leave(outcome.error)
        if self._worker.has_seen_deaths and not self._left:
            self._leave("a row has ended a process")  # another one would end this process
        return outcomes or self._hung()

    def _hung(self) -> list[Outcome]:
        """Where a call takes too long, the worker's shards as failed; it is left behind, and a new one is in its place."""
        progress = self._worker.progress()
        if progress.overdue is None or not self._running:
            return []
        numbers = [
            shard.number for shard in reversed(self._running.values())
        ]  # put back one by one, they keep their order
        guilty = numbers if progress.shard not in numbers else [progress.shard]
        self._running.clear()
        self._replace(progress.overdue)
        return [Failed(n, Failure.HUNG if n in guilty else Failure.LOST, progress.overdue) for n in numbers]

    def _replace(self, why: str) -> None:
        self._worker.stop()  # should it ever go on
        self._leave(why)
        self._worker = Worker(self._context)
        if self._settings is not None:
            self._worker.start(self._settings, quarantined=True)

    def _leave(self, why: str) -> None:
        log.warning("%s: the model runs in a child process from here on", why)
        self._left = True

    def progress(self) -> list[Progress]:
        """See Executor."""
        return [self._worker.progress()]

    def served(self) -> Mapping[str, Served]:
        """See Executor."""
        return {}

    def stop(self) -> None:
        """See Executor."""
        self._worker.stop()

    def close(self) -> None:
        """See Executor."""
        self._worker.stop()
        self._worker.close()

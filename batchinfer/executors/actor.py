"""A worker in a process of its own, and what is known of it from outside. Knows nothing of Ray."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchinfer.errors import ClusterError
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker import logs, process
from batchinfer.worker.context import Context, Outcome, Progress
from batchinfer.worker.process import ProcessId
from batchinfer.worker.worker import AHEAD, Worker

END_SECONDS = 60.0
"""How long a worker that was killed may take to be gone."""


class Actor:
    """A worker in a process of its own. What leaves it, by a log or by an exception, which Ray writes down, repeats no secret."""

    def __init__(self, context: Context, number: int) -> None:
        process.settle(context.threads, own=True)
        logs.begin(context.spec.secrets)
        self._context, self._number = context, number

    @functools.cached_property
    def _worker(self) -> Worker:
        """Made by the first call (`measure` or `start`), not by the constructor: of what that raises, Ray keeps only the text."""
        return Worker(self._context, self._number)

    def process(self) -> ProcessId | None:
        """Who the actor is."""
        return process.this_process()

    def measure(self, shards: Sequence[Shard], former: ProcessId | None, quarantined: bool) -> Settings:
        """See Worker.measure. `former` is the process that this one replaces."""
        _wait_for_end(former)
        with self._context.spec.secrets.kept():
            return self._worker.measure(shards, quarantined=quarantined)

    def start(self, settings: Settings, former: ProcessId | None, quarantined: bool) -> None:
        """See Worker.start."""
        _wait_for_end(former)
        with self._context.spec.secrets.kept():
            self._worker.start(settings, quarantined=quarantined)

    def run(self, shard: Shard, quarantined: bool) -> Outcome:
        """See Worker.submit."""
        return self._worker.submit(shard, quarantined=quarantined).result()

    def progress(self) -> Progress:
        """See Worker.progress."""
        return self._worker.progress()

    def stop(self) -> None:
        """See Worker.stop."""
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
    asked_at: float = 0.0
    loading: Any = None
    """The call that loads the model in a replacement; None for a worker that is ready."""
    loading_at: float = 0.0

    @property
    def room(self) -> int:
        """How many shards it would take now."""
        return self.ahead - len(self.running) if self.loading is None else 0

    def hangs(self, now: float) -> str:
        """Why the worker is taken for hung, in words; empty where it isn't."""
        progress = self.progress
        if not self.running or self.loading is not None:
            return ""
        if progress.overdue is not None:
            return f"a call of the model took more than {progress.overdue:g} s (retry.timeout)"
        if self.asked is not None and now - self.asked_at > progress.patience:
            return f"it gave no sign of life for {progress.patience:g} s"
        return ""

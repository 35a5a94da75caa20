"""One worker in this process. Imports no Ray."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from concurrent.futures import Future

from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker import process
from batchinfer.worker.context import Context, Outcome, Progress
from batchinfer.worker.worker import AHEAD, Worker


class InlineExecutor:
    """See Executor."""

    name = "inline"
    workers = 1

    def __init__(self, context: Context) -> None:
        process.settle(context.threads, own=False)
        self._worker = Worker(context)
        self._running: set[Future[Outcome]] = set()

    def measure(self, shards: Sequence[Shard]) -> Settings:
        """See Executor."""
        return self._worker.measure(shards)

    def start(self, settings: Settings) -> None:
        """See Executor."""
        self._worker.start(settings)

    def wants(self) -> int:
        """See Executor."""
        return AHEAD - len(self._running)

    def submit(self, shard: Shard) -> None:
        """See Executor."""
        self._running.add(self._worker.submit(shard))

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        done, self._running = concurrent.futures.wait(self._running, seconds, concurrent.futures.FIRST_COMPLETED)
        return [future.result() for future in done]

    def progress(self) -> list[Progress]:
        """See Executor."""
        return [self._worker.progress()]

    def stop(self) -> None:
        """See Executor."""
        self._worker.stop()

    def close(self) -> None:
        """See Executor."""
        self._worker.stop()
        self._worker.close()

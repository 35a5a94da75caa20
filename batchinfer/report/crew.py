"""How busy each worker's device is of late, from the seconds that workers tell."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from batchinfer.run.events import Event, Ticked
from batchinfer.worker.context import Progress

WINDOW_SECONDS = 10.0
"""What is told is of the last so many seconds."""


class Crew:
    """A listener that keeps what workers told, as long as it is of use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[int, deque[tuple[float, Progress]]] = {}

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if not isinstance(event, Ticked):
            return
        now = self._clock()
        for progress in event.progress:
            told = self._told.setdefault(progress.worker, deque())
            if told and _done(progress) < _done(told[-1][1]):  # another process has its number
                told.clear()
            told.append((now, progress))
            while len(told) > 2 and told[1][0] <= now - WINDOW_SECONDS:
                told.popleft()

    def busy(self, worker: int) -> float | None:
        """The share of the time that a worker's device had work, 0 to 1; None where that can't be told yet, or it has no work at all."""
        told = self._told.get(worker)
        if not told or len(told) < 2:
            return None
        (begin, first), (end, last) = told[0], told[-1]
        served = last.served.busy - first.served.busy, last.served.idle - first.served.idle
        if sum(served) > 0:  # a model actor
            return served[0] / sum(served)
        if last.shard is None or end <= begin:
            return None
        return min(1.0, max(0.0, 1 - (last.seconds.wait - first.seconds.wait) / (end - begin)))


def _done(progress: Progress) -> float:
    """What only grows while a process lives."""
    return progress.seconds.infer + progress.seconds.wait + progress.served.busy + progress.served.idle

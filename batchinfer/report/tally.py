"""The figures of a run while it goes on: rows, pace, time to go, dead rows."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from batchinfer.report.figures import percent, rate, span
from batchinfer.run.events import Event, Finished, RunResult, Settled, Started, Ticked
from batchinfer.worker.context import Progress

PACE_SECONDS = 20.0
"""The rate shown is that of the last so many seconds."""
STRETCH_SECONDS = 2.0
"""How far it varies is seen from stretches of so many."""
_LEAST_PACES = 4
_SLOWEST = 4
"""Times slower than of late is the slowest that is thought of."""


class Tally:
    """The figures of a run, from its events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._began = clock()
        self._settled: float | None = None
        self.name = ""
        self.planned = self.rows = self.dead = 0
        self.workers: list[Progress] = []
        self.started = False
        self.result: RunResult | None = None
        self.work_seconds = 0.0
        """From the model being loaded to the end."""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        now = self._clock()
        if isinstance(event, Started):
            self.started = True
            self.name, self.planned, self.rows = event.plan.spec.name, event.plan.rows, event.decided_rows
        elif isinstance(event, Settled):
            self._settled = now
            self._samples.append((now, self.rows))
        elif isinstance(event, Ticked):
            self.workers = event.progress
            in_hand = sum(p.in_hand for p in event.progress)
            self.rows = max(self.rows, min(self.planned, event.decided_rows + in_hand))
            self.dead = max(self.dead, sum(p.dead for p in event.progress))
            self._samples.append((now, self.rows))
            while len(self._samples) > 2 and self._samples[0][0] < now - PACE_SECONDS:
                self._samples.popleft()
        elif isinstance(event, Finished):
            self.result = event.result
            self.work_seconds = now - self._settled if self._settled is not None else 0.0

    @property
    def pace(self) -> float:
        """Rows a second of late."""
        if len(self._samples) < 2:
            return 0.0
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def figures(self) -> list[str]:
        """Pace, time to go, and dead rows, in words."""
        words = []
        if self.pace > 0:
            words.append(rate(self.pace))
            if self.rows < self.planned:
                words.append(f"ETA {span(*self.eta_range)}")
        return [*words, *([f"{self.dead:,} dead"] if self.dead else [])]

    @property
    def line(self) -> str:
        """Rows done and the figures, in one line."""
        return ", ".join([f"{self.rows:,} of {self.planned:,} rows ({self.share})", *self.figures])

    @property
    def eta(self) -> float:
        """Seconds to go at the pace of late; infinite where nothing moves."""
        return (self.planned - self.rows) / self.pace if self.pace > 0 else math.inf

    @property
    def eta_range(self) -> tuple[float, float]:
        """Seconds to go at the least and at the most: at twice the standard error of the paces of late to either side of their mean."""
        paces = self._paces()
        if len(paces) < _LEAST_PACES:
            return self.eta, self.eta
        error = 2 * statistics.stdev(paces) / math.sqrt(len(paces))
        left = self.planned - self.rows
        return left / (self.pace + error), left / max(self.pace - error, self.pace / _SLOWEST)

    def _paces(self) -> list[float]:
        """Rows a second of each of the stretches that were looked at of late."""
        paces: list[float] = []
        begin, first = self._samples[0] if self._samples else (0.0, 0)
        for now, rows in self._samples:
            if now - begin >= STRETCH_SECONDS:
                paces.append((rows - first) / (now - begin))
                begin, first = now, rows
        return paces

    @property
    def share(self) -> str:
        """Rows done, as a percentage."""
        return percent(self.rows, self.planned)

"""How long calls take, and which of them takes too long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

LEAST_SECONDS = 60.0
"""No call is taken for hung before."""
TIMES = 10
"""Nor before so many times what calls take: the 95th percentile of the last ones, by the call and by the row."""
UNKNOWN_SECONDS = 1800.0
"""The limit while nothing is known of the pace: the first call may compile, download, or load."""
_CALLS = 200


class Pace:
    """The last calls of one kind, and those that go on. Any thread may use it.

    Args:
        timeout: seconds that a call may take; None for a limit from the pace.
        clock: seconds, never going back.

    """

    def __init__(self, timeout: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout, self._clock = timeout, clock
        self._seconds: deque[float] = deque(maxlen=_CALLS)
        self._by_row: deque[float] = deque(maxlen=_CALLS)
        self._running: dict[int, tuple[float, int]] = {}

    @contextlib.contextmanager
    def call(self, rows: int) -> Iterator[None]:
        """A call over so many rows goes on while the block runs; one that raises says nothing of the pace."""
        thread, began = threading.get_ident(), self._clock()
        self._running[thread] = began, rows
        try:
            yield
            self.note(self._clock() - began, rows)
        finally:
            del self._running[thread]

    def note(self, seconds: float, rows: int) -> None:
        """A call took so long."""
        self._seconds.append(seconds)
        self._by_row.append(seconds / max(1, rows))

    @property
    def by_row(self) -> float | None:
        """Seconds a row, at the 95th percentile of calls; None before the first."""
        return _p95(self._by_row)

    def begin_at(self, by_row: float | None) -> None:
        """Take over the seconds a row that were measured before."""
        if by_row is not None and not self._by_row:
            self._by_row.append(by_row)

    def limit(self, rows: int) -> float:
        """Seconds that a call over so many rows may take."""
        if self._timeout is not None:
            return self._timeout
        by_row = self.by_row
        if by_row is None:
            return UNKNOWN_SECONDS
        return max(LEAST_SECONDS, TIMES * max(_p95(self._seconds) or 0.0, by_row * rows))

    @property
    def overdue(self) -> float | None:
        """Seconds that the call in hand was allowed, where it has taken longer."""
        now = self._clock()
        for began, rows in list(self._running.values()):
            if now - began > (limit := self.limit(rows)):
                return limit
        return None

    @property
    def allowed(self) -> float:
        """Seconds that the calls in hand may take from now on at most; what a call takes where there is none."""
        return max((self.limit(rows) for _, rows in list(self._running.values())), default=self.limit(0))


def _p95(values: deque[float]) -> float | None:
    ordered = sorted(values)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else None

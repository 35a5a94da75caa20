"""How long calls take, and which of them takes too long."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

LEAST_SECONDS = 60.0
"""No call is taken for hung before, where the user names no limit."""
TIMES = 10
"""Nor before so many times what calls take: the 95th percentile of the last ones, by the call and by the row."""
UNKNOWN_SECONDS = 1800.0
"""The limit while nothing is known of the pace: the first call may compile, download, or load."""
SILENT_SECONDS = 5.0
"""How much longer than its call may take a worker may be silent."""
_CALLS = 200


class Pace:
    """The last calls of one kind, and those that go on. Any thread may use it.

    Args:
        what: the kind of call, in words.
        timeout: seconds that a call may take; None for a limit from the pace.
        rows: that the timeout is for, so that a call over twice as many may take twice as long; None for any number.
        clock: seconds, never going back.

    """

    def __init__(
        self,
        what: str,
        timeout: float | None = None,
        rows: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows = rows
        self._what, self._timeout, self._clock = what, timeout, clock
        self._seconds: deque[float] = deque(maxlen=_CALLS)
        self._by_row: deque[float] = deque(maxlen=_CALLS)
        self._running: dict[int, tuple[float, int]] = {}

    def call(self, rows: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function gives for so many rows; a call that raises says nothing of the pace."""
        thread, began = threading.get_ident(), self._clock()
        self._running[thread] = began, rows
        try:
            given = function(*arguments)
        finally:
            del self._running[thread]
        self.note(self._clock() - began, rows)
        return given

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

    def limit(self, rows: int = 1) -> float:
        """Seconds that a call over so many rows may take."""
        if self._timeout is not None:
            return self._timeout * (1 if self.rows is None else max(1, -(-rows // self.rows)))
        by_row = self.by_row
        if by_row is None:
            return UNKNOWN_SECONDS
        return max(LEAST_SECONDS, TIMES * max(_p95(self._seconds) or 0.0, by_row * rows))

    @property
    def overdue(self) -> str | None:
        """That a call in hand takes too long, in words; None where none does."""
        now = self._clock()
        for began, rows in list(self._running.values()):
            if now - began > (limit := self.limit(rows)):
                return f"{self._what} took more than {limit:g} s"
        return None

    @property
    def in_hand(self) -> list[float]:
        """Seconds that each call in hand may take."""
        return [self.limit(rows) for _, rows in list(self._running.values())]


class Paces:
    """The paces of an engine's calls.

    Args:
        timeout: seconds that a call of the model may take; None for a limit from the pace.

    """

    def __init__(self, timeout: float | None) -> None:
        self.infer = Pace("a call of the model (retry.timeout)", timeout)
        self.prepare = Pace("preparing rows for the model (retry.timeout)", timeout, rows=1)
        """As long as the calls on the rows: a window is prepared at once, and makes many batches."""
        self.batch = Pace("preparing a batch for the model (retry.timeout)", timeout)
        self.finish = Pace("finishing the model's outputs (retry.timeout)", timeout)
        self.load = Pace("loading the model", UNKNOWN_SECONDS)

    def settle(self, by_row: float | None, rows: int) -> None:
        """Take over what was measured: seconds a row of `infer`, and the rows of a batch."""
        self.infer.begin_at(by_row)
        self.prepare.rows = rows

    @property
    def overdue(self) -> str | None:
        """That a call in hand takes too long, in words; None where none does."""
        return next((said for pace in self._all if (said := pace.overdue)), None)

    @property
    def patience(self) -> float:
        """Seconds of silence after which a worker hangs, in a call that lets no other thread run."""
        in_hand = [seconds for pace in self._all for seconds in pace.in_hand]
        return SILENT_SECONDS + (max(in_hand) if in_hand else max(LEAST_SECONDS, self.infer.limit()))

    @property
    def _all(self) -> tuple[Pace, ...]:
        return self.infer, self.prepare, self.batch, self.finish, self.load


def _p95(values: deque[float]) -> float | None:
    ordered = sorted(values)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else None

"""A run in lines, for where nothing can be drawn: what happens, and every few seconds and at the end how far it is."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from batchinfer.report.tally import Tally
from batchinfer.report.words import note, stopping
from batchinfer.run.events import Event, Finished, GivenUp, Retried, Settled, Ticked
from batchinfer.run.stop import StopRequest

FIRST_LINE_SECONDS, LINE_SECONDS, LATER_LINE_SECONDS, LATER = 1.0, 5.0, 30.0, 600.0


class Display(Protocol):
    """Shows a run while it goes on: a listener, which is told after the tally, and a context."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""


class Lines:
    """See above.

    Args:
        tally: the figures; must be told of each event first.
        stop: whether the run was asked to end.
        say: takes a line.
        failures_alone: whether to leave out all but failures, and that the run was asked to end.

    """

    def __init__(
        self, tally: Tally, stop: StopRequest, say: Callable[[str], None], *, failures_alone: bool = False
    ) -> None:
        self._tally, self._stop, self._say, self._failures_alone = tally, stop, say, failures_alone
        self._next = 0.0
        self._said_stopping = False

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        text = note(event)
        if text is not None and (not self._failures_alone or isinstance(event, Retried | GivenUp)):
            self._say(text)
        now = self._tally.seconds
        if isinstance(event, Settled):
            self._next = now + FIRST_LINE_SECONDS
        if self._stop and not self._said_stopping:
            self._said_stopping = True
            self._say(stopping(self._stop))
        ended = isinstance(event, Finished) and self._tally.started
        if not self._failures_alone and (ended or (isinstance(event, Ticked) and now >= self._next)):
            self._next = now + (LINE_SECONDS if now < LATER else LATER_LINE_SECONDS)
            self._say(self._tally.line)

    def refresh(self) -> None:
        """Nothing is drawn twice."""

"""How far a run is, on stderr: plain lines for where there is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from batchinfer.cli.streams import tell
from batchinfer.report.tally import Tally
from batchinfer.report.words import note, stopping
from batchinfer.run.events import Event, GivenUp, Retried, Settled, Ticked
from batchinfer.run.stop import StopRequest

FIRST_LINE_SECONDS, LINE_SECONDS, LATER_LINE_SECONDS, LATER = 1.0, 5.0, 30.0, 600.0


class Display(Protocol):
    """Shows a run while it goes on; a context."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""


class PlainDisplay:
    """A line every few seconds on stderr.

    Args:
        tally: the figures; must be told of each event first.
        stop: whether the run was asked to end.
        lines: whether to write the periodic lines, or failures alone.

    """

    def __init__(self, tally: Tally, stop: StopRequest, *, lines: bool = True) -> None:
        self._tally, self._stop, self._lines = tally, stop, lines
        self._next = 0.0
        self._said_stopping = False

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        text = note(event)
        if text is not None and (self._lines or isinstance(event, Retried | GivenUp)):
            tell(f"batchinfer: {text}")
        now = self._tally.seconds
        if isinstance(event, Settled):
            self._next = now + FIRST_LINE_SECONDS
        if self._stop and not self._said_stopping:
            self._said_stopping = True
            tell(f"batchinfer: {stopping(self._stop)}")
        if self._lines and isinstance(event, Ticked) and now >= self._next:
            self._next = now + (LINE_SECONDS if now < LATER else LATER_LINE_SECONDS)
            tell(f"batchinfer: {self._line()}")

    def _line(self) -> str:
        tally = self._tally
        return ", ".join([f"{tally.rows:,}/{tally.planned:,} rows ({tally.share})", *tally.figures])

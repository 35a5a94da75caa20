"""Which display a run in this process gets, and the plainest of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, TextIO, get_args

from batchinfer.api.notebook import Widget, publisher
from batchinfer.report.tally import Tally
from batchinfer.report.words import note, stopping
from batchinfer.run.events import Event, Ticked
from batchinfer.run.stop import StopRequest

Progress = Literal["auto", "bar", "plain", "none"]
"""`auto`: a bar in a notebook, else nothing. `bar`: lines where there is no notebook. `plain`: lines, on stderr outside of a notebook."""
LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows a run while it goes on: a listener, which is told after the tally, and a context."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""

    def refresh(self) -> None:
        """Show it as it is now."""


def display(mode: Progress, name: str, tally: Tally, stop: StopRequest) -> Display:
    """The display that is asked for, of a job of this name. Raises ValueError for another word."""
    if mode not in get_args(Progress):
        raise ValueError(f"progress={mode!r}: write one of {', '.join(map(repr, get_args(Progress)))}")
    publish = None if mode == "none" else publisher()
    if publish is not None and mode != "plain":
        return Widget(name, tally, stop, publish)
    lines = mode in ("bar", "plain")
    return Lines(name, tally, stop, (sys.stderr if publish is None else sys.stdout) if lines else None)


class Lines:
    """A line for what happens, and every few seconds one with the figures.

    Args:
        name: of the job.
        tally: the figures.
        stop: whether the run was asked to end.
        stream: where the lines go; None for nowhere.
        clock: in seconds.

    """

    def __init__(
        self,
        name: str,
        tally: Tally,
        stop: StopRequest,
        stream: TextIO | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._tally, self._stop, self._stream, self._clock = name, tally, stop, stream, clock
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
        if (text := note(event)) is not None:
            self._say(text)
        if self._stop and not self._said_stopping:
            self._said_stopping = True
            self._say(stopping(self._stop))
        if isinstance(event, Ticked) and self._clock() >= self._next:
            self._next = self._clock() + LINE_SECONDS
            self._say(self._tally.line)

    def refresh(self) -> None:
        """Nothing is drawn twice."""

    def _say(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(f"{self._name}: {text}\n")
            self._stream.flush()

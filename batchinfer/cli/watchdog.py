"""Ends the program where the model's code keeps Python to itself: nothing else can then, not even a signal's handler."""

from __future__ import annotations

import faulthandler
import threading
from types import TracebackType

from batchinfer.run.events import Event, Ticked

_LOAD_SECONDS = 1800.0
_STDERR = 2


class Watchdog:
    """While the context lasts, a thread shows every second that Python runs; where it can't for too long, the program ends with 1.

    The stacks of all threads are written to standard error then. The same command goes on, and after the second such end at
    one place the model runs in a child process there.
    """

    def __init__(self) -> None:
        self._seconds = _LOAD_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="batchinfer-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Ticked):
            self._seconds = max((p.patience for p in event.progress), default=_LOAD_SECONDS)
            self._arm()  # the call in hand may be the one

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=_STDERR)

    def _show(self) -> None:
        while not self._ended.is_set():
            self._arm()
            self._ended.wait(1.0)

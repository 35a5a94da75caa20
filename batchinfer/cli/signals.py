"""SIGTERM and Ctrl-C: the first one lets the run end in order, the second one ends the program."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from batchinfer.errors import StoppedError
from batchinfer.run.events import Event, Settled, Started
from batchinfer.run.stop import StopRequest

GRACE_SECONDS = 18.0
"""After the first signal: whoever sends SIGTERM kills at 30 s or sooner. What is lost by then is less than a checkpoint interval."""
_SHOW_CURSOR = b"\x1b[?25h"


class Signals:
    """Signal handlers for a run, in place while the context lasts.

    Before workers are loaded there is nothing to drain, and the signal becomes a StoppedError in the main thread; afterwards it
    becomes a StopRequest.
    """

    def __init__(self) -> None:
        self.stop = StopRequest()
        self._asked = self._draining = False
        self._deadline: threading.Timer | None = None
        self.at_exit: Callable[[], object] = lambda: None
        """Done before a second signal, or a run that doesn't end in time, ends the program: nothing else is then."""
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._former = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def watch(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Started | Settled):  # what follows another run's end has nothing to drain either
            self._draining = isinstance(event, Settled)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        cancelled = number == signal.SIGINT
        code = 130 if cancelled else 75
        if self._asked:
            self._exit(code)
        self._asked = True
        reason = "interrupted" if cancelled else "terminated by SIGTERM"
        self._deadline = threading.Timer(GRACE_SECONDS, self._exit, (code,))
        self._deadline.daemon = True
        self._deadline.start()
        if self._draining:
            self.stop.ask(reason, cancelled=cancelled)
        else:
            raise StoppedError(f"{reason}; the same command goes on from here", cancelled=cancelled)

    def _exit(self, code: int) -> None:
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        with contextlib.suppress(Exception):
            self.at_exit()
        os._exit(code)

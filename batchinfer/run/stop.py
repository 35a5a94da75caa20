"""A request to stop, made by a signal, a notebook or a deadline, and honoured by the runner between two looks at its workers."""

from __future__ import annotations

import threading


class StopRequest:
    """Set once; the first reason counts."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""
        self.cancelled = False

    def ask(self, reason: str, *, cancelled: bool = False) -> None:
        """Ask the run to drain and end; `cancelled` where a person did so (exit 130 instead of 75)."""
        if not self._event.is_set():
            self.reason, self.cancelled = reason, cancelled
            self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

"""The way of a step whose model is elsewhere, beside that of the steps whose models the worker holds."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from batchinfer.worker.lanes import Lanes, begin, pass_on
from batchinfer.worker.stages import Stages


class Sending:
    """Prepares windows, sends their batches and finishes the answers, each on a thread of its own.

    So a step whose model actors are all at work holds up neither the other steps nor the writing of what those give. What comes of
    the batches goes on in their order.

    Args:
        stages: of the worker.
        put: takes results for the writing thread.
        name: of the threads, for people.

    """

    def __init__(self, stages: Stages, put: Callable[[Any], None], name: str) -> None:
        self.windows = Lanes(2)
        self._put = put
        batches: queue.Queue[Any] = queue.Queue(2)
        sent: queue.Queue[Any] = queue.Queue(8)
        self._threads = begin(
            [
                ("prepare", lambda: pass_on(self.windows.get, stages.prepare, batches.put)),
                ("send", lambda: pass_on(batches.get, stages.infer, sent.put)),
                ("finish", lambda: pass_on(sent.get, stages.finish, self._hand_on)),
            ],
            name,
        )

    def _hand_on(self, result: Any) -> None:
        if result is not None:  # the writing thread ends when the worker says so
            self._put(result)

    def end(self) -> None:
        """Return once the threads have ended, after the windows that were put in."""
        self.windows.put_back(None)
        for thread in self._threads:
            thread.join()

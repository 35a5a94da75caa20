"""Where the time goes: seconds by stage, added by any thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from batchinfer.worker.context import Seconds


class StageTimes:
    """Seconds by stage of a shard, or of a worker.

    Args:
        within: those of the worker, to which everything is added too.

    """

    def __init__(self, within: StageTimes | None = None) -> None:
        self._within = within
        self._seconds = dict.fromkeys(Seconds.__dataclass_fields__, 0.0)
        self._adding = threading.Lock()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage, a field of `Seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add time to a stage, a field of `Seconds`."""
        with self._adding:
            self._seconds[stage] += seconds
        if self._within is not None:
            self._within.add(stage, seconds)

    @property
    def seconds(self) -> Seconds:
        """The sum so far."""
        with self._adding:
            return Seconds(**self._seconds)

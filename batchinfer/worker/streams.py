"""Several calls at a time: as many threads, and never more in hand than there are threads."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from batchinfer.worker.items import Call


class Streams:
    """Threads that calls are handed to, each with one in hand at most. They don't hold up the end of the process: a call may hang.

    Args:
        count: of threads.
        name: of them, for people.

    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._free = count, threading.Semaphore(count)
        self._counting = threading.Lock()
        self._in_hand = 0
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            with self._counting:
                self._in_hand -= 1
            self._free.release()

    @property
    def busy(self) -> bool:
        """Whether any of them has a call in hand."""
        return self._in_hand > 0

    def wait(self, seconds: float) -> bool:
        """Wait for a thread that has nothing to do, and keep it for `submit`; False where there is none within so many seconds."""
        return self._free.acquire(timeout=seconds)

    @contextlib.contextmanager
    def none(self, meanwhile: Callable[[], None], seconds: float) -> Iterator[None]:
        """For the block none of the threads has anything to do; `meanwhile` is called every so many seconds until that is so."""
        kept = 0
        try:
            while kept < self._count:
                if self._free.acquire(timeout=seconds):
                    kept += 1
                else:
                    meanwhile()
            yield
        finally:
            if kept:
                self._free.release(kept)

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Call the function on the thread that was waited for."""
        call = Call(function, Future())
        with self._counting:
            self._in_hand += 1
        self._calls.put(call)
        return call.future

    def close(self) -> None:
        """End each thread as soon as it has nothing in hand."""
        for _ in range(self._count):
            self._calls.put(None)

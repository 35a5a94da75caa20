"""Threads for short jobs, also while the program ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.pool import ThreadPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """An executor that takes work as long as its threads can be begun. Those of concurrent.futures refuse it once the main thread is
    through, when a run in the background may go on for hours.

    Args:
        count: of threads.
        name: of each.

    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPool(count, lambda: setattr(threading.current_thread(), "name", name))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as e:  # noqa: BLE001 - handed to whoever waits
                    future.set_exception(e)

        self._pool.apply_async(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor; what was submitted is done, unless it was cancelled."""
        del cancel_futures
        self._pool.close()
        if wait:
            self._pool.join()

"""Queues of windows, and the thread of a stage that takes from one queue and puts into the next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class Lanes:
    """A queue with two lanes: windows that come back for their next step go first, and never wait to get in.

    What comes back is never held up, so that no stage of a worker waits for one before it.

    Args:
        size: items that may wait to go in for the first time.

    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._new: deque[Any] = deque()
        self._back: deque[Any] = deque()
        self._changed = threading.Condition()

    def put(self, item: Any) -> None:
        """Add an item; waits while there are as many as there may be."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._new) < self._size)
            self._new.append(item)
            self._changed.notify_all()

    def put_back(self, item: Any) -> None:
        """Add an item that was here before."""
        with self._changed:
            self._back.append(item)
            self._changed.notify_all()

    def get(self) -> Any:
        """The next item; waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._back or self._new)
            item = self._back.popleft() if self._back else self._new.popleft()
            self._changed.notify_all()
            return item


def pass_on(get: Callable[[], Any], work: Callable[[Any], Iterable[Any]], put: Callable[[Any], None]) -> None:
    """Put what each item comes to, until None comes, and that too."""
    while (item := get()) is not None:
        for result in work(item):
            put(result)
    put(None)


def begin(work: Iterable[tuple[str, Callable[[], None]]], name: str) -> list[threading.Thread]:
    """A thread for each function, begun; none of them holds up the end of the process."""
    threads = [threading.Thread(target=function, name=f"{name}-{what}", daemon=True) for what, function in work]
    for thread in threads:
        thread.start()
    return threads

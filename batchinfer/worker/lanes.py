"""A queue with two lanes: windows that come back for their next step go first, and never wait to get in."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Lanes:
    """See above. What comes back is never held up, so that no stage of a worker waits for one before it.

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

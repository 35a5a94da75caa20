"""Work for others that a run must neither wait for nor fail by: done in order, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator

from batchinfer.job.secrets import Secrets

log = logging.getLogger(__name__)


class Outbox:
    """Does what is put into it, one after the other; the first failure is logged as a warning, later ones for debugging only.

    Args:
        name: of whom the work is for, in messages.
        secrets: which no message may repeat.

    """

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name, self._secrets = name, secrets
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._warned = False

    @property
    def is_idle(self) -> bool:
        """Whether everything that was put in is done."""
        return self._waiting.unfinished_tasks == 0

    def put(self, work: Callable[[], object]) -> None:
        """Have it done soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"batchinfer-{self._name}", daemon=True)
            self._thread.start()
        self._waiting.put(work)

    def close(self, seconds: float) -> None:
        """Nothing more comes: wait so long at most until all is done. What is left then goes on as long as the process does."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"not everything has arrived within {seconds:g} s of the run's end")

    def _work(self) -> None:
        with _retries_unsaid():
            while (work := self._waiting.get()) is not None:
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - of clients and servers that the run doesn't depend on
                    self._warn(f"{type(error).__name__}: {error}")
                self._waiting.task_done()
            self._waiting.task_done()

    def _warn(self, why: str) -> None:
        # As text: a record that holds the exception would hold the request with its credentials.
        level = logging.DEBUG if self._warned else logging.WARNING
        log.log(level, "%s: %s; the run goes on", self._name, self._secrets.hide(why))
        self._warned = True


@contextlib.contextmanager
def _retries_unsaid() -> Iterator[None]:
    """Leave out what urllib3 warns of in this thread: each time that it tries a request again."""
    mine = threading.get_ident()
    logger = logging.getLogger("urllib3.connectionpool")

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != mine

    logger.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)

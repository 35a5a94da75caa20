"""The machines of the histories: virtual time, clocks that are set wrong, and processes that one machine sees and another doesn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from batchinfer.ledger.host import Host
from batchinfer.testing.simulator.scheduler import Killed, Process, Scheduler

T = TypeVar("T")
_BEGIN = datetime(2026, 11, 22, tzinfo=UTC)


class SimulatedHost(Host):
    """The machine of one process."""

    def __init__(
        self,
        scheduler: Scheduler,
        process: Process,
        processes: Mapping[str, Process],
        wrong: float,
        *,
        blind: bool,
    ) -> None:
        self._scheduler, self._process, self._processes = scheduler, process, processes
        self._blind = blind
        self._wrong = timedelta(seconds=wrong)

    def monotonic(self) -> float:
        """See Host."""
        return self._scheduler.now

    def now(self) -> datetime:
        """See Host."""
        return _BEGIN + timedelta(seconds=self._scheduler.now) + self._wrong

    def sleep(self, seconds: float) -> None:
        """See Host."""
        self._scheduler.pause(seconds)

    def threads(self, count: int, name: str) -> Executor:
        """See Host: the jobs are done at once."""
        del count, name
        return _AtOnce()

    def every(self, seconds: float, action: Callable[[], bool], name: str) -> Callable[[], None]:
        """See Host."""
        ended = False

        def go_on() -> None:
            self._scheduler.pause(seconds)
            while not ended and action():
                self._scheduler.pause(seconds)

        self._scheduler.spawn(self._process, name, go_on)

        def end() -> None:
            nonlocal ended
            ended = True

        return end

    def within(self, seconds: float, action: Callable[[], None], name: str) -> None:
        """See Host: nothing takes long here."""
        del seconds, name
        action()

    def identity(self) -> dict[str, Any]:
        """See Host."""
        process = self._process
        return {
            "host": process.machine,
            "boot": process.machine,
            "pid": process.pid,
            "process_start": f"{process.started:.3f}",
            "name": process.name,
        }

    def seen(self, record: dict[str, Any]) -> str:
        """See Host."""
        if self._blind:
            return "dead"
        process = self._processes.get(record["name"])
        if process is None or process.machine != self._process.machine or process is self._process:
            return "unknown"
        if process.dead:
            return "dead"
        return "unknown" if process.paused_until > self._scheduler.now else "alive"


class _AtOnce(Executor):
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Killed:
            raise
        except BaseException as e:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(e)
        return future

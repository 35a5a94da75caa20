"""What keeps a run within its limits: it counts the devices that are held, and asks for the end once a limit is reached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from batchinfer.executors.protocol import Executor
from batchinfer.ledger.host import Host
from batchinfer.ledger.spending import Meter
from batchinfer.run.limits import Limits
from batchinfer.run.resources import Allotment
from batchinfer.run.stop import StopRequest

_LOOK_SECONDS = 0.25


class Bounds:
    """See the module.

    Args:
        limits: of the job.
        meter: of the run.
        stop: is asked for the end, with the reason.
        host: this machine.

    """

    def __init__(self, limits: Limits, meter: Meter, stop: StopRequest, host: Host) -> None:
        self._limits, self._meter, self._stop, self._host = limits, meter, stop, host

    def look(self) -> bool:
        """Whether the run may go on, as far as its limits say; where not, its end is asked for."""
        why = self._limits.exceeded(self._meter.seconds, self._meter.job_device_seconds)
        if why is not None:
            self._stop.ask(why)
        return why is None

    @contextlib.contextmanager
    def devices(self, allotment: Allotment) -> Iterator[None]:
        """The devices are held while the block runs: from when workers are asked for until they are let go of."""
        # A cluster that isn't joined yet says only then how many workers it has a place for.
        actors = {step: pool.least for step, pool in allotment.pools.items()}
        self._meter.hold(allotment.devices(allotment.workers or 0, actors))
        try:
            yield
        finally:
            self._meter.hold(0)

    def count(self, executor: Executor, allotment: Allotment) -> None:
        """Count the devices that the workers hold now: pools grow and shrink."""
        actors = {step: served.actors for step, served in executor.served().items()}
        self._meter.hold(allotment.devices(executor.workers, actors))

    @contextlib.contextmanager
    def watched(self, executor: Executor) -> Iterator[None]:
        """While the block waits for workers to measure and to load, another thread stops them once a limit is reached."""
        if not self._limits.are_given:
            yield
            return

        def go_on() -> bool:
            if self.look():
                return True
            executor.stop()
            return False

        end = self._host.every(_LOOK_SECONDS, go_on, "batchinfer-limits")
        try:
            yield
        finally:
            end()

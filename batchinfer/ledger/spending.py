"""What a job takes of devices: seconds of each one that its runs hold, and what these cost.

What a device is, `Allotment.devices` says. A runner's seconds outlast it in its heartbeats: those of a killed one count up to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JOB_SECONDS = "job_device_seconds"
"""The key under which a runner's records hold the device-seconds of the job so far, those of the runs before it included."""


def cost(device_seconds: float, price_per_hour: float | None) -> float | None:
    """Money for device-seconds, in the price's currency; None without a price."""
    return None if price_per_hour is None else device_seconds / 3600 * price_per_hour


@dataclass(frozen=True)
class Spent:
    """What a run took, and what the job has taken so far."""

    devices: float = 0.0
    """The most that the run held at a time."""
    device_seconds: float = 0.0
    """Of the run."""
    job_device_seconds: float = 0.0
    """Of all runs of the job, this one among them."""
    price_per_hour: float | None = None
    """Of a device; None where the job gives none."""

    @property
    def cost(self) -> float | None:
        """Of the run; None without a price."""
        return cost(self.device_seconds, self.price_per_hour)

    @property
    def job_cost(self) -> float | None:
        """Of all runs of the job, at today's price; None without one."""
        return cost(self.job_device_seconds, self.price_per_hour)

    def to_json(self) -> dict[str, Any]:
        """The figures of `run_results.json`."""
        money = {"cost": self.cost, "job_cost": self.job_cost}
        return {
            "devices": self.devices,
            "device_seconds": round(self.device_seconds, 3),
            JOB_SECONDS: round(self.job_device_seconds, 3),
            **{key: None if value is None else round(value, 6) for key, value in money.items()},
        }


class Meter:
    """Counts the device-seconds of a run. Any thread may ask it.

    Args:
        former: device-seconds of the job's runs before.
        clock: seconds since some moment, never going back.

    """

    def __init__(self, former: float, clock: Callable[[], float]) -> None:
        self._former, self._clock = former, clock
        self._begun = clock()
        self._held = (0.0, self._begun, 0.0)
        """Device-seconds until a moment, the moment, and the devices held since: one value, as other threads read it."""
        self._most = 0.0

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._clock() - self._begun

    @property
    def job_device_seconds(self) -> float:
        """Of all runs of the job, up to now."""
        return self._former + self._device_seconds()[0]

    def hold(self, devices: float) -> None:
        """The run holds so many devices from now on."""
        self._most = max(self._most, devices)
        self._held = (*self._device_seconds(), devices)

    def _device_seconds(self) -> tuple[float, float]:
        """Of this run up to now, and which moment that is."""
        until, moment, devices = self._held
        now = self._clock()
        return until + max(0.0, now - moment) * devices, now

    def spent(self, price_per_hour: float | None) -> Spent:
        """What was taken up to now."""
        own = self._device_seconds()[0]
        return Spent(self._most, own, self._former + own, price_per_hour)

    def to_json(self) -> dict[str, float]:
        """For the runner's records."""
        own = self._device_seconds()[0]
        return {"device_seconds": round(own, 6), JOB_SECONDS: round(self._former + own, 6)}

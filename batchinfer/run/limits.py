"""When a run is to stop by itself: `run.max_runtime` and `run.max_cost`. A pure function of time and of device-seconds."""

from __future__ import annotations

from dataclasses import dataclass

from batchinfer.job.spec import JobSpec
from batchinfer.ledger.spending import cost


@dataclass(frozen=True)
class Limits:
    """What a job may take."""

    max_runtime: float | None = None
    """Seconds of one run, measuring and loading of models included."""
    max_cost: float | None = None
    """Of all runs of the job together."""
    price_per_hour: float | None = None
    """Of a device."""

    @classmethod
    def of(cls, spec: JobSpec) -> Limits:
        """Those that a job file gives."""
        return cls(spec.run.max_runtime, spec.run.max_cost, spec.resources.price_per_hour)

    @property
    def are_given(self) -> bool:
        """Whether there is any."""
        return self.max_runtime is not None or self.max_cost is not None

    def exceeded(self, seconds: float, job_device_seconds: float) -> str | None:
        """Why the run is to stop now, in words; None where it may go on.

        Args:
            seconds: since the run began.
            job_device_seconds: of all runs of the job, this one among them.

        """
        if self.max_runtime is not None and seconds >= self.max_runtime:
            return f"run.max_runtime of {self.max_runtime:g} s is over; the same command goes on from here"
        taken = cost(job_device_seconds, self.price_per_hour)
        if self.max_cost is not None and taken is not None and taken >= self.max_cost:
            return (
                f"run.max_cost of {self.max_cost:g} is spent: the runs of this job took {job_device_seconds / 3600:.3g} device-hours at "
                f"{self.price_per_hour:g} each, {taken:.3g} in all; to go on from here, run it with a larger one, such as "
                f"--set run.max_cost={self.max_cost * (taken // self.max_cost + 1):g}"
            )
        return None

"""`Job.measure`: a few hundred rows of a job are really run, aside, to say what the whole of it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from batchinfer.api.aside import aside, failed
from batchinfer.api.canary_watch import CanaryWatch
from batchinfer.engines import registry
from batchinfer.errors import ClusterError, MissingExtraError, RefusedError, ResourceError
from batchinfer.job.spec import JobSpec, Resources
from batchinfer.measure.canary import Canary, Comparison, Mark, compare, row_seconds
from batchinfer.measure.settings import Settings
from batchinfer.plan.canary import rounds
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard
from batchinfer.run import runner
from batchinfer.run.events import Listener, RunResult
from batchinfer.run.limits import Limits
from batchinfer.run.resources import allot
from batchinfer.run.stop import StopRequest
from batchinfer.worker.memory import Need

ROWS = 512
"""Rows for each worker unless others are asked for."""
PIECES = 8
"""Pieces that a worker's rows are in, in each round."""

ExecutorName = Literal["inline", "ray"]


@dataclass(frozen=True)
class Measurement:
    """What a job's canaries say of it."""

    rows: int
    """Of the job, that it reads."""
    price_per_hour: float | None
    canaries: tuple[Canary, ...]
    """That of the executor that the job would use, then the other's where it could be measured; none for a job without rows."""
    settings: Settings | None
    """Of the first one."""
    dead: int
    """Rows of its that could not be predicted."""
    notes: tuple[str, ...]
    """What could not be measured, and why."""

    @property
    def comparison(self) -> Comparison | None:
        """Which executor is sooner; None where one alone was measured."""
        return compare(*self.canaries, self.rows) if len(self.canaries) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        compared = self.comparison
        return {
            "rows": self.rows,
            "price_per_hour": self.price_per_hour,
            "executors": [canary.to_json(self.rows, self.price_per_hour) for canary in self.canaries],
            "sooner": compared.sooner if compared else None,
            "crossing_rows": compared.crossing if compared else None,
            "dead": self.dead,
            "notes": list(self.notes),
        }


def measure(
    plan: Plan, folder: Path, rows: int = ROWS, listener: Listener | None = None, stop: StopRequest | None = None
) -> Measurement:
    """Run a job's canaries into a folder.

    Args:
        plan: of the job.
        folder: a temporary one, for the outputs.
        rows: for each worker, at least.
        listener: told of the canaries' events.
        stop: through which another thread can ask for an early end.

    Raises:
        RefusedError: the job can't run as asked, or runs on a cluster.
        StoppedError: it was asked to stop.
        BatchinferError: a canary didn't get through.

    """
    spec, read = plan.spec, plan.rows - plan.pruned
    if spec.resources.address is not None:
        raise RefusedError(
            f"resources.address: {spec.resources.address} is a cluster, whose machines don't see this one's temporary directory: set it to "
            "null to measure here (--set resources.address=null)"
        )
    if not read:
        return Measurement(0, spec.resources.price_per_hour, (), None, 0, ("there is no row to measure on",))
    mine, others = _executors(spec)
    imported = _import_libraries(spec) if "inline" in (mine, *others) else 0.0
    first = _canary(plan, mine, folder / mine, rows, listener, stop)
    ready = first.ready
    if first.has_measured:  # the next run on this machine won't
        ready = _ready(plan, mine, folder / f"{mine}-ready", rows, listener, stop)
    canaries = [first.canary(ready, first.ready, read, imported)]
    notes = []
    for other in others:
        try:
            seen = _canary(plan, other, folder / other, rows, listener, stop)
        except (ClusterError, ResourceError, MissingExtraError) as error:  # the job itself doesn't need it
            notes.append(f"{other} can't be compared: {error}")
        else:
            canaries.append(seen.canary(seen.ready, seen.ready, read, imported))
            if (now := _precisions(seen.settings)) != (then := _precisions(first.settings)):
                notes.append(f"{mine} ran with precision {then}, {other} with {now}")
    notes += _stopped_by(Limits.of(spec), canaries[0], read)
    dead = first.result.rows.dead
    return Measurement(read, spec.resources.price_per_hour, tuple(canaries), first.settings, dead, tuple(notes))


def _stopped_by(limits: Limits, canary: Canary, rows: int) -> list[str]:
    """Limits of the job that it will probably reach."""
    seconds, hours = canary.seconds(rows).value, canary.device_hours(rows).value
    why = limits.exceeded(seconds, hours * 3600)
    key = (why or "").partition(" ")[0]
    return [f"{key} will probably stop the job before its end; the same command goes on"] if why else []


def _executors(spec: JobSpec) -> tuple[ExecutorName, tuple[ExecutorName, ...]]:
    """The executor that the job would use, and those to compare it with."""
    mine = allot(spec).executor
    if mine == "inline":
        return mine, () if spec.resources.executor == "inline" else ("ray",)
    return mine, () if any(step.has_pool for step in spec.models) else ("inline",)


def _import_libraries(spec: JobSpec) -> float:
    """Import what the models need, and say how long that took: of runs in this process the first one alone would have it."""
    begun = time.monotonic()
    for step in spec.models:
        registry.import_libraries(step)
    return time.monotonic() - begun


@dataclass(frozen=True)
class _Seen:
    """What was seen of a canary."""

    executor: str
    result: RunResult
    settings: Settings
    workers: int
    ready: float
    marks: Sequence[Mark]
    memory: int
    device_memory: int

    @property
    def has_measured(self) -> bool:
        """Whether precisions were timed, which a machine does once."""
        found = [step.measured for step in self.settings.models.values()]
        return any(measured.get("rows_per_second") and not measured.get("known_before") for measured in found)

    def canary(self, start: float, first_start: float, population: int, imported: float) -> Canary:
        """What it says, with the time of imports where it ran in this process."""
        imports = imported if self.executor == "inline" else 0.0
        need = Need.of(self.settings.memory)
        begin, end = self.marks[0], self.marks[-1]
        return Canary(
            self.executor,
            self.workers,
            self.result.spent.devices,
            end.rows - begin.rows,
            end.pieces - begin.pieces,
            begin.rows,
            start + imports,
            first_start + imports,
            row_seconds(self.marks, self.workers, population),
            self.memory,
            max(self.device_memory, (need.device or 0) if need else 0),
        )


def _canary(
    plan: Plan, executor: ExecutorName, folder: Path, rows: int, listener: Listener | None, stop: StopRequest | None
) -> _Seen:
    """Run one, round after round until one takes long enough. Its last round says the pace."""
    aside_plan, sizes = _planned(plan, executor, folder, rows)
    watch = CanaryWatch(sizes, listener, stop)
    result = runner.run(aside_plan, watch, watch.stop)
    if result.settings is None or not (result.exit_code == 0 or watch.has_seen_enough):
        raise failed(result, watch.stop)
    return _Seen(
        executor,
        result,
        result.settings,
        result.workers,
        watch.ready,
        watch.last_round(),
        watch.memory,
        watch.device_memory,
    )


def _ready(
    plan: Plan, executor: ExecutorName, folder: Path, rows: int, listener: Listener | None, stop: StopRequest | None
) -> float:
    """Seconds until its workers are ready, now that the machine knows what it measured."""
    aside_plan, sizes = _planned(plan, executor, folder, rows)
    watch = CanaryWatch(sizes, listener, stop, until_ready=True)
    result = runner.run(aside_plan, watch, watch.stop)
    if not watch.has_seen_enough:
        raise failed(result, watch.stop)
    return watch.ready


def _planned(plan: Plan, executor: ExecutorName, folder: Path, rows: int) -> tuple[Plan, list[int]]:
    """The plan of a canary, and the pieces of its rounds."""
    spec = aside(plan.spec.model_copy(update={"resources": _resources(plan.spec, executor)}), folder)
    workers = allot(spec).workers or 1
    found = rounds(plan.shards, rows * workers, PIECES * workers)
    shards: tuple[Shard, ...] = tuple(shard for one in found for shard in one)
    return replace(plan, spec=spec, shards=shards), [len(one) for one in found]


def _resources(spec: JobSpec, executor: ExecutorName) -> Resources:
    asked = spec.resources
    if executor == "ray":
        return asked.model_copy(update={"executor": "ray"})
    return asked.model_copy(update={"executor": "inline", "workers": "auto"})


def _precisions(settings: Settings) -> str:
    return ", ".join(step.precision for step in settings.models.values())

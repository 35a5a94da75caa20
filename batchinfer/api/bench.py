"""`Job.bench`: a job's runner beside the bare loop over the same rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.api.aside import aside, failed, temporary
from batchinfer.data.dead_letters import tidy
from batchinfer.data.reader import Reader, Window
from batchinfer.data.where import Where
from batchinfer.engines import registry
from batchinfer.engines.protocol import Engine
from batchinfer.errors import BatchinferError, RefusedError, StoppedError
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import AnyStep, Step
from batchinfer.ledger import manifests, parts
from batchinfer.measure.bare import BareLoop, LoopSeconds
from batchinfer.measure.settings import Settings
from batchinfer.measure.timing import load
from batchinfer.pipeline.graph import graph_of
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.plan.shards import Shard
from batchinfer.run import runner
from batchinfer.run.events import Event, Listener, RunResult, Settled, Ticked
from batchinfer.run.resources import allot
from batchinfer.run.stop import StopRequest
from batchinfer.run.surroundings import open_output
from batchinfer.worker.context import Usage

ROWS = 10_000
"""Rows that are taken unless more are asked for."""
_WARM_UP_ROWS = 64
SHORT_SECONDS = 10.0
"""A run that is over sooner says little: what happens once a run weighs too much in it."""


@dataclass(frozen=True)
class Bench:
    """What a comparison came to."""

    result: RunResult
    """Of the runner. `output` is gone when the comparison is over."""
    settings: Settings
    """Those of both."""
    workers: int
    seconds: float
    """Of the runner, from its workers being loaded to its last shard being decided."""
    loop_rows: int
    """Rows that the loop predicted: those that the runner predicted too."""
    loop: LoopSeconds

    @property
    def usage(self) -> Usage:
        """Where the runner's time went."""
        return self.result.usage

    @property
    def rate(self) -> float:
        """Rows that the runner predicted, a second."""
        return self.result.rows.succeeded / self.seconds if self.seconds else 0.0

    @property
    def loop_rate(self) -> float:
        """Rows that one loop predicts, a second."""
        return self.loop_rows / self.loop.total if self.loop.total else 0.0

    @property
    def share(self) -> float | None:
        """The runner's pace by that of as many loops as it has workers; None where there was no row to predict."""
        limit = self.loop_rate * self.workers
        return self.rate / limit if limit else None

    @property
    def short(self) -> bool:
        """Whether it was over too soon to say much."""
        return min(self.seconds, self.loop.total) < SHORT_SECONDS

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        steps = {
            name: {
                "precision": step.precision,
                "batch_rows": step.budget.rows,
                "batch_tokens": step.budget.tokens,
                "threads": step.threads,
                "streams": step.streams,
            }
            for name, step in self.settings.models.items()
        }
        return {
            "exit_code": self.result.exit_code,
            "rows": self.result.rows.planned,
            "succeeded": self.result.rows.succeeded,
            "steps": steps,
            "executor": self.result.executor,
            "workers": self.workers,
            "runner": {
                "rows_per_second": round(self.rate, 3),
                "seconds": round(self.seconds, 6),
                "stages": {k: round(v, 6) for k, v in asdict(self.usage.seconds).items()},
            },
            "loop": {
                "rows_per_second": round(self.loop_rate, 3),
                "seconds": round(self.loop.total, 6),
                "stages": {k: round(v, 6) for k, v in asdict(self.loop).items()},
            },
            "share_of_limit": None if self.share is None else round(self.share, 4),
            "short": self.short,
        }


def bench(spec: JobSpec, rows: int = ROWS, listener: Listener | None = None, stop: StopRequest | None = None) -> Bench:
    """Run a job's first rows into a temporary directory, then the bare loop over the same rows.

    The loop leaves out rows that the runner found dead. The job's own output is neither read nor written; both write to this
    machine's disk, so that a store far away isn't in the figures.

    Args:
        spec: the job.
        rows: of the input, in its order, before `where`.
        listener: told of the runner's events.
        stop: through which another thread can ask for an early end.

    Raises:
        RefusedError: the job can't run as asked, or runs on a cluster, of which this machine's loop is no limit.
        StoppedError: it was asked to stop.
        BatchinferError: the runner didn't get through.

    """
    if spec.resources.address is not None:
        raise RefusedError(
            f"resources.address: {spec.resources.address} is a cluster, and the loop runs on this machine, which says nothing of it: "
            "set it to null to compare here (--set resources.address=null)"
        )
    clock = _Clock(listener)
    with temporary("batchinfer-bench-") as folder:
        plan = make_plan(_first_rows(spec, rows, folder / "runner"))
        result = runner.run(plan, clock, stop)
        if result.exit_code != 0 or result.settings is None:
            raise failed(result, stop)
        loop = _loop(plan, result, result.settings, folder, stop)
    return Bench(result, result.settings, result.workers, clock.seconds, loop.rows, loop.seconds)


def _first_rows(spec: JobSpec, rows: int, folder: Path) -> JobSpec:
    """The job aside, over its first rows."""
    limit = rows if spec.input.limit is None else min(rows, spec.input.limit)
    return aside(spec, folder).model_copy(update={"input": spec.input.model_copy(update={"limit": limit})})


class _Clock:
    """A listener that takes the time of the steady part."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._settled: float | None = None
        self.seconds = 0.0

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, Settled):
            self._settled = now
        elif isinstance(event, Ticked) and self._settled is not None:  # the last one tells of the last shard
            self.seconds = now - self._settled
        if self._listener is not None:
            self._listener(event)


def _loop(plan: Plan, result: RunResult, settings: Settings, folder: Path, stop: StopRequest | None) -> BareLoop:
    """The loop, once over all shards."""
    spec, reading = plan.spec, plan.reading
    steps, allotment = graph_of(spec).with_thresholds(settings.thresholds), allot(spec, settings)
    gpus = {name: pool.gpus for name, pool in allotment.pools.items()}
    engines = {n.name: _engine(n.step, spec, settings, gpus.get(n.name, allotment.gpus)) for n in steps.nodes}
    carried = pa.schema([reading.schema.field(name) for name in reading.carry])
    loop = BareLoop(steps, engines, settings, carried, spec.output.compression, reading.window)
    reader = Reader(reading.schema, Where(reading.where) if reading.where else None, options=spec.storage)
    dead = _dead(plan, result)

    def windows(shard: Shard) -> Iterator[Window]:
        return (_alive(w, dead[shard.number]) for w in reader.windows(shard.ranges, reading.window))

    out = folder / "loop"
    out.mkdir()
    try:
        if (first := next(windows(plan.shards[0]), None)) is not None:
            loop.warm_up(first.table.slice(0, _WARM_UP_ROWS))
        for shard in plan.shards:
            _go_on(stop)
            (out / f"part-{shard.number:07d}.parquet").write_bytes(loop.shard(windows(shard)))
    except BatchinferError:
        raise
    except Exception as e:
        raise BatchinferError(
            f"the loop met an error that the runner didn't: {type(e).__name__}: {tidy(str(e))}; "
            "rows that fail only sometimes can't be compared"
        ) from e
    return loop


def _engine(step: AnyStep, spec: JobSpec, settings: Settings, gpus: float | None) -> Engine:
    """A step's engine, loaded for one call at a time, which has all the threads."""
    if not isinstance(step, Step):
        return registry.open_derived(step)
    chosen, engine = settings.steps[step.name], registry.open_engine(step, spec.code, spec.storage)
    device, threads = registry.device_for(step, gpus), chosen.threads * chosen.streams
    load(engine, step, device, chosen.precision, threads)
    return engine


def _go_on(stop: StopRequest | None) -> None:
    if stop:
        raise StoppedError(stop.reason, cancelled=stop.cancelled)


def _dead(plan: Plan, result: RunResult) -> dict[int, NDArray[np.int64]]:
    """By shard, the ordinals that the runner found dead."""
    store = open_output(plan.spec)
    manifest = manifests.latest(store, result.job)
    assert manifest is not None  # every row was attempted
    return {part.shard: parts.decision(store, part).dead for part in manifest.parts}


def _alive(window: Window, dead: NDArray[np.int64]) -> Window:
    if not len(dead):
        return window
    keep = ~np.isin(window.ordinals, dead)
    return replace(window, table=window.table.filter(pa.array(keep)).combine_chunks(), ordinals=window.ordinals[keep])

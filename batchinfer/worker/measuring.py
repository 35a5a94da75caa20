"""Settle a job's steps in a worker, on the engines and the rows that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.measure.settle import JobInput, Settling
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.pipeline.graph import Graph, Node
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context
from batchinfer.worker.held import HeldStep
from batchinfer.worker.memory import Growth
from batchinfer.worker.quarantine import Quarantine
from batchinfer.worker.repeated import RepeatedSettings
from batchinfer.worker.sample import JobSample
from batchinfer.worker.trial import Trial
from batchinfer.worker.watched import Watched


class Measuring:
    """Loads the models one after the other, and finds out on the job's rows what is left to choose.

    Args:
        context: the job.
        graph: its steps.
        steps: the same, as the worker has them.
        trial: reads rows in a child process, where one of them may have ended a process before; None: the models are here, too.
        on_device: calls a function on the device's thread and gives what it gives.

    """

    def __init__(
        self,
        context: Context,
        graph: Graph,
        steps: Sequence[HeldStep],
        trial: Trial | None,
        on_device: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._context, self._graph, self._trial, self._on_device = context, graph, trial, on_device
        self._steps = {step.node.name: step for step in steps}
        self._growth = Growth()

    def settings(self, shards: Sequence[Shard]) -> Settings:
        """The job's settings, measured on rows of these shards, or as they were kept of the same job. See Worker.measure."""
        context, quarantined = self._context, self._trial is not None
        repeated = RepeatedSettings(context, [step.device for step in self._steps.values() if step.node.is_model])
        if (known := repeated.find()) is not None:
            return known
        sample = JobSample(context, self._graph, shards, self._trial)
        if not quarantined:  # a child process has its own imports, and may die of them
            for step in self._steps.values():
                self._on_device(step.import_libraries)
        settling = Settling(
            self._graph,
            {name: step.place(quarantined=quarantined) for name, step in self._steps.items()},
            JobInput(sample.first, sample.spread, -(-sample.rows // context.workers), context.reading.schema),
            context.spec.batching,
            lambda: CircuitBreaker(enabled=context.breaker),
            context.outputs,
            self._told,
            self._settled,
            context.spec.cache.deduplicate,
        )
        self._growth.begin()
        settings: Settings = self._on_device(settling.settings)
        for name, step in self._steps.items():
            step.measured(settings.steps[name], quarantined=quarantined)
        settings = settings if quarantined else replace(settings, memory=self._growth.to_json())
        repeated.keep(settings)
        return settings

    def _settled(self, node: Node) -> None:
        self._growth.add(node.name)
        self._steps[node.name].let_go()
        self._growth.go_on()

    def _told(self, node: Node, settings: StepSettings) -> StepSettings:
        """A step's settings with the pace of its calls, and without secrets."""
        hidden: dict[str, Any] = {
            key: {name: self._context.spec.secrets.hide(why) for name, why in settings.measured[key].items()}
            for key in ("failed", "skipped")
            if settings.measured.get(key)
        }
        engine = self._steps[node.name].measuring(quarantined=self._trial is not None)
        if isinstance(engine, Watched | Quarantine) and (by_row := engine.paces.infer.by_row):
            hidden["seconds_per_row"] = by_row
        return replace(settings, measured={**settings.measured, **hidden})

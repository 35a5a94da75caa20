"""A step in a worker: the engine that answers its rows here, and the one that does so in a child process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from batchinfer.engines import device, registry
from batchinfer.engines.derived import DerivedEngine
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Engine
from batchinfer.job.steps import Step
from batchinfer.measure.settings import StepSettings
from batchinfer.measure.settle import Place
from batchinfer.measure.timing import load
from batchinfer.pipeline.graph import Node
from batchinfer.worker.apart import Apart, Models
from batchinfer.worker.context import Context
from batchinfer.worker.inference import Inference
from batchinfer.worker.pace import Paces
from batchinfer.worker.quarantine import Quarantine
from batchinfer.worker.recall import Recall, recall_of
from batchinfer.worker.watched import Watched


class HeldStep:
    """See above.

    Args:
        node: the step.
        context: the job.
        stopping: when set, no further call is made.
        turn: held during calls that need the cores to themselves, given the step.
        models: those that hold the model in place of this worker; None for a model of its own.
        prepared: what steps made of columns.

    Raises where a model of its own can't be fetched onto this machine, as `registry.bring` does.

    """

    def __init__(
        self,
        node: Node,
        context: Context,
        stopping: threading.Event,
        turn: Callable[[HeldStep], contextlib.AbstractContextManager[object]],
        models: Models | None,
        prepared: PreparedColumns,
    ) -> None:
        self.node, self._context = node, context
        spec, step = context.spec, node.step
        self.engine: Watched | Apart | DerivedEngine
        self.quarantine: Quarantine | None = None
        """None for a step without a model, which ends no process."""
        self.device = "cpu"
        self.settings: StepSettings | None = None
        """None before they are known."""
        self.recall: Recall | None = None
        """Of answers that were given before; None where each row has its own."""
        self._loaded: str | None = None
        if isinstance(step, Step):
            if models is None:
                registry.bring(step, spec.storage)
            timeout = step.timeout if step.timeout is not None else spec.retry.timeout
            self.device = registry.device_for(step, context.gpus)
            self.engine = (
                Watched(lambda: registry.open_engine(step, spec.code, spec.storage, prepared), timeout)
                if models is None
                else Apart(models, timeout)
            )
            retry = spec.retry.model_copy(update={"timeout": timeout})
            self.quarantine = Quarantine(step, spec.code, self.device, retry, stopping, spec.secrets, spec.storage)
        else:
            self.engine = registry.open_derived(step)
        on_invalid = step.errors.on_invalid_output or spec.errors.on_invalid_output
        self.inference = Inference(step, on_invalid, stopping, lambda: turn(self))

    @property
    def paces(self) -> list[Paces]:
        """Of the engines that are watched."""
        engines = [self.engine, self.quarantine]
        return [e.paces for e in engines if e is not None and not isinstance(e, DerivedEngine)]

    @property
    def is_alone(self) -> bool:
        """Whether a call of the model has all of the worker's threads."""
        return self.node.is_model and self.settings is not None and self.settings.streams == 1

    @property
    def has_loaded(self) -> bool:
        """Whether the model is here; never where there is none."""
        return self._loaded is not None

    def import_libraries(self) -> None:
        """Import what loading the model imports."""
        if isinstance(self.node.step, Step):
            registry.import_libraries(self.node.step)

    def place(self, *, quarantined: bool) -> Place:
        """Where the step is measured."""
        engine = self.quarantine if quarantined and self.quarantine is not None else self.engine
        model = self._context.models.get(self.node.name)
        # The times of a child process are no others'.
        known = None if quarantined or model is None else {"model": model, "machine": device.name_of(self.device)}
        return Place(engine, self.device, self._context.threads, known, side_by_side=not quarantined)

    def measured(self, settings: StepSettings, *, quarantined: bool) -> None:
        """The engine was measured, and is loaded as the settings say."""
        self._loaded = None if quarantined or not self.node.is_model else settings.precision

    def settle(self, settings: StepSettings) -> None:
        """Run with these settings from now on."""
        self.settings = settings
        for paces in self.paces:
            paces.settle(settings.measured.get("seconds_per_row"), settings.budget.rows)
        if self.recall is None:
            self.recall = recall_of(self.node, self._context, settings)

    def try_to_load(self) -> None:
        """Load the model in a child process, which says what ends a process that does."""
        if self.quarantine is not None and self.settings is not None:
            self.quarantine.load(self.device, self.settings.precision, self.settings.threads)
            self.quarantine.close()

    def load(self) -> None:
        """Load the model as the settings say, unless it is so already. Call it on the device's thread. Raises ModelError."""
        settings, step = self.settings, self.node.step
        assert settings is not None
        if isinstance(step, Step) and self._loaded != settings.precision:
            load(self.engine, step, self.device, settings.precision, settings.threads)
            self._loaded = settings.precision

    def drop(self) -> None:
        """Let go of the model. Call it on the device's thread."""
        if isinstance(self.engine, Watched) and self._loaded is not None:
            self.engine.drop()
        self._loaded = None

    def leave(self) -> None:
        """From now on the model counts as not held: batches of other workers that come must find another one."""
        self._loaded = None

    def engine_for(self, shard: int, *, quarantined: bool) -> Engine:
        """The engine for the rows of a shard."""
        if quarantined and self.quarantine is not None:
            assert self.settings is not None
            self.quarantine.use(self.settings.precision, self.settings.threads)
            return self.quarantine
        return self.engine.of(shard) if isinstance(self.engine, Apart) else self.engine

    def close_child(self) -> None:
        """End the child process, if there is one."""
        if self.quarantine is not None:
            self.quarantine.close()

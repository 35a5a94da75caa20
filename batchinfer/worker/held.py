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
        models: those that hold the model in place of this worker; None where nobody else does.
        is_here: whether this worker holds the model once it is started. Where it isn't here and `models` is None, the step can be
            measured and take shards in quarantine, no more.
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
        *,
        is_here: bool,
    ) -> None:
        self.node, self._context, self._prepared, self.is_here = node, context, prepared, is_here
        self._stopping = stopping
        spec, step = context.spec, node.step
        self.engine: Watched | Apart | DerivedEngine | None = None
        """None for a model that isn't here."""
        self._measured: Watched | None = None
        """Of a model that isn't here, while it is measured."""
        self._let_go = False
        """Whether that one has been let go of meanwhile."""
        self.quarantine: Quarantine | None = None
        """None for a step without a model, which ends no process."""
        self.device = "cpu"
        self.settings: StepSettings | None = None
        """None before they are known."""
        self.recall: Recall | None = None
        """Of answers that were given before; None where each row has its own."""
        self._loaded: str | None = None
        if isinstance(step, Step):
            timeout = step.timeout if step.timeout is not None else spec.retry.timeout
            self.device = registry.device_for(step, context.share(step.name).gpus)
            if models is not None:
                self.engine = Apart(models, timeout)
            elif is_here:
                registry.bring(step, spec.storage)
                self.engine = self._opened(step)
            retry = spec.retry.model_copy(update={"timeout": timeout})
            self.quarantine = Quarantine(step, spec.code, self.device, retry, stopping, spec.secrets, spec.storage)
        else:
            self.engine = registry.open_derived(step)
        on_invalid = step.errors.on_invalid_output or spec.errors.on_invalid_output
        self.inference = Inference(step, on_invalid, stopping, lambda: turn(self))

    def _bring(self) -> None:
        """Fetch a model that isn't to be here onto this machine."""
        if not self.is_here and isinstance(self.node.step, Step):
            registry.bring(self.node.step, self._context.spec.storage)

    def _opened(self, step: Step) -> Watched:
        """An engine for the model, which is on this machine; not loaded."""
        spec = self._context.spec
        timeout = step.timeout if step.timeout is not None else spec.retry.timeout
        return Watched(lambda: registry.open_engine(step, spec.code, spec.storage, self._prepared), timeout)

    @property
    def paces(self) -> list[Paces]:
        """Of the engines that are watched."""
        engines = [self._measured or self.engine, self.quarantine]
        return [e.paces for e in engines if e is not None and not isinstance(e, DerivedEngine)]

    @property
    def streams(self) -> int:
        """Calls of a model that is here, at a time."""
        return self.settings.streams if self.is_here and self.settings is not None else 1

    @property
    def is_alone(self) -> bool:
        """Whether a call of the model has all of the worker's threads."""
        return self.node.is_model and self.is_here and self.settings is not None and self.settings.streams == 1

    @property
    def has_loaded(self) -> bool:
        """Whether the model is here; never where there is none."""
        return self._loaded is not None

    @property
    def is_missing(self) -> bool:
        """Whether the worker needs the model, and hasn't loaded it."""
        return self.node.is_model and self.engine is not None and self._loaded is None

    def import_libraries(self) -> None:
        """Import what loading the model imports."""
        if isinstance(self.node.step, Step):
            registry.import_libraries(self.node.step)

    def measuring(self, *, quarantined: bool) -> Watched | Apart | Quarantine | DerivedEngine:
        """The engine that is measured: here, wherever its model is to run. Raises as the class does."""
        self._bring()
        if quarantined and self.quarantine is not None:
            return self.quarantine
        if isinstance(self.node.step, Step) and not self.is_here and self._measured is None:
            self._measured = self._opened(self.node.step)
        engine = self._measured or self.engine
        assert engine is not None
        return engine

    def place(self, *, quarantined: bool) -> Place:
        """Where the step is measured, until `measured` says that it was. Raises as the class does."""
        engine = self.measuring(quarantined=quarantined)
        if isinstance(engine, Watched):
            engine.stopping = self._stopping
        model = self._context.models.get(self.node.name)
        # The times of a child process are no others'.
        known = None if quarantined or model is None else {"model": model, "machine": device.name_of(self.device)}
        threads = self._context.share(self.node.name).threads
        return Place(engine, self.device, threads, known, not quarantined, self._again)

    def let_go(self) -> None:
        """Where the model isn't to be here, let go of a GPU's memory for the next to be measured; memory of the machine is left until all
        are, so that what each takes can be told.
        """
        if self._measured is not None and self.device != "cpu":
            self._measured.drop()
            self._let_go = True

    def _again(self, settings: StepSettings) -> None:
        """Load the model again, where it was let go of since it was measured."""
        if self._let_go and self._measured is not None and isinstance(self.node.step, Step):
            load(self._measured, self.node.step, self.device, settings.precision, settings.threads)
            self._let_go = False

    def measured(self, settings: StepSettings, *, quarantined: bool) -> None:
        """The engine was measured, and is loaded as the settings say; one that isn't to be here is let go of."""
        if isinstance(self.engine, Watched):
            self.engine.stopping = None
        if self._measured is not None:
            self._measured.drop()
            self._measured, self._let_go = None, False
        elif not quarantined and self.node.is_model:
            self._loaded = settings.precision

    def settle(self, settings: StepSettings) -> None:
        """Run with these settings from now on."""
        self.settings = settings
        for paces in self.paces:
            paces.settle(settings.measured.get("seconds_per_row"), settings.budget.rows)
        if self.recall is None:
            self.recall = recall_of(self.node, self._context, settings)

    def try_to_load(self) -> None:
        """Load a model that is to be here in a child process, which says what ends a process that does."""
        if self.is_here and self.quarantine is not None and self.settings is not None:
            self.quarantine.load(self.device, self.settings.precision, self.settings.threads)
            self.quarantine.close()

    def load(self) -> None:
        """Load the model as the settings say, unless it is so already. Call it on the device's thread. Raises ModelError."""
        settings, step = self.settings, self.node.step
        assert settings is not None
        assert self.engine is not None
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
            self._bring()
            self.quarantine.use(self.settings.precision, self.settings.threads)
            return self.quarantine
        assert self.engine is not None, "a worker that serves one step takes whole shards in quarantine only"
        return self.engine.of(shard) if isinstance(self.engine, Apart) else self.engine

    def close_child(self) -> None:
        """End the child process, if there is one."""
        if self.quarantine is not None:
            self.quarantine.close()

"""Workers of a simulated run: the real stages and the real shard, one after the other on a simulated thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

import pyarrow as pa

from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.ledger.host import Host
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.pipeline.graph import graph_of
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.model import BATCH, Input, Model
from batchinfer.testing.simulator.scheduler import Process, Scheduler, Task
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress, Served
from batchinfer.worker.held import HeldStep
from batchinfer.worker.items import End, Read, Submitted
from batchinfer.worker.stages import Stages
from batchinfer.worker.worker import AHEAD


def _columns(names: Iterable[str]) -> pa.Schema:
    return pa.schema([(name, pa.float64()) for name in names])


class SimulatedWorker:
    """A thread that takes shards through the stages."""

    def __init__(
        self,
        scheduler: Scheduler,
        process: Process,
        stages: Stages,
        back: deque[Read | End],
        told: Callable[[SimulatedWorker, Outcome], None],
        *,
        cautious: bool,
    ) -> None:
        self.process, self.stages, self.back = process, stages, back
        self.room = 1 if cautious else AHEAD
        self.taken: deque[Shard] = deque()
        self._scheduler, self._told = scheduler, told
        self._closed = False
        self.task: Task = scheduler.spawn(process, f"{process.name}-worker", self._work)

    def give(self, shard: Shard) -> None:
        """Put a shard into the worker's queue."""
        self.taken.append(shard)
        self._scheduler.wake(self.task)

    def close(self) -> None:
        """End after what was taken in."""
        self._closed = True
        self._scheduler.wake(self.task)

    def _work(self) -> None:
        while self.taken or not self._closed:
            if not self.taken:
                self._scheduler.block()
                continue
            shard = self.taken[0]
            future: Future[Outcome] = Future()
            self._through(shard, future)
            self._scheduler.me()
            self.taken.popleft()
            self._told(self, future.result())

    def _through(self, shard: Shard, future: Future[Outcome]) -> None:
        for read in self.stages.read(Submitted(shard, future)):
            self._on(read)
            while self.back:
                self._on(self.back.popleft())

    def _on(self, item: Read | End) -> None:
        for batch in self.stages.prepare(item):
            for outputs in self.stages.infer(batch):
                for results in self.stages.finish(outputs):
                    self.stages.write(results)


class SimulatedExecutor:
    """See Executor. Workers are threads of the driver, or processes of their own as on Ray."""

    def __init__(
        self,
        scheduler: Scheduler,
        context: Context,
        workers: int,
        process: Callable[[], Process],
        host: Callable[[Process], Host],
        store: Callable[[Process], Store],
        parts: Callable[[Process], tuple[Input, list[Model]]],
        *,
        on_ray: bool,
    ) -> None:
        self.name, self.workers = "ray" if on_ray else "inline", workers
        self._scheduler, self._context, self._on_ray = scheduler, context, on_ray
        self._graph = graph_of(context.spec)
        self._process, self._host, self._store, self._parts = process, host, store, parts
        self._driver = scheduler.me()
        self._settings: Settings | None = None
        self._crew: list[SimulatedWorker] = []
        self._outcomes: list[Outcome] = []
        self._stopping = False

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:  # noqa: ARG002 - no row kills here
        """See Executor."""
        self._scheduler.pause(0.5)
        steps = {
            node.name: StepSettings("fp32", Budget(BATCH), len(shards) or 1, _columns(node.step.computed))
            for node in self._graph.nodes
        }
        return Settings(steps, _columns(self._graph.columns))

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:  # noqa: ARG002 - no row kills here
        """See Executor."""
        self._settings = settings
        for _ in range(self.workers):
            self._crew.append(self._hire(cautious=False))

    def _hire(self, *, cautious: bool) -> SimulatedWorker:
        process = self._process()
        reader, models = self._parts(process)
        store, host = self._store(process), self._host(process)
        back: deque[Read | End] = deque()
        stages = Stages(
            self._context,
            store,
            reader,  # type: ignore[arg-type]
            self._graph,
            lambda _shard, _quarantined: list(models),
            lambda function: function(),
            back.append,
            host=host,
        )
        stages.steps = [
            HeldStep(n, self._context, stages.stopping, stages.turn, None, PreparedColumns(), is_here=True)
            for n in self._graph.nodes
        ]
        stages.settings, stages.on_cpu = self._settings, True
        if self._stopping:
            stages.stopping.set()
        return SimulatedWorker(self._scheduler, process, stages, back, self._told, cautious=cautious)

    def _told(self, worker: SimulatedWorker, outcome: Outcome) -> None:
        if not self._driver.process.dead and worker in self._crew:
            self._outcomes.append(outcome)
            self._scheduler.wake(self._driver)

    def wants(self) -> int:
        """See Executor."""
        return sum(max(0, w.room - len(w.taken)) for w in self._crew)

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:  # noqa: ARG002 - no row kills here
        """See Executor."""
        min(self._crew, key=lambda w: len(w.taken) - w.room).give(shard)

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        self._replace_the_dead()
        if not self._outcomes:
            # A driver looks four times a second; nothing happens in between that these many turns would show.
            self._scheduler.block(seconds * 8)
            self._replace_the_dead()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _replace_the_dead(self) -> None:
        for n, worker in enumerate(self._crew):
            if worker.process.dead and worker.process is not self._driver.process:
                kind = Failure.DIED if len(worker.taken) == 1 else Failure.LOST
                self._outcomes += [Failed(s.number, kind, "the worker died") for s in worker.taken]
                self._crew[n] = self._hire(cautious=True)

    def progress(self) -> list[Progress]:
        """See Executor."""
        return [Progress(n, worker.stages.shard) for n, worker in enumerate(self._crew)]

    def served(self) -> Mapping[str, Served]:
        """See Executor."""
        return {}

    def stop(self) -> None:
        """See Executor."""
        self._stopping = True
        for worker in self._crew:
            worker.stages.stopping.set()

    def close(self) -> None:
        """See Executor."""
        self._scheduler.me()
        self.stop()
        for worker in self._crew:
            if self._on_ray:
                if worker.process is not self._driver.process:
                    self._scheduler.kill(worker.process)
            else:
                worker.close()
                self._scheduler.join(worker.task)

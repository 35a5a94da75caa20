"""What happens to a shard in each of a worker's stages: the life of a row between reading and the part."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from batchinfer.data.reader import Reader, Window
from batchinfer.engines.protocol import Engine
from batchinfer.errors import StoppedError
from batchinfer.ledger.host import HERE, Host
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.pipeline.graph import Graph
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store
from batchinfer.worker.apart import Apart
from batchinfer.worker.context import Context, Done, Outcome
from batchinfer.worker.failures import failed, is_kept
from batchinfer.worker.held import HeldStep
from batchinfer.worker.items import Batch, End, Outputs, Read, Results, Submitted
from batchinfer.worker.preparation import prepared_pieces
from batchinfer.worker.recall import Recall
from batchinfer.worker.shard_run import ShardRun
from batchinfer.worker.stage_times import StageTimes
from batchinfer.worker.window_rows import WindowRows

WINDOWS = 16
"""That a worker may have on their way at once; without pools its queues hold fewer."""
_LOOK_SECONDS = 0.2


class Stages:
    """The stages. Each method takes one item and gives those for the next stage; each runs on a thread of its own, and for steps with a
    pool of their own `prepare`, `infer` and `finish` on further ones (see Sending).

    None of them raises: a thread that ended would leave the others waiting. So whatever a model raises is caught, SystemExit
    too, and becomes the row's error or the shard's outcome.

    On a CPU, preparing and the device take turns: side by side they would fight for the same cores. Not where the model has several
    streams: calls of one thread each don't wait for each other's threads, and lose nothing to others.

    Args:
        context: the job.
        store: the output.
        reader: the input.
        graph: the steps.
        engines_for: their engines for a shard, ready for it, given whether the shard is in quarantine; raises where it can't be run.
        on_device: calls a function on the device's thread and gives what it gives.
        again: takes what must be prepared for another step.
        host: the machine.

    """

    def __init__(
        self,
        context: Context,
        store: Store,
        reader: Reader,
        graph: Graph,
        engines_for: Callable[[Shard, bool], list[Engine]],
        on_device: Callable[[Callable[[], Any]], Any],
        again: Callable[[Read | End], None],
        *,
        host: Host = HERE,
    ) -> None:
        self.stopping = threading.Event()
        self.graph = graph
        """With the thresholds of the settings, once these are known."""
        self.steps: list[HeldStep] = []
        """In running order."""
        self.settings: Settings | None = None
        """The job's; None before the worker is started."""
        self.on_cpu = False
        """Whether the models compute on this process's CPUs."""
        self.shard: int | None = None
        """The shard on the device."""
        self.step = ""
        """The step of the batch that the device had last."""
        self.times = StageTimes()
        """Of all shards that were read."""
        self.rows = self.dead = self.in_hand = 0
        """Rows finished, dead ones among them, and those of shards that are not decided yet."""
        self._context, self._store, self._reader, self._host = context, store, reader, host
        self._engines_for, self._on_device, self._again = engines_for, on_device, again
        self._read: list[Future[Outcome]] = []
        """Of shards that were read and are not decided."""
        self._runs: list[ShardRun] = []
        """Of those that could be begun."""
        self._moved = threading.Condition()
        """Notified when a window is complete."""
        self._quarantined = False
        self._breakers = [CircuitBreaker(enabled=context.breaker) for _ in graph.nodes]
        self._model = threading.RLock()

    @property
    def _recalls(self) -> list[Recall]:
        return [step.recall for step in self.steps if step.recall is not None]

    def turn(self, step: HeldStep | None = None) -> contextlib.AbstractContextManager[Any]:
        """Held by whoever needs the cores, to prepare or for the calls of a step: one after the other, unless there is nothing to fight for."""
        alone = any(s.is_alone for s in self.steps) if step is None else step.is_alone
        return self._model if self.on_cpu and alone else contextlib.nullcontext()

    def read(self, item: Submitted) -> Iterator[Read | End]:
        """The shard's windows."""
        shard, future = item.shard, item.outcome
        assert self.settings is not None
        try:
            if item.quarantined != self._quarantined:
                self.drained()  # two engines of a step are never loaded side by side
            self._read = [*(f for f in self._read if not f.done()), future]
            self._quarantined = item.quarantined
            run = ShardRun(
                shard,
                self._context,
                self.graph,
                self.settings,
                self._store,
                future,
                self._engines_for(shard, item.quarantined),
                [step.recall for step in self.steps],
                self._host,
                quarantined=item.quarantined,
                times=StageTimes(within=self.times),
            )
        except BaseException as e:  # noqa: BLE001 - see `failures.failed`
            future.set_result(failed(shard.number, e, self._context.spec.secrets))
            return
        self._runs = [*(r for r in self._runs if not r.outcome.done()), run]
        windows = self._reader.windows(shard.ranges, self._context.reading.window)
        while (window := self._next(run, windows)) is not None:
            yield Read(run, window)
        yield End(run)

    def wait_for_room(self) -> None:
        """Return once there are fewer windows on their way than there may be: those of one step can't hold up others without end."""
        with self._moved:
            while sum(run.open for run in self._runs) >= WINDOWS:
                self._moved.wait(_LOOK_SECONDS)

    def drained(self) -> None:
        """Return once the shards that were read have their outcome."""
        concurrent.futures.wait(self._read)

    def _next(self, run: ShardRun, windows: Iterator[Window]) -> WindowRows | None:
        """The next window; None at the end of the shard, also where it ends by an error or a stop."""
        if run.error is not None:
            return None
        try:
            with run.times.timed("read"):
                window = next(windows, None)
                rows = None if window is None else run.begin(window)
        except BaseException as e:  # noqa: BLE001 - see `failures.failed`
            run.fail(e)
            return None
        if rows is not None and self.stopping.is_set():
            run.fail(StoppedError("stopped before the shard was finished"))
            return None
        return rows

    def prepare(self, item: Read | End) -> Iterator[Batch | Results | End]:
        """The window's batches, and the results of rows that need no model."""
        if isinstance(item, End):
            yield item
            return
        prepared = prepared_pieces(item.run, item.window)
        while (piece := self._next_prepared(item.run, prepared)) is not None:
            yield piece

    def _next_prepared(self, run: ShardRun, prepared: Iterator[Batch | Results]) -> Batch | Results | None:
        """The next of what a window gives; None at its end, also where that comes by an error. One at a time: they may be large."""
        if run.error is not None:
            return None
        try:
            with self.turn(), run.times.timed("prepare"):
                return next(prepared, None)
        except BaseException as e:  # noqa: BLE001 - see `failures.failed`
            run.fail(e)
            return None

    def infer(self, item: Batch | Results | End) -> Iterator[Outputs | Results | End]:
        """What the model gives for the batch."""
        if isinstance(item, Batch):
            self.shard, self.step = item.run.shard.number, item.run.at(item.window).node.name
            yield from self.steps[item.window.step].inference.outputs(item)
        else:
            yield item

    def finish(self, item: Outputs | Results | End) -> Iterable[Results | End]:
        """The results of what the model gave."""
        if not isinstance(item, Outputs):
            return [item]
        run, window = item.batch.run, item.batch.window
        inference = self.steps[window.step].inference
        try:
            results = inference.finished(item)
            if isinstance(results, Results):
                return [results]
            if isinstance(run.at(window).engine, Apart):
                return list(inference.mended(item.batch, results))
            # Frameworks keep much by thread: the model is called on the device's alone.
            mended: Iterable[Results] = self._on_device(lambda: list(inference.mended(item.batch, results)))
        except BaseException as e:  # noqa: BLE001 - see `failures.failed`
            run.fail(e)
            return []
        return mended

    def write(self, item: Results | End) -> None:
        """Put results into the part, and at its end give the shard its outcome."""
        run = item.run
        try:
            if isinstance(item, Results):
                self._accept(item)
            elif run.is_over(lambda: self._again(item)):
                self._finish(run)
        except BaseException as e:  # noqa: BLE001 - see `failures.failed`
            run.fail(e)
            if isinstance(item, End):
                run.outcome.set_result(failed(run.shard.number, e, self._context.spec.secrets))

    def _accept(self, item: Results) -> None:
        run = item.run
        if run.outcome.done() or (run.error is not None and not (item.fresh and is_kept(run.error))):
            return
        window = item.window
        answered, dead, through = len(item.table), 0, window.is_last
        if not window.is_through:
            failures = item.table["_dead"]
            dead = answered - failures.null_count
            if failures.null_count:
                self._breakers[window.step].succeeded()
            elif answered:
                kinds = failures.combine_chunks().field("error_type").to_pylist()
                self._breakers[window.step].failed(kinds, failures[0]["message"].as_py())
        with run.times.timed("write"):
            more = run.accept(window, item.table, fresh=item.fresh)
        self._count(window, answered if through else 0, dead)
        if more:
            self._again(Read(run, window))
        with self._moved:
            self._moved.notify_all()
        for recall in self._recalls:
            if recall.is_full:
                with run.times.timed("commit"):
                    recall.store()
        found = run.quarantined and item.fresh and dead  # it took processes to find
        if found or run.checkpoint_due():
            with run.times.timed("commit"):
                run.checkpoint()

    def _count(self, window: WindowRows, finished: int, dead: int) -> None:
        """Count finished rows for people: those of the last step as they come, the others with their window."""
        if window.is_through:
            finished = len(window.window.ordinals) - window.counted
        window.counted += finished
        self.rows += finished
        self.in_hand += finished
        self.dead += dead

    def _finish(self, run: ShardRun) -> None:
        self.in_hand = 0  # first: whoever has the outcome counts the shard as decided
        if run.error is None:
            with run.times.timed("commit"):
                part = run.commit()
                # Where no other shard is in hand, the worker's process may not live much longer.
                last = sum(not future.done() for future in self._read) <= 1
                for recall in self._recalls:
                    recall.store(whole=last)
            run.outcome.set_result(Done(run.shard.number, part, run.usage))
        else:
            if is_kept(run.error):
                run.checkpoint()
            run.outcome.set_result(failed(run.shard.number, run.error, self._context.spec.secrets))
        if self.shard == run.shard.number:  # the device may be at the next one already
            self.shard = None

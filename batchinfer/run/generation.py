"""A generation: one plan of a job, from the first undecided shard to its manifest and verdict."""

from __future__ import annotations

import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from batchinfer.errors import LockedError, OutputError
from batchinfer.executors.protocol import Executor
from batchinfer.ledger import jobs, manifests, parts, records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts, Part
from batchinfer.measure.settings import Settings
from batchinfer.plan import record
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard
from batchinfer.run.events import Event, GivenUp, Listener, Retried, RunResult, Settled, Started, State, Ticked
from batchinfer.run.policy import Action, allowed_dead, decide, verdict
from batchinfer.run.resources import Allotment, allot
from batchinfer.run.stop import StopRequest
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store
from batchinfer.worker.context import Context, Done, Failed, Failure, Usage

GENERATION = 1
"""A job has one generation so far."""
TICK_SECONDS = 0.25


def judge(store: Store, plan: Plan, job: Job, manifest: Manifest) -> RunResult:
    """The verdict on a job whose rows are all attempted, by the threshold that is asked for now."""
    jobs.remove_former(store, job)  # a runner of a replaced job may have woken up since
    code = verdict(manifest.counts.dead, plan.spec.errors.threshold, manifest.counts.planned)
    if code == 0:
        try:
            jobs.refuse_foreign_data(store)
        except OutputError:
            store.delete(paths.SUCCESS)
            raise
        manifests.mark_success(store)
    else:
        store.delete(paths.SUCCESS)
    errors = (
        ()
        if code == 0
        else (f"{manifest.counts.dead} dead rows, more than errors.threshold: {plan.spec.errors.threshold} allows",)
    )
    state = State.SUCCEEDED if code == 0 else State.PARTIAL
    recorded = records.find(store, job.paths.settings)
    settings = Settings.from_json(recorded) if recorded else None
    return RunResult(state, code, manifest.counts, job.paths, store.root, settings, errors=errors)


@dataclass(frozen=True)
class _Ending:
    """Why a run ends before every shard is decided."""

    state: State
    exit_code: int
    error: str


class Generation:
    """One generation of a job, as far as one run takes it."""

    def __init__(self, plan: Plan, store: Store, job: Job, listener: Listener, stop: StopRequest) -> None:
        self._plan, self._store, self._job = plan, store, job
        self._single_writer = isinstance(store, SingleWriterStore)
        self._listener, self._stop = listener, stop
        self._parts: list[Part] = []
        self._given_up: list[Failed] = []
        self._deaths: Counter[int] = Counter()
        self._decided = self._decided_rows = 0
        self._usage = Usage()
        self._ending: _Ending | None = None
        self._settings: Settings | None = None
        self._executor: Executor | None = None

    def result(self) -> RunResult:
        """Have every shard decided, then end the generation."""
        shards = self._shards()
        decided = parts.list_shards(self._store, self._job.paths)
        left = deque(s for s in shards if s.number not in decided)
        before = [s for s in shards if s.number in decided]
        self._decided, self._decided_rows = len(before), sum(s.rows for s in before)
        allotment, context = self._context(fresh=not decided)
        self._tell(Started(self._plan, self._job.paths, allotment.executor, self._decided, self._decided_rows))
        with ThreadPoolExecutor(4, thread_name_prefix="batchinfer-parts") as pool:
            standing = [pool.submit(parts.read, self._store, self._job.paths, s.number) for s in before]
            if self._plan.spec.errors.on_exceed == "abort":  # dead rows of former runs count from the start
                self._parts += [future.result() for future in standing]
                standing.clear()
                self._ending = self._exceeded()
            if left and self._ending is None:
                self._work(left, allotment, context)
            self._parts += [future.result() for future in standing]
        return self._end(shards)

    def _shards(self) -> tuple[Shard, ...]:
        """The generation's shards as recorded by the run that began it."""
        path = self._job.paths.plan(GENERATION)
        recorded = records.find(self._store, path)
        if recorded is None:
            records.create(self._store, path, record.to_json(self._plan))
            recorded = records.read(self._store, path)
        if recorded["fingerprint"] != self._plan.fingerprint.digest:
            raise OutputError(
                f"{self._store.root}/{path}: the recorded plan is of another job; start afresh with --restart"
            )
        self._plan = replace(self._plan, reading=replace(self._plan.reading, window=recorded["window"]))
        return record.shards_from_json(recorded)

    def _context(self, *, fresh: bool) -> tuple[Allotment, Context]:
        recorded = records.find(self._store, self._job.paths.settings)
        if recorded is not None:
            self._settings = Settings.from_json(recorded)
        allotment = allot(self._plan.spec, self._settings.threads if self._settings else None)
        return allotment, Context(
            self._plan.spec,
            self._plan.reading,
            self._job.paths,
            allotment.threads,
            breaker=fresh and self._plan.spec.errors.circuit_breaker,
            gpus=allotment.gpus,
            single_writer=self._single_writer,
        )

    def _work(self, left: deque[Shard], allotment: Allotment, context: Context) -> None:
        executor = self._executor = _open(allotment, context, self._plan)
        try:
            if self._settings is None:
                self._settings = self._pin(executor.measure(list(left)))
            executor.start(self._settings)
            self._tell(Settled(self._settings, executor.workers))
            self._loop(executor, left)
        finally:
            executor.close()

    def _pin(self, measured: Settings) -> Settings:
        """Make the settings the job's; the ones that another runner pinned first are adopted."""
        path = self._job.paths.settings
        records.create(self._store, path, measured.to_json())
        return Settings.from_json(records.read(self._store, path))

    def _loop(self, executor: Executor, left: deque[Shard]) -> None:
        by_number = {s.number: s for s in left}
        running = 0
        runtime = self._plan.spec.run.max_runtime
        deadline = time.monotonic() + runtime if runtime else None
        while left or running:
            if deadline is not None and time.monotonic() > deadline:
                self._stop.ask(f"run.max_runtime of {runtime:g} s is over")
            if self._stop and self._ending is None:
                self._abort(executor, left, _stopped(self._stop))
            while left and executor.wants() > 0:
                executor.submit(left.popleft())
                running += 1
            outcomes = executor.wait(TICK_SECONDS)
            running -= len(outcomes)
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    self._take_in(executor, outcome, left)
                elif self._retries(executor, outcome, left):
                    left.appendleft(by_number[outcome.shard])
            self._tell(Ticked(executor.progress(), self._decided, self._decided_rows))

    def _take_in(self, executor: Executor, done: Done, left: deque[Shard]) -> None:
        self._parts.append(done.part)
        self._decided += 1
        self._decided_rows += done.part.counts.planned
        self._usage += done.usage
        if self._ending is None and (exceeded := self._exceeded()) is not None:
            self._abort(executor, left, exceeded)

    def _exceeded(self) -> _Ending | None:
        """The end of a job that is to stop at more dead rows than it may have, where it has more."""
        errors = self._plan.spec.errors
        dead = sum(p.counts.dead for p in self._parts)
        if errors.on_exceed != "abort" or dead <= allowed_dead(errors.threshold, self._plan.rows):
            return None
        message = f"{dead} dead rows, more than errors.threshold: {errors.threshold} allows (errors.on_exceed is abort)"
        return _Ending(State.FAILED, 3, message)

    def _retries(self, executor: Executor, failed: Failed, left: deque[Shard]) -> bool:
        """Act on a failed shard; True when it is to be tried again."""
        if failed.failure is Failure.STOPPED:
            return False
        if failed.failure is Failure.DIED:
            self._deaths[failed.shard] += 1
        match decide(failed, self._deaths[failed.shard], self._plan.spec.retry.max_retries):
            case Action.RETRY:
                self._tell(Retried(failed, self._deaths[failed.shard]))
                return self._ending is None
            case Action.GIVE_UP:
                self._given_up.append(failed)
                self._tell(GivenUp(failed))
            case Action.ABORT:
                self._tell(GivenUp(failed))
                code = failed.exit_code
                state = State.INTERRUPTED if failed.failure is Failure.TRANSIENT else State.FAILED
                detail = f"\n{failed.traceback}" if failed.failure is Failure.UNEXPECTED else ""
                self._abort(executor, left, _Ending(state, code, f"shard {failed.shard}: {failed.error}{detail}"))
        return False

    def _abort(self, executor: Executor, left: deque[Shard], ending: _Ending) -> None:
        if self._ending is None:
            self._ending = ending
        left.clear()
        executor.stop()

    def _end(self, shards: tuple[Shard, ...]) -> RunResult:
        standing = jobs.current(self._store)
        if standing is None or standing.number != self._job.number:
            raise LockedError(f"{self._store.root}: another job has been started on this output; this one is over")
        if len(self._parts) == len(shards):
            code = verdict(sum(p.counts.dead for p in self._parts), self._plan.spec.errors.threshold, self._plan.rows)
            exclusive = manifests.ASSUMED if self._single_writer else manifests.PROVEN
            manifest = manifests.create(self._store, self._job.paths, self._parts, GENERATION, code, exclusive)
            parts.remove_unnamed_dead_letters(self._store, self._job.paths, list(manifest.parts))
            return self._told(judge(self._store, self._plan, self._job, manifest))
        counts = sum((p.counts for p in self._parts), Counts())
        rest = self._plan.rows - counts.planned
        counts = replace(counts, planned=self._plan.rows, not_attempted=rest)
        counts.check(self._store.root)
        errors = [f"shard {f.shard}: {f.error}" for f in self._given_up]
        ending = self._ending or _Ending(State.FAILED, 2, "")
        if ending.error:
            errors.insert(0, ending.error)
        return self._told(
            RunResult(ending.state, ending.exit_code, counts, self._job.paths, self._store.root, errors=tuple(errors))
        )

    def _told(self, result: RunResult) -> RunResult:
        """The result with what this run knows of itself."""
        executor = self._executor
        return replace(
            result,
            settings=self._settings,
            usage=self._usage,
            executor=executor.name if executor else "",
            workers=executor.workers if executor else 0,
        )

    def _tell(self, event: Event) -> None:
        self._listener(event)


def _stopped(stop: StopRequest) -> _Ending:
    return _Ending(State.CANCELLED, 130, stop.reason) if stop.cancelled else _Ending(State.INTERRUPTED, 75, stop.reason)


def _open(allotment: Allotment, context: Context, plan: Plan) -> Executor:
    if allotment.executor == "inline":
        from batchinfer.executors.inline import InlineExecutor

        return InlineExecutor(context)
    from batchinfer.executors.ray import RayExecutor

    return RayExecutor(context, allotment.workers, plan.spec.resources.address)

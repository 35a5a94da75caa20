"""One generation of a job, from the first undecided shard to its manifest and verdict."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from batchinfer.errors import InputError, StoppedError
from batchinfer.executors.protocol import Executor
from batchinfer.ledger import parts, settings
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts, Part, account
from batchinfer.measure.settings import Settings
from batchinfer.plan.fingerprint import model_digest, rows_digest
from batchinfer.plan.generation import Generation
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard
from batchinfer.run.bounds import Bounds
from batchinfer.run.events import Broken, Event, GivenUp, Listener, Retried, RunResult, Settled, Started, State, Ticked
from batchinfer.run.judge import end, judge, refuse_superseded
from batchinfer.run.limits import Limits
from batchinfer.run.policy import Action, allowed_dead, decide
from batchinfer.run.resources import Allotment, allot
from batchinfer.run.standing import StandingParts
from batchinfer.run.stop import StopRequest
from batchinfer.run.surroundings import Surroundings
from batchinfer.run.suspects import Suspects
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store
from batchinfer.worker.context import Context, Done, Failed, Failure, Usage

TICK_SECONDS = 0.25


@dataclass(frozen=True)
class _Ending:
    """Why a run ends before every shard is decided."""

    state: State
    exit_code: int
    error: str


class GenerationRun:
    """One generation of a job, as far as one run takes it.

    Args:
        plan: what is asked for now; its rows and shards are replaced by those of the generation.
        store: the output.
        job: whose generation it is.
        epoch: this runner's.
        generation: as recorded.
        before: the manifest of the generation before; None for the first.
        listener: told of everything.
        stop: asks for an early end.
        surroundings: see `run`.

    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        job: Job,
        epoch: Epoch,
        generation: Generation,
        before: Manifest | None,
        listener: Listener,
        stop: StopRequest,
        surroundings: Surroundings,
    ) -> None:
        reading = replace(plan.reading, window=generation.window)
        self._plan = replace(plan, reading=reading, shards=generation.shards)
        self._store, self._job, self._epoch, self._generation = store, job, epoch, generation
        self._listener, self._stop = listener, stop
        self._listed = () if before is None else tuple(p for p in before.parts if p.shard not in generation.replaced)
        self._planned = generation.planned + account(self._listed).planned
        self._tried_again = {s.number: s.retries for s in generation.shards}
        self._surroundings, self._host = surroundings, surroundings.host
        self._bounds = Bounds(Limits.of(plan.spec), epoch.meter, stop, self._host)
        self._parts: list[Part] = []
        self._standing = StandingParts(store, job, generation.number)
        self._given_up: list[Failed] = []
        self._suspects = Suspects(store, job, epoch)
        self._decided = self._decided_rows = 0
        self._usage = Usage()
        self._ending: _Ending | None = None
        self._settings: Settings | None = None
        self._executor: Executor | None = None

    def result(self) -> RunResult:
        """Have every shard decided, then end the generation."""
        self._store.delete(paths.SUCCESS)  # a late runner of a job or generation before may have put it
        shards = self._plan.shards
        decided = parts.list_shards(self._store, self._job.paths)
        left = deque(s for s in shards if s.number not in decided)
        before = [s for s in shards if s.number in decided]
        self._decided, self._decided_rows = len(before), sum(s.rows for s in before)
        allotment, context = self._context(fresh=self._generation.kind == "run" and not decided)
        self._tell(
            Started(
                self._plan,
                self._job.paths,
                self._epoch.number,
                self._counts(),
                allotment.executor,
                self._decided,
                self._decided_rows,
            )
        )
        try:
            with self._host.threads(4, "batchinfer-parts") as pool:
                self._standing.read([s.number for s in before], pool)
                if self._plan.spec.errors.on_exceed == "abort":  # dead rows of former runs count from the start
                    self._standing.take(self._parts)
                    self._ending = self._exceeded()
                if left and self._ending is None and not self._bounds.look():  # former runs may have spent it all
                    self._ending = _stopped(self._stop)
                if left and self._ending is None:
                    self._work(left, allotment, context)
            self._standing.take(self._parts)
        except BaseException:
            self._parts += self._standing.sound()
            self._tell(Broken(self._counts(), self._epoch.meter.spent(self._plan.spec.resources.price_per_hour)))
            raise
        return self._end(shards)

    def _counts(self) -> Counts:
        """The job's rows by what became of them so far."""
        mine = [replace(p, retries=self._tried_again[p.shard]) for p in self._parts]
        return account([*self._listed, *mine], self._planned)

    def _context(self, *, fresh: bool) -> tuple[Allotment, Context]:
        self._settings = settings.standing(self._store, self._job, self._generation)
        pinned = self._settings
        allotment = allot(self._plan.spec, pinned)
        return allotment, Context(
            self._plan.spec,
            self._plan.reading,
            self._job.paths,
            allotment.threads,
            breaker=fresh and self._plan.spec.errors.circuit_breaker,
            gpus=allotment.gpus,
            single_writer=isinstance(self._store, SingleWriterStore),
            outputs=settings.outputs(self._store, self._job, self._generation.number),
            workers=allotment.workers or 1,
            models={s.name: model_digest(self._generation.fingerprint, s.name) for s in self._plan.spec.models},
            fingerprint=self._generation.fingerprint.digest,
            rows=rows_digest(self._generation.fingerprint),
        )

    def _work(self, left: deque[Shard], allotment: Allotment, context: Context) -> None:
        with self._bounds.devices(allotment):
            executor = self._executor = self._surroundings.open_executor(allotment, context)
            try:
                self._bounds.count(executor, allotment)
                self._make_ready(executor, left)
                if self._ending is None:
                    self._loop(executor, allotment, left)
            finally:
                executor.close()

    def _make_ready(self, executor: Executor, left: deque[Shard]) -> None:
        """Have the workers measure what the job leaves open, and load the models."""
        self._suspects.begin([s.number for s in left], executor.workers)
        quarantined = self._suspects.quarantined(left[0].number)
        try:
            with self._bounds.watched(executor):
                if self._settings is None:
                    measured = executor.measure(list(left), quarantined=quarantined)
                    self._settings = settings.pin(self._store, self._job, self._generation, measured)
                executor.start(self._settings, quarantined=quarantined)
        except InputError as e:  # of all that is left not one row can be read
            self._ending = _Ending(State.FAILED, e.exit_code, str(e))
        except StoppedError:
            if not self._stop:  # it isn't the limits, of which the thread that watches them has told
                raise
            self._ending = _stopped(self._stop)
        else:
            self._tell(Settled(self._settings, executor.workers))

    def _loop(self, executor: Executor, allotment: Allotment, left: deque[Shard]) -> None:
        by_number = {s.number: s for s in left}
        running = 0
        while left or running:
            self._bounds.count(executor, allotment)
            self._bounds.look()
            if self._stop and self._ending is None:
                self._abort(executor, left, _stopped(self._stop))
            while left and executor.wants() > 0:
                shard = left.popleft()
                executor.submit(shard, quarantined=self._suspects.quarantined(shard.number))
                running += 1
            outcomes = executor.wait(TICK_SECONDS)
            running -= len(outcomes)
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    self._take_in(executor, outcome, left)
                elif self._retries(executor, outcome, left):
                    part = parts.find(self._store, self._job.paths, outcome.shard)
                    if part is not None:  # the worker died after its decision, perhaps without all of its chunks
                        self._take_in(executor, Done(outcome.shard, part), left)
                    else:
                        left.appendleft(by_number[outcome.shard])
            # One that is damaged ends the run now, and not after the last shard.
            self._standing.take(self._parts, done=True)
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
        if errors.on_exceed != "abort" or self._generation.kind == "retry":  # which only ever makes fewer of them
            return None
        dead = sum(p.counts.dead for p in self._parts)
        if dead <= allowed_dead(errors.threshold, self._plan.rows):
            return None
        message = (
            f"{dead} dead rows, more than errors.threshold: {errors.threshold} allows, and errors.on_exceed is abort: the other rows "
            "are not attempted. Attempt them with --set errors.on_exceed=finish, then mend the cause and predict the dead rows: "
            f"batchinfer retry {self._store.root}; or mend it and begin anew with --restart"
        )
        return _Ending(State.FAILED, 3, message)

    def _retries(self, executor: Executor, failed: Failed, left: deque[Shard]) -> bool:
        """Act on a failed shard; True when it is to be tried again."""
        if failed.failure is Failure.STOPPED:
            return False
        retries = self._plan.spec.retry.max_retries
        deaths = self._suspects.count(failed, retries)
        match decide(failed, deaths, retries):
            case Action.RETRY:
                self._tell(Retried(failed, deaths, self._suspects.quarantined(failed.shard)))
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
        refuse_superseded(self._store, self._job, self._generation.number)
        if len(self._parts) == len(shards):
            manifest = end(
                self._store,
                self._job,
                self._generation,
                self._listed,
                self._parts,
                self._plan.spec.errors,
                self._settings,
            )
            return self._told(judge(self._store, self._plan.spec, self._job, manifest))
        counts = self._counts()
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
            served=executor.served() if executor else {},
        )

    def _tell(self, event: Event) -> None:
        self._listener(event)


def _stopped(stop: StopRequest) -> _Ending:
    return _Ending(State.CANCELLED, 130, stop.reason) if stop.cancelled else _Ending(State.INTERRUPTED, 75, stop.reason)

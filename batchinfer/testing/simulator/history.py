"""One history: runners that come and go over one output, in the weather of a seed, until the job has ended."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
import secrets
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal
from unittest import mock

from batchinfer.errors import BatchinferError
from batchinfer.ledger.host import Host
from batchinfer.report.results import recorded
from batchinfer.run import runner
from batchinfer.run.events import Listener, RunResult, State
from batchinfer.run.resources import Allotment
from batchinfer.run.retrying import Selection
from batchinfer.run.stop import StopRequest
from batchinfer.run.surroundings import Surroundings
from batchinfer.storage import paths
from batchinfer.storage.remote import RETRY_SECONDS, FsspecStore
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.bucket import ROOT, Bucket, Client
from batchinfer.testing.simulator.machine import SimulatedHost
from batchinfer.testing.simulator.model import BATCH, SHAPES, Input, Model, Shape, plan, shape
from batchinfer.testing.simulator.oracle import Oracle
from batchinfer.testing.simulator.scheduler import STEPS, Killed, Process, Scheduler, Task
from batchinfer.testing.simulator.weather import Fate, Weather
from batchinfer.testing.simulator.workers import SimulatedExecutor
from batchinfer.worker.context import Context

How = Literal["run", "restart", "retry"]
LAST_STARTS = 8
"""Runners that may be needed to end a job in calm weather: some find another one alive."""


@dataclass
class Started:
    """A start of a runner, and what came of it."""

    process: Process
    task: Task
    stop: StopRequest
    result: RunResult | None = None
    code: int | None = None


@dataclass
class History:
    """What happened."""

    seed: int
    weather: Weather
    shape: Shape
    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seen: int = 0
    """Rows that the model was called with."""
    steps: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    parts: dict[int, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        shape = self.shape
        head = [
            f"seed {self.seed}: {self.weather}",
            f"job: {shape.rows} rows, {shape.shard} a shard, {shape.window} a window; poison {sorted(shape.poison)}, invalid "
            f"{sorted(shape.invalid)}, filtered {sorted(shape.filtered)}; a batch takes {shape.pace:g} s, checkpoints every "
            f"{shape.interval:g} s",
        ]
        return "\n".join([*head, *self.lines, *(f"VIOLATION: {v}" for v in self.violations)])


@contextlib.contextmanager
def _chance(seed: str) -> Iterator[None]:
    """Nonces, names and jitter of the code under simulation come from the seed too."""
    state, tokens = random.getstate(), Random(f"{seed} tokens")
    random.seed(seed)
    log = logging.getLogger("batchinfer")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with mock.patch.object(secrets, "token_hex", lambda n=32: tokens.randbytes(n).hex()):
            yield
    finally:
        log.setLevel(level)
        random.setstate(state)


class World:
    """Everything of one history."""

    def __init__(self, seed: int, weather: Weather | None = None) -> None:
        chance = self._chance = Random(f"history {seed}")
        drawn = Weather.of(chance)
        self.weather = drawn if weather is None else weather
        self.number = chance.randrange(SHAPES)
        self.version = self.repair = 0
        self.history = History(seed, self.weather, shape(self.number, 0))
        self.scheduler = Scheduler()
        self.bucket = Bucket()
        self.fate = Fate(self.weather, Random(f"fate {seed}"), self.scheduler, self.bucket, self.note)
        self._jobs: dict[str, Shape] = {}
        self.oracle = Oracle(
            self.bucket,
            self._jobs,
            self.failed,
            noisy=self.weather.noisy,
            forgiving=bool(self.weather.stale),  # parts of a replaced job can only be found by listing
        )
        self.bucket.watch = self._changed
        self._unsaved: Counter[str] = Counter()
        """Rows that the model was called with in each process since that last saved any."""
        self._processes: dict[str, Process] = {}
        self._starts: list[Started] = []

    def note(self, who: str, what: str) -> None:
        """A line of the history."""
        self.history.lines.append(f"{self.scheduler.now:9.2f}  {who:12s} {what}")

    def failed(self, what: str) -> None:
        """Something doesn't hold: the history ends here."""
        self.history.violations.append(what)
        self.note("oracle", what)
        self.scheduler.stop()

    def run(self) -> History:
        """Let it happen."""
        with _chance(f"history {self.history.seed}"):
            operator = self._process("operator", "desk")
            self.scheduler.spawn(operator, "operator", self._operate)
            self.scheduler.run()
            if operator.tasks[0].error is not None:
                raise operator.tasks[0].error
        if self.scheduler.steps > STEPS:
            self.failed(f"no end after {STEPS} steps")
        self.history.steps = self.scheduler.steps
        self.history.faults = self.fate.counts
        self.history.starts = len(self._starts)
        return self.history

    # The operator, who starts runners and looks at what became of them.

    def _operate(self) -> None:
        chance, weather = self._chance, self.weather
        for n in range(weather.starts):
            how = self._draw_start() if n else "run"
            started = self.start(how)
            if chance.random() < weather.stopped:
                self._stop_later(started, chance.uniform(0.5, 15.0))
            gap = chance.uniform(0.0, 2.0 if weather.duel else 40.0) if weather.runners > 1 else 900.0
            self.scheduler.join(started.task, gap)
            while len(self._alive()) >= weather.runners:
                self.scheduler.pause(5.0)
        self.fate.calm = True
        self.note("operator", "calm")
        self._finish()
        for process in list(self._processes.values()):
            if process.paused_until == math.inf:
                self.note(process.name, "wakes up")
                self.scheduler.resume(process)
        for started in self._starts:
            self.scheduler.join(started.task)
        self.scheduler.pause(60.0)  # workers that outlive their driver come to an end
        self._finish()
        self.history.parts, self.history.shape = self.oracle.first_generation()

    def _draw_start(self) -> How:
        """Go on, begin anew, perhaps with another model, or try dead rows again, perhaps with a mended one."""
        chance, weather = self._chance, self.weather
        if chance.random() < weather.restarts:
            if chance.random() < 0.5:
                self.version, self.repair = self.version + 1, 0
            return "restart"
        if chance.random() < weather.retries:
            self.repair = min(2, self.repair + chance.randint(0, 1))
            return "retry"
        return "run"

    def _alive(self) -> list[Started]:
        return [s for s in self._starts if not s.task.done and s.process.paused_until < math.inf]

    def _finish(self) -> None:
        """Start runners until one ends the job."""
        for _ in range(LAST_STARTS):
            how: How = "run"
            current = self.oracle.current()
            if current is not None:
                begun = self.oracle.generations(current[1])
                job = self.oracle.shape_of(begun[-1]) if begun else current[2]
                self.version, self.repair = job.version, job.repair
                if begun and begun[-1].kind == "retry" and self.oracle.manifest(current[1]):
                    how = self._chance.choice(("run", "retry"))
            started = self.start(how)
            others = [s for s in self._alive() if s is not started]
            for one in (started, *others):  # whoever is refused waits for the one that lives
                self.scheduler.join(one.task)
            if not others and started.result is not None and started.result.state in (State.SUCCEEDED, State.PARTIAL):
                self.oracle.end(started.code)
                return
        self.failed(f"the job has not ended after {LAST_STARTS} starts in calm weather")

    def check(self) -> None:
        """What can be said of a whole history."""
        job = self.history.shape
        if not self.weather.noisy and self.history.parts != undisturbed(job):
            self.failed("the bytes of the parts differ from those of an undisturbed run")
        if not self.weather.only_crashes or job.poison - job.filtered:  # isolating rows takes calls of its own
            return
        unsaved, redone = self._unsaved.total(), self.history.seen - (job.rows - len(job.filtered))
        if redone > unsaved:
            self.failed(f"{redone} rows were done again, and only {unsaved} were not saved when workers died")
        # The batches of an interval, the one with which it begins, and one that ends just before it is over.
        most = BATCH * (math.ceil(job.interval / job.pace) + 2)
        if max(self._unsaved.values(), default=0) > most:
            self.failed(f"{max(self._unsaved.values())} rows were not saved when a worker died, {most} may be")

    # Processes.

    def _process(self, name: str, machine: str, *, hired: bool = False) -> Process:
        process = Process(name, machine, len(self._processes), self.scheduler.now, hired=hired)
        self._processes[name] = process
        return process

    def start(self, how: How) -> Started:
        """Start a runner, as the command line would."""
        number = len(self._starts) + 1
        process = self._process(f"run{number}", self._chance.choice(("red", "blue")))
        job = shape(self.number, self.version, self.repair)
        self._jobs[plan(job).fingerprint.digest] = job
        stop = StopRequest()
        self.note("operator", f"starts {process.name} on {process.machine}: {how}, model {job.version}.{job.repair}")
        task = self.scheduler.spawn(process, process.name, lambda: self._run(started, job, how))
        started = Started(process, task, stop)
        self._starts.append(started)
        self.oracle.began(process.name)
        return started

    def _stop_later(self, started: Started, after: float) -> None:
        def ask() -> None:
            if not started.task.done:
                self.note(started.process.name, "is asked to stop")
                started.stop.ask("asked to")

        self.scheduler.spawn(self._processes["operator"], "signal", ask, after)

    def _run(self, started: Started, job: Shape, how: How) -> None:
        """What `Job.run` does, in another world."""
        process = started.process
        host, store = self._host(process), self._store(process)
        surroundings = Surroundings(
            host,
            lambda _spec: store,
            lambda allotment, context: self._executor(process, job, allotment, context),
        )

        def work(listener: Listener) -> None:
            if how == "retry":
                asked = Selection(("exception",) if job.number % 3 == 0 else ())
                started.result = runner.retry(plan(job), asked, listener, started.stop, surroundings=surroundings)
            else:
                started.result = runner.run(
                    plan(job), listener, started.stop, restart=how == "restart", surroundings=surroundings
                )

        try:
            recorded(store, work)
            assert started.result is not None
            started.code = started.result.exit_code
            told = f"ends with {started.code}, {started.result.state} {'; '.join(started.result.errors)}"
        except BatchinferError as e:
            started.code = e.exit_code
            told = f"ends with {started.code}: {e}"
            if e.exit_code not in (2, 75):
                self.failed(f"{process.name} {told}")
        except Killed:
            raise
        except BaseException as e:  # noqa: BLE001 - whatever it is, it is a finding
            self.scheduler.me()
            self.failed(f"{process.name} raises {e!r}\n{''.join(traceback.format_exception(e))}")
            return
        self.scheduler.me()
        self.note(process.name, told)
        self.oracle.left(process.name)
        process.dead = True  # its other threads end with it

    def _host(self, process: Process) -> Host:
        wrong = {"red": 0.0, "blue": -3600.0}.get(process.machine, 0.0)
        return SimulatedHost(self.scheduler, process, self._processes, wrong, blind=self.weather.blind)

    def _store(self, process: Process) -> Store:
        client = Client(self.bucket, process.name, self.fate)
        retry_seconds = 0.0 if self.weather.gives_up else RETRY_SECONDS
        return FsspecStore(ROOT, client, retry_seconds=retry_seconds, sleep=self.scheduler.pause)

    def _executor(self, driver: Process, job: Shape, allotment: Allotment, context: Context) -> SimulatedExecutor:
        del allotment
        hired: list[Process] = []

        def process() -> Process:
            if not self.weather.on_ray:
                return driver
            hired.append(self._process(f"{driver.name}.{len(hired) + 1}", driver.machine, hired=True))
            return hired[-1]

        executor = SimulatedExecutor(
            self.scheduler,
            context,
            self.weather.workers,
            process,
            self._host,
            self._store,
            lambda worker: self._parts(job, worker),
            on_ray=self.weather.on_ray,
        )
        if self.weather.on_ray:
            self.scheduler.spawn(self._processes["operator"], "reaper", lambda: self._reap(driver.tasks[0], hired))
        return executor

    def _reap(self, driver: Task, hired: list[Process]) -> None:
        """Workers end some time after their driver has died."""
        self.scheduler.join(driver)
        if not self.weather.only_crashes:
            self.scheduler.pause(self._chance.choice((0.0, 2.0, 2.0, 40.0)))
        for process in hired:
            if not process.dead:
                self.note(process.name, "ends after its driver")
                self.scheduler.kill(process)

    def _parts(self, job: Shape, worker: Process) -> tuple[Input, Model]:
        noise = Random(self._chance.random()) if self.weather.noisy else None
        return Input(job), Model(job, self.fate.step, lambda rows: self._count(worker, rows), noise)

    def _count(self, worker: Process, rows: int) -> None:
        self.history.seen += rows
        self._unsaved[worker.name] += rows

    def _changed(self, who: str, path: str, old: bytes | None, new: bytes | None) -> None:
        if new is not None and ("/wip/" in path or path.startswith(f"{paths.DATA}/part")):
            self._unsaved[who] = 0
        self.oracle.changed(who, path, old, new)


@functools.cache
def undisturbed(job: Shape) -> dict[int, bytes]:
    """The parts of a run that nothing happens to."""
    world = World(0, Weather(starts=1))
    world.number, world.version, world.repair = job.number, job.version, job.repair
    return world.run().parts


def simulate(seed: int) -> History:
    """The history of a seed."""
    world = World(seed)
    history = world.run()
    if not history.violations:
        world.check()
    return history

"""Everything of one history: the bucket, the processes over it, the weather, and who looks at what becomes of them."""

from __future__ import annotations

import math
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from batchinfer.errors import AccessError, BatchinferError, StorageError
from batchinfer.ledger.host import Host
from batchinfer.report.results import recorded
from batchinfer.run import runner
from batchinfer.run.events import Listener, RunResult
from batchinfer.run.resources import Allotment
from batchinfer.run.retrying import Selection
from batchinfer.run.stop import StopRequest
from batchinfer.run.surroundings import Surroundings
from batchinfer.storage import paths
from batchinfer.storage.remote import RETRY_SECONDS, FsspecStore
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.bucket import ROOT, Bucket, Client
from batchinfer.testing.simulator.history import History
from batchinfer.testing.simulator.machine import SimulatedHost
from batchinfer.testing.simulator.model import Input, Model, plan
from batchinfer.testing.simulator.oracle import Oracle
from batchinfer.testing.simulator.output import Output, step_of_chunk
from batchinfer.testing.simulator.scheduler import STEPS, Killed, Process, Scheduler, Task
from batchinfer.testing.simulator.shape import File, Shape
from batchinfer.testing.simulator.weather import Fate, Weather
from batchinfer.testing.simulator.workers import SimulatedExecutor
from batchinfer.worker.context import Context

How = Literal["run", "restart", "retry"]


@dataclass
class Started:
    """A start of a runner, and what came of it."""

    process: Process
    task: Task
    stop: StopRequest
    result: RunResult | None = None
    code: int | None = None
    refusal: str = ""
    """Why it was refused; empty where it was not."""


class World:
    """Everything of one history.

    Args:
        seed: of the faults.
        weather: how often each thing goes wrong.
        job: that the history begins with.
        chance: draws what is no fault.

    """

    def __init__(self, seed: int, weather: Weather, job: Shape, chance: Random) -> None:
        self.weather, self._chance = weather, chance
        self.history = History(seed, weather, job)
        self.scheduler = Scheduler()
        self.bucket = Bucket()
        self.fate = Fate(weather, Random(f"fate {seed}"), self.scheduler, self.bucket, self.note)
        self._jobs: dict[str, Shape] = {}
        self.output = Output(self.bucket, self._jobs)
        self.oracle = Oracle(
            self.bucket,
            self.output,
            self.failed,
            lambda who: self._processes[who].tasks[0].done,
            lambda: self.present,
            noisy=weather.noisy,
            forgiving=bool(weather.stale),  # parts of a replaced job can only be found by listing
        )
        self.bucket.watch = self._changed
        self.unsaved: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Rows that the models of the steps were called with in each process since that last saved any of the step."""
        self.present = job.files
        """The files of the input as they are now."""
        self.starts: list[Started] = []
        self._processes: dict[str, Process] = {}

    def note(self, who: str, what: str) -> None:
        """A line of the history."""
        self.history.lines.append(f"{self.scheduler.now:9.2f}  {who:12s} {what}")

    def failed(self, what: str) -> None:
        """Something doesn't hold: the history ends here."""
        self.history.violations.append(what)
        self.note("oracle", what)
        self.scheduler.stop()

    def run(self, operate: Callable[[], None]) -> History:
        """Let it happen: `operate` starts runners."""
        operator = self._process("operator", "desk")
        self.scheduler.spawn(operator, "operator", operate)
        self.scheduler.run()
        if operator.tasks[0].error is not None:
            raise operator.tasks[0].error
        if self.scheduler.steps > STEPS:
            self.failed(f"no end after {STEPS} steps")
        self.history.steps = self.scheduler.steps
        self.history.faults = self.fate.counts
        self.history.starts = len(self.starts)
        return self.history

    def _process(self, name: str, machine: str, *, hired: bool = False) -> Process:
        process = Process(name, machine, len(self._processes), self.scheduler.now, hired=hired)
        self._processes[name] = process
        return process

    def start(self, how: How, job: Shape) -> Started:
        """Start a runner, as the command line would."""
        process = self._process(f"run{len(self.starts) + 1}", self._chance.choice(("red", "blue")))
        self._jobs[plan(job).fingerprint.digest] = job
        stop = StopRequest()
        self.note("operator", f"starts {process.name} on {process.machine}: {how}, model {job.version}.{job.repair}")
        task = self.scheduler.spawn(process, process.name, lambda: self._run(started, job, how))
        started = Started(process, task, stop)
        self.starts.append(started)
        self.oracle.began(process.name)
        return started

    def alive(self) -> list[Started]:
        """Runners that have not ended, and aren't stopped for good."""
        return [s for s in self.starts if not s.task.done and s.process.paused_until < math.inf]

    def wake_up(self) -> None:
        """Let those go on that are stopped for good."""
        for process in list(self._processes.values()):
            if process.paused_until == math.inf:
                self.note(process.name, "wakes up")
                self.scheduler.resume(process)

    def change(self, files: tuple[File, ...]) -> None:
        """Let the input be of these files from now on."""
        told = ", ".join(f"{f.path} {f.rows} rows of revision {f.revision}" for f in files)
        self.note("operator", f"the input is now {told}")
        self.present = files

    def stop_later(self, started: Started, after: float) -> None:
        """Ask a runner to stop, `after` seconds from now."""

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

        looked = True
        try:
            recorded(store, work)
            assert started.result is not None
            started.code = started.result.exit_code
            told = f"ends with {started.code}, {started.result.state} {'; '.join(started.result.errors)}"
        except BatchinferError as e:
            started.code, started.refusal = e.exit_code, str(e)
            looked = not isinstance(e, AccessError | StorageError)  # the store didn't let it
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
        if looked:
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

    def _parts(self, job: Shape, worker: Process) -> tuple[Input, list[Model]]:
        noise = Random(self._chance.random()) if self.weather.noisy else None

        def model(step: int) -> Model:
            name = job.steps[step].name
            return Model(job, step, self.fate.step, lambda rows: self._count(worker, name, rows), noise)

        return Input(job, lambda: self.present), [model(step) for step in range(len(job.steps))]

    def _count(self, worker: Process, step: str, rows: int) -> None:
        self.history.seen += rows
        self.unsaved[worker.name][step] += rows

    def _changed(self, who: str, path: str, old: bytes | None, new: bytes | None) -> None:
        if new is not None and path.startswith(f"{paths.DATA}/part"):
            self.unsaved[who].clear()
        elif new is not None and "/wip/" in path:
            self.unsaved[who].pop(step_of_chunk(new), None)
        self.oracle.changed(who, path, old, new)

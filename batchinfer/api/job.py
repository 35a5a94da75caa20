"""`Job`: what is asked, and running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from batchinfer.api import measure as canary
from batchinfer.api.aside import temporary
from batchinfer.api.background import Asked, BackgroundRun
from batchinfer.api.bench import ROWS, Bench, bench
from batchinfer.api.measure import Measurement
from batchinfer.api.outputs import open_output, root, writing_to
from batchinfer.api.progress import Progress
from batchinfer.api.run import Run, open_run
from batchinfer.job import load
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import Step
from batchinfer.plan import describe
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.plan.table import ShowsTable, Table
from batchinfer.report import reporters
from batchinfer.report.reporting import reported
from batchinfer.run import runner
from batchinfer.run.events import Listener
from batchinfer.run.stop import StopRequest


class Job(ShowsTable):
    """What is asked: the same as a job file, from YAML or from keyword arguments.

    >>> job = Job.from_yaml("jobs/quickstart.yaml")
    >>> job.plan()
    >>> run = job.run()
    >>> run.results().collect()
    """

    def __init__(self, **fields: Any) -> None:
        """Take the keys of a job file as keyword arguments. Raises JobFileError with every mistake at once."""
        fields.setdefault("version", 1)
        fields.setdefault("name", "job")
        self.spec: JobSpec = load.from_fields(fields)

    @classmethod
    def from_yaml(
        cls, path: str | Path, params: Mapping[str, str] | None = None, set_values: Sequence[str] = ()
    ) -> Job:
        """Load a job file; `params` fill `${params.x}`, `set_values` are overrides such as `steps.0.precision=bf16`.

        Raises JobFileError with every mistake at once.
        """
        return cls.from_spec(load.load(path, params or {}, set_values))

    @classmethod
    def from_spec(cls, spec: JobSpec) -> Job:
        """A job from its validated models."""
        job = cls.__new__(cls)
        job.spec = spec
        return job

    def plan(self) -> Plan:
        """Say what would be done, reading footers only. Raises what `make_plan` raises."""
        with self.spec.secrets.kept():
            reporters.check(self.spec)
            return make_plan(self.spec)

    @overload
    def run(
        self,
        *,
        restart: bool = ...,
        progress: Progress = ...,
        background: Literal[False] = ...,
        listener: Listener | None = ...,
        stop: StopRequest | None = ...,
        plan: Plan | None = ...,
    ) -> Run: ...
    @overload
    def run(
        self,
        *,
        restart: bool = ...,
        progress: Progress = ...,
        background: Literal[True],
        listener: Listener | None = ...,
        stop: StopRequest | None = ...,
        plan: Plan | None = ...,
    ) -> BackgroundRun: ...
    def run(
        self,
        *,
        restart: bool = False,
        progress: Progress = "auto",
        background: bool = False,
        listener: Listener | None = None,
        stop: StopRequest | None = None,
        plan: Plan | None = None,
    ) -> Run | BackgroundRun:
        """Run the job, or go on with it: running twice is resuming.

        A job that ends with dead rows over the threshold, or is interrupted, returns too: see `Run.exit_code`. In a notebook the stop
        button interrupts it: it finishes the batches in hand, saves them and returns; a second time it ends at once.

        Args:
            restart: remove what a former job left on the output, and begin anew.
            progress: `auto` shows a bar in a notebook, and nothing elsewhere; `bar`, `plain` (lines), `none`.
            background: return at once; the run goes on in a thread of this process.
            listener: told of every event of the run.
            stop: through which another thread can ask the run to end.
            plan: from `plan()`, to save making it again.

        Raises:
            RefusedError: the job can't run as asked.
            TransientError: another runner is alive, or storage or cluster are away; running again resumes.

        In the background `wait()` raises them.

        """
        secrets, output = self.spec.secrets, self.spec.output.path

        def work(told: Listener, asked: StopRequest) -> Run:
            with secrets.kept():
                store = open_output(output, self.spec.storage)

                def begin(listener: Listener) -> None:
                    with secrets.kept():  # before it is recorded how the run ended
                        runner.run(
                            plan or self.plan(), listener, asked, restart=restart, surroundings=writing_to(store)
                        )

                reporters.telling(self.spec, store, lambda listener: reported(store, begin, listener), told)
                return open_run(output, self.spec.storage)

        run = Asked(self.spec.name, root(output), work, progress, listener, stop)
        return run.begin() if background else run.run()

    def bench(self, rows: int = ROWS, *, listener: Listener | None = None, stop: StopRequest | None = None) -> Bench:
        """Compare the runner on the job's first rows with a bare loop over them; both write into a temporary directory.

        Raises what `run` raises, and BatchinferError where the runner didn't get through.
        """
        with self.spec.secrets.kept():
            return bench(self.spec, rows, listener, stop)

    def measure(
        self,
        rows: int = canary.ROWS,
        *,
        listener: Listener | None = None,
        stop: StopRequest | None = None,
        plan: Plan | None = None,
    ) -> Measurement:
        """Run so many rows for each worker, spread over the input, into a temporary directory, and say what the whole job will take.

        Inline and on Ray, where the job may run on both. Raises what `run` raises, and BatchinferError where a row can't be got through.

        Args:
            rows: at least; more where they are over in less than three seconds.
            listener: told of every event of these runs.
            stop: through which another thread can ask for an early end.
            plan: from `plan()`, to save making it again.

        """
        with self.spec.secrets.kept(), temporary("batchinfer-measure-") as folder:
            return canary.measure(plan or self.plan(), folder, rows, listener, stop)

    def _line(self) -> str:
        told = [f"{s.engine} {s.uri}" if isinstance(s, Step) else s.name for s in self.spec.steps]
        shown = f"Job({self.spec.name!r}: {self.spec.input.path} → {', '.join(told)} → {self.spec.output.path})"
        return self.spec.secrets.hide(shown)

    def table(self) -> Table:
        """See ShowsTable."""
        return describe.asked(self.spec)

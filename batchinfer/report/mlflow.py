"""A listener that logs a run to MLflow, as a run of its own there."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from batchinfer.job.report import MlflowRun
from batchinfer.job.scalar import as_text
from batchinfer.job.secrets import Secrets
from batchinfer.job.spec import JobSpec
from batchinfer.ledger.parts import Counts
from batchinfer.ledger.spending import Spent
from batchinfer.report.outbox import Outbox
from batchinfer.report.results import ended_by
from batchinfer.report.tally import Tally
from batchinfer.run.events import Broken, Event, Finished, RunResult, Settled, Started, Ticked, rows_to_json
from batchinfer.storage.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EVERY_SECONDS = 10.0
"""How often metrics are logged while a run goes on."""
_LONGEST = 6000
"""Characters of a parameter that every store of MLflow's takes."""
_ENDS = {0: "FINISHED", 75: "KILLED", 130: "KILLED"}
"""By exit code; all others are FAILED."""


class MlflowListener:
    """Parameters, tags, metrics and artifacts of one run. Each of a job's runs is one of MLflow's, tagged with the job that it is of.

    Args:
        spec: the job.
        store: its output.
        asked: how the run is to be logged, and how long the end waits.
        secrets: which nothing that is logged may repeat.
        clock: seconds, of no beginning.

    """

    def __init__(
        self,
        spec: JobSpec,
        store: Store,
        asked: MlflowRun,
        secrets: Secrets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow else tells its makers of its use
        # In this thread, though it is used in the other one: two that import packages with circles may see each other's halves.
        import mlflow.tracking  # noqa: F401

        self._spec, self._store, self._asked, self._secrets, self._clock = spec, store, asked, secrets, clock
        self._client: MlflowClient | None = None
        self._outbox = Outbox("mlflow", secrets)
        self._tally = Tally(clock)
        self._next = clock()
        self._run_id: str | None = None
        self._started: Started | None = None
        self._rows: Counts | None = None
        self._spent: Spent | None = None
        self._code: int | None = None
        self._result: RunResult | None = None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        self._tally(event)
        if isinstance(event, Started):
            first, self._started = self._started is None, event
            if first:
                self._outbox.put(lambda: self._begin(event))
        elif isinstance(event, Settled):
            precisions = {name: step.precision for name, step in event.settings.models.items()}
            parameters = {**self._named("precision", precisions), "workers": event.workers}
            self._outbox.put(lambda: self._log(parameters=parameters))
        elif isinstance(event, Ticked):
            # Where the server is slow, figures are left out rather than queued.
            if self._clock() >= self._next and self._outbox.is_idle:
                self._next = self._clock() + EVERY_SECONDS
                metrics = {
                    "rows_done": self._tally.rows,
                    "rows_dead": self._tally.dead,
                    "rows_per_second": self._tally.pace,
                }
                self._outbox.put(lambda: self._log(metrics))
        elif isinstance(event, Broken):
            self._rows, self._spent = event.rows, event.spent
        elif isinstance(event, Finished):
            self._result, self._code = event.result, event.result.exit_code
            self._rows, self._spent = event.result.rows, event.result.spent

    def failed(self, error: BaseException) -> None:
        """An exception ended the run."""
        self._code = ended_by(error)[1]

    def close(self) -> None:
        """Log how the run ended, and wait until all has arrived, within bounds. A run that never began is none."""
        if self._started is not None and self._code is not None:
            started, code = self._started, self._code
            self._outbox.put(lambda: self._log(self._last_metrics()))
            for name in ("run_results.json", "report.html"):
                self._outbox.put(functools.partial(self._keep, f"{started.job.folder}/{name}", name))
            self._outbox.put(lambda: self._terminate(_ENDS.get(code, "FAILED")))
        self._outbox.close(self._asked.timeout)

    def _begin(self, started: Started) -> None:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self._asked.tracking_uri)  # which may connect to a database, and so is made here
        tags = {key: self._hide(value) for key, value in self._tags(started).items()}
        if run_id := os.environ.get("MLFLOW_RUN_ID"):  # as `mlflow run` gives it to what it starts
            client.update_run(run_id, status="RUNNING")
        else:
            name = self._hide(self._asked.run_name or self._spec.name)
            run_id = client.create_run(_experiment(client, self._asked.experiment), run_name=name).info.run_id
        self._client, self._run_id = client, run_id
        self._log(parameters=self._parameters(started), tags=tags)

    def _tags(self, started: Started) -> dict[str, Any]:
        tags = {
            "mlflow.source.type": "JOB",
            "mlflow.source.name": "batchinfer",
            "batchinfer.job": started.job.job8,
            "batchinfer.runner": started.epoch,
            "batchinfer.fingerprint": started.plan.fingerprint.digest,
            "batchinfer.output": self._store.root,
            **self._asked.tags,
        }
        with contextlib.suppress(Exception):  # a process's user may have no name
            tags["mlflow.user"] = getpass.getuser()
        return tags

    def _parameters(self, started: Started) -> dict[str, Any]:
        given, models = self._spec.input.path, started.plan.spec.models
        return {
            "job": self._spec.name,
            "input": given if isinstance(given, str) else ", ".join(given),
            "output": self._store.root,
            "rows": started.plan.rows,
            "executor": started.executor,
            **self._named("model", {step.name: f"{step.engine} {step.uri}" for step in models}),
            **self._named("precision_asked", {step.name: step.precision for step in models}),
        }

    @staticmethod
    def _named(key: str, values: Mapping[str, str]) -> dict[str, Any]:
        """Parameters of models: of the only one by the key alone, of several by the step's name too."""
        if len(values) == 1:
            return {key: next(iter(values.values()))}
        return {f"{name}.{key}": value for name, value in values.items()}

    def _last_metrics(self) -> dict[str, float]:
        found: dict[str, float] = {"seconds": self._tally.seconds}
        if self._rows is not None:
            found |= {f"rows_{state}": count for state, count in rows_to_json(self._rows).items()}
        if self._spent is not None:
            found |= {key: value for key, value in self._spent.to_json().items() if value is not None}
        if self._result is not None:
            usage = self._result.usage.to_json()
            found |= {f"seconds_{stage}": seconds for stage, seconds in usage["seconds"].items()}
            if self._tally.work_seconds > 0:
                found["rows_per_second"] = self._result.usage.rows / self._tally.work_seconds
        return found

    def _log(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if self._client is None or self._run_id is None:  # it couldn't be made, of which was told
            return
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        step = self._tally.rows
        self._client.log_batch(
            self._run_id,
            [Metric(key, float(value), now, step) for key, value in (metrics or {}).items()],
            [Param(_key(key), self._hide(value)[:_LONGEST]) for key, value in (parameters or {}).items()],
            [RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def _keep(self, path: str, name: str) -> None:
        """Keep a file of the run's as an artifact, where there is one."""
        if self._client is None or self._run_id is None:
            return
        try:
            text = self._store.read(path).decode()
        except FileNotFoundError:
            return
        self._client.log_text(self._run_id, text, name)

    def _terminate(self, status: str) -> None:
        if self._client is not None and self._run_id is not None:
            with _urls_unsaid():
                self._client.set_terminated(self._run_id, status)

    def _hide(self, value: Any) -> str:
        return self._secrets.hide(as_text(value) if isinstance(value, str | int | float | None) else str(value))


def _key(name: str) -> str:
    """A parameter's name with the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)[:250]


@contextlib.contextmanager
def _urls_unsaid() -> Iterator[None]:
    """MLflow prints where a run is that ends, to stdout, where the result of a command goes; a variable keeps it from that."""
    name = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _experiment(client: MlflowClient, asked: str | None) -> str:
    """The id of the experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    if asked is None and (number := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return number
    name = asked or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name:
        return "0"
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another run was first, or it can't be
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)

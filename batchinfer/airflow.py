"""Operators for Airflow 3: a job as a task, whose retries and clears resume, and a group that plans, runs and verifies.

Each calls the program in a process of its own. So parsing a DAG imports neither torch nor Ray, and what a model does to its process it
doesn't do to Airflow's. Airflow is imported here alone.

Exit codes become what Airflow makes of exceptions: 0 success; 2 and 3 failure without a retry, as it would come again; 99 skipped; 75, 1
and others failure with a retry, which resumes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO, Any

from airflow.sdk import BaseOperator, TaskGroup
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

FINAL = (2, 3)
"""Exit codes that come again as long as nothing is mended."""
SKIPPED, RESUMABLE = 99, 75
_SMALL = ("state", "exit_code", "rows", "job", "output", "seconds", "changes")
_ERRORS = 5


def small(result: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into XCom of a run's result: its state, accounting and output, and the first errors."""
    errors = [str(error) for error in result.get("errors", [])][:_ERRORS]
    return {**{key: result[key] for key in _SMALL if key in result}, "errors": errors}


def judge(code: int, errors: Sequence[str]) -> None:
    """Raise what tells Airflow how a call of the program ended.

    Raises AirflowFailException, AirflowSkipException or AirflowException; see the module.
    """
    told = f"batchinfer ended with exit code {code}: {'; '.join(errors) or 'see the log'}"
    if code == SKIPPED:
        raise AirflowSkipException(told)
    if code in FINAL:
        raise AirflowFailException(told)
    if code:
        raise AirflowException(told)


class _Call(BaseOperator):  # type: ignore[misc]
    """One verb of the program, with `--json`.

    Args:
        job: the job file.
        job_params: for `${params.NAME}` in it; Airflow's own `params` are something else.
        set_values: overrides, as `--set` takes them.
        python: with batchinfer installed; by default the one that runs the task.
        drain_seconds: how long a killed task waits for its run to checkpoint, before that is killed too.

    """

    template_fields: Sequence[str] = ("job", "job_params", "set_values")

    def __init__(
        self,
        *,
        job: str,
        job_params: Mapping[str, str] | None = None,
        set_values: Sequence[str] = (),
        python: str | None = None,
        drain_seconds: float = 25.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job, self.job_params, self.set_values = job, dict(job_params or {}), list(set_values)
        self.python, self.drain_seconds = python, drain_seconds
        self._process: subprocess.Popen[str] | None = None

    @property
    def _given(self) -> list[str]:
        params = [word for name, value in self.job_params.items() for word in ("--param", f"{name}={value}")]
        return [*params, *(word for text in self.set_values for word in ("--set", text))]

    def _output(self) -> str:
        """The job's output path."""
        from batchinfer.job.load import load

        return load(self.job, self.job_params, self.set_values).output.path

    def _call(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit code of a verb, and what it says in JSON; lines on its stderr go to the task's log."""
        command = [self.python or sys.executable, "-m", "batchinfer", *words, "--json"]
        self.log.info("%s", " ".join(command))
        with tempfile.TemporaryFile("w+") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True)  # noqa: S603
            assert self._process.stderr is not None
            for line in self._process.stderr:
                self.log.info("%s", line.rstrip())
            code = self._process.wait()
            return code, _last(said)

    def on_kill(self) -> None:
        """Let the run finish its batches and checkpoint."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self.drain_seconds)
        except subprocess.TimeoutExpired:
            process.kill()


def _last(said: IO[str]) -> dict[str, Any]:
    """The JSON object of a verb's last line; empty where it said none."""
    said.seek(0)
    lines = said.read().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class BatchInferOperator(_Call):
    """Run a job, or go on with it: retries of the task and clears resume, and a job that is done is done at once.

    XCom is the result without the large parts, see `small`.

    Args:
        deferrable: have the run go on in the background on the worker's machine, and wait for it in the triggerer, which reads the output
            alone. Not for executors that end a task's machine with it, such as that of Kubernetes.
        poll_seconds: between its looks.
        kwargs: see _Call, and Airflow's own.

    """

    def __init__(self, *, deferrable: bool | None = None, poll_seconds: float = 15.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        default = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable, self.poll_seconds = default if deferrable is None else deferrable, poll_seconds

    def execute(self, context: Any) -> Any:  # noqa: ARG002 - the job needs nothing of it
        """Run it. Raises as `judge` does."""
        if self.deferrable:
            return self._deferred()
        code, result = self._call("run", self.job, *self._given, "--progress", "plain", "--if-locked", "wait")
        judge(code, result.get("errors", []))
        return small(result)

    def _deferred(self) -> dict[str, Any]:
        trigger = RunTrigger(self._output(), self.job, self.job_params, self.set_values, self.poll_seconds)
        if not trigger.is_alive():  # else a task before this one began it, and it is waited for
            code, submitted = self._call("submit", self.job, *self._given)
            judge(code, submitted.get("errors", []))
            if submitted["ended"]:
                return self.execute_complete({}, trigger.look() or {})
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer() raises")

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The run has ended. Raises as `judge` does."""
        result: dict[str, Any] = event["result"]
        judge(event["exit_code"], result.get("errors", []))
        return result


class RunTrigger(BaseTrigger):  # type: ignore[misc]
    """Waits for the end of a job's run. It has nothing but what it is made with, so that any triggerer may go on with it.

    Args:
        output: the job's output path.
        job: its job file, which says how the output is reached; where it can't be read here, the environment does.
        job_params: for the job file.
        set_values: overrides of it.
        poll_seconds: between looks.

    """

    def __init__(
        self,
        output: str,
        job: str,
        job_params: Mapping[str, str],
        set_values: Sequence[str] = (),
        poll_seconds: float = 15.0,
    ) -> None:
        super().__init__()
        self.output, self.job, self.job_params = output, job, dict(job_params)
        self.set_values, self.poll_seconds = list(set_values), poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        given = {
            "output": self.output,
            "job": self.job,
            "job_params": self.job_params,
            "set_values": self.set_values,
            "poll_seconds": self.poll_seconds,
        }
        return f"{type(self).__module__}.{type(self).__name__}", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, once the run has ended or its runner is gone."""
        while (ended := await asyncio.to_thread(self.look)) is None:
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent(ended)

    async def on_kill(self) -> None:
        """A user has killed the task: ask the run to checkpoint and end."""
        await asyncio.to_thread(lambda: self._opened().cancel())

    def _opened(self) -> Any:
        from batchinfer import open_run
        from batchinfer.errors import BatchinferError
        from batchinfer.job.load import load

        try:
            storage = load(self.job, self.job_params, self.set_values).storage
        except (BatchinferError, OSError):
            storage = {}
        return open_run(self.output, storage)

    def is_alive(self) -> bool:
        """Whether a run of the job is going on."""
        from batchinfer.errors import OutputError

        try:
            return bool(self._opened().is_running())
        except OutputError:  # nothing is there yet
            return False

    def look(self) -> dict[str, Any] | None:
        """The event of a run that has ended; None while it goes on."""
        from batchinfer.errors import BatchinferError, TransientError

        try:
            run = self._opened()
            if run.is_running():
                return None
            code = run.wait(0)  # for what it came to, which is written after it has ended
            result = run.record
        except TransientError:  # the store is away: the next look may tell
            return None
        except BatchinferError as error:
            return {"exit_code": error.exit_code, "result": {"errors": [str(error)]}}
        if code is None:
            return {
                "exit_code": RESUMABLE,
                "result": {"errors": [f"{self.output}: the runner is gone; a retry goes on"]},
            }
        return {"exit_code": code, "result": small(result)}


class BatchInferPlanOperator(_Call):
    """Check a job and its input, and hash the model, without running it: a mistake fails here, in seconds."""

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """XCom: rows, shards and output. Raises as `judge` does."""
        code, plan = self._call("plan", self.job, *self._given)
        judge(code, plan.get("errors", []))
        return {key: plan[key] for key in ("rows", "shards", "output") if key in plan}


class BatchInferVerifyOperator(_Call):
    """Prove from the files that every planned row stands in the output exactly once.

    Args:
        deep: decode every page, too.
        kwargs: see _Call, and Airflow's own.

    """

    def __init__(self, *, deep: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deep = deep

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """XCom: the accounting. Raises as `judge` does."""
        # The verb knows the job file without overrides: where one moves the output, it is told the path.
        moved = any(text.startswith("output.path=") for text in self.set_values)
        params = [word for name, value in self.job_params.items() for word in ("--param", f"{name}={value}")]
        place = [self._output()] if moved else [self.job, *params]
        code, found = self._call("verify", *place, *(["--deep"] if self.deep else []))
        judge(code, [str(finding) for finding in found.get("findings", found.get("errors", []))][:_ERRORS])
        return {key: found[key] for key in ("rows", "parts") if key in found}


def job_group(group_id: str, *, deep: bool = False, deferrable: bool | None = None, **asked: Any) -> TaskGroup:
    """A task group of `plan`, `run` and `verify` for one job; `asked` goes to each of them, see _Call."""
    with TaskGroup(group_id) as group:
        plan = BatchInferPlanOperator(task_id="plan", **asked)
        run = BatchInferOperator(task_id="run", deferrable=deferrable, **asked)
        plan >> run >> BatchInferVerifyOperator(task_id="verify", deep=deep, **asked)
    return group

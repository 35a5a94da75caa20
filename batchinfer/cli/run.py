"""`batchinfer run` and `batchinfer retry`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.follow import Telling, follow
from batchinfer.cli.options import (
    JOB_FILES,
    IfLocked,
    JobFile,
    Json,
    Lines,
    Locked,
    LogFormat,
    Logging,
    LogLevel,
    MetricsFile,
    Output,
    Params,
    Progress,
    ProgressMode,
    ResultFile,
    Sets,
    SingleWriter,
)
from batchinfer.cli.ranges import days_of, run_each

if TYPE_CHECKING:
    from batchinfer.job.spec import JobSpec
    from batchinfer.run.events import Listener
    from batchinfer.run.stop import StopRequest

    Begun = tuple[JobSpec, Callable[[Listener, StopRequest], object]]


@guarded
def run(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove the former output and begin anew.")] = False,
    single_writer: SingleWriter = False,
    if_locked: Locked = IfLocked.FAIL,
    as_json: Json = False,
    result_file: ResultFile = None,
    metrics_file: MetricsFile = None,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
    log_format: Lines = LogFormat.TEXT,  # noqa: ARG001 - see `guarded`
) -> int:
    """Run a job, or go on with it: the same command resumes. --param day=2026-11-01..2026-11-07 runs it for each day."""
    from batchinfer.api import Job

    def begin(given: dict[str, str]) -> Begun:
        asked = Job.from_yaml(job, given, [*(set_ or ()), *_of_flags(single_writer)])
        return asked.spec, lambda listener, stop: asked.run(restart=restart, listener=listener, stop=stop)

    telling = Telling(as_json, result_file, metrics_file, progress, log_level)
    telling.check()
    given = assignments(param)
    if (days := days_of(given)) is not None:
        name = next(name for name in given if days[0][name] != given[name])
        return run_each(begin, days, name, telling, if_locked)
    return follow(lambda: begin(given), "was complete already", telling, if_locked)


@guarded
def retry(
    output: Output,
    param: Params = None,
    set_: Sets = None,
    error: Annotated[
        list[str] | None,
        typer.Option(
            "--error", metavar="NAME", help="Only rows with this error class or type; repeatable.", show_default=False
        ),
    ] = None,
    retryable: Annotated[bool, typer.Option("--retryable", help="Only rows whose error may pass by itself.")] = False,
    single_writer: SingleWriter = False,
    if_locked: Locked = IfLocked.FAIL,
    as_json: Json = False,
    result_file: ResultFile = None,
    metrics_file: MetricsFile = None,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
    log_format: Lines = LogFormat.TEXT,  # noqa: ARG001 - see `guarded`
) -> int:
    """Attempt dead rows again, after model, code or input were mended."""
    from batchinfer.api import Job, open_run
    from batchinfer.job.load import load

    def begin() -> Begun:
        given, values = assignments(param), [*(set_ or ()), *_of_flags(single_writer)]
        of_file = output.endswith(JOB_FILES)
        spec = load(output, given, values) if of_file else open_run(output).recorded_job(given, values)
        path, storage = (spec.output.path, spec.storage) if of_file else (output, {})
        asked = Job.from_spec(spec)
        # Opened by the work: what the store says is told without the job's secrets from there on.
        return spec, lambda listener, stop: open_run(path, storage).retry(
            errors=error or (), retryable=retryable, job=asked, listener=listener, stop=stop
        )

    nothing = "no dead row is like that" if error or retryable else "no row is dead"
    telling = Telling(as_json, result_file, metrics_file, progress, log_level)
    return follow(begin, nothing, telling, if_locked)


def _of_flags(single_writer: bool) -> list[str]:
    return ["run.single_writer=true"] if single_writer else []

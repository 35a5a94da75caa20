"""`batchinfer run` and `batchinfer retry`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.follow import Telling, follow
from batchinfer.cli.options import (
    JOB_FILES,
    RUN,
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
    Restart,
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
    restart: Restart = False,
    single_writer: SingleWriter = False,
    if_locked: Locked = IfLocked.FAIL,
    as_json: Json = False,
    result_file: ResultFile = None,
    metrics_file: MetricsFile = None,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
    log_format: Lines = LogFormat.TEXT,  # noqa: ARG001 - see `guarded`
) -> int:
    """Run a job, or go on with it: the same command resumes.

    Finished shards are not run again, whatever stopped the run before.

    Examples:
        batchinfer run job.yaml
        batchinfer run job.yaml --param day=2026-11-22 --set errors.threshold=1%
        batchinfer run job.yaml --param day=2026-11-01..2026-11-07  # each day
        batchinfer run job.yaml --json --progress none --if-locked skip

    Exit codes:
        0: every row is accounted for, with no more dead rows than errors.threshold allows
        2: refused: the job file, the input, the model or the output; running it again gives the same
        3: too many dead rows, or every row failed alike; mend the cause, then batchinfer retry
        75: interrupted, or another runner is at work; the same command resumes
        99: another runner is at work, with --if-locked skip
        130: Ctrl-C; what is finished is kept
    """
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
            "--error",
            metavar="NAME",
            help="Only rows with this error class or type; repeatable.",
            show_default=False,
            rich_help_panel=RUN,
        ),
    ] = None,
    retryable: Annotated[
        bool, typer.Option("--retryable", help="Only rows whose error may pass by itself.", rich_help_panel=RUN)
    ] = False,
    single_writer: SingleWriter = False,
    if_locked: Locked = IfLocked.FAIL,
    as_json: Json = False,
    result_file: ResultFile = None,
    metrics_file: MetricsFile = None,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
    log_format: Lines = LogFormat.TEXT,  # noqa: ARG001 - see `guarded`
) -> int:
    """Attempt dead rows again, after model, code or input were mended.

    All other rows keep the predictions that they have.

    Examples:
        batchinfer retry job.yaml
        batchinfer retry out/predictions --error ValueError
        batchinfer retry job.yaml --retryable --set retry.timeout=60s

    Exit codes:
        0: every row is accounted for, with no more dead rows than errors.threshold allows
        3: too many rows are dead still
    """
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

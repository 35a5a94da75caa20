"""`batchinfer run` and `batchinfer retry`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.logs import kept
from batchinfer.cli.options import JOB_FILES, JobFile, Json, Output, Params, Sets
from batchinfer.cli.streams import show, show_json, stdout_kept_clean, tell

if TYPE_CHECKING:
    from batchinfer.cli.progress import Display, Tally
    from batchinfer.job.spec import JobSpec
    from batchinfer.run.events import Listener
    from batchinfer.run.stop import StopRequest

    Begun = tuple[JobSpec, Callable[[Listener, StopRequest], object]]


class ProgressMode(StrEnum):
    """How a run is shown on stderr."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    NONE = "none"


class LogLevel(StrEnum):
    """What libraries log on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Progress = Annotated[ProgressMode, typer.Option(help="auto: a bar on a terminal, else plain lines.")]
SingleWriter = Annotated[
    bool,
    typer.Option(
        "--single-writer",
        help="Run on a store without conditional creates: you see to it that no second run writes there.",
    ),
]
Logging = Annotated[LogLevel, typer.Option(help="Of libraries, on stderr.")]


@guarded
def run(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove the former output and begin anew.")] = False,
    single_writer: SingleWriter = False,
    as_json: Json = False,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
) -> int:
    """Run a job, or go on with it: the same command resumes."""
    from batchinfer.api import Job

    def begin() -> Begun:
        asked = Job.from_yaml(job, assignments(param), [*(set_ or ()), *_of_flags(single_writer)])
        return asked.spec, lambda listener, stop: asked.run(restart=restart, listener=listener, stop=stop)

    return follow(begin, "was complete already", as_json=as_json, progress=progress, log_level=log_level)


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
    as_json: Json = False,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
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
    return follow(begin, nothing, as_json=as_json, progress=progress, log_level=log_level)


def _of_flags(single_writer: bool) -> list[str]:
    return ["run.single_writer=true"] if single_writer else []


def follow(
    begin: Callable[[], Begun], nothing: str, *, as_json: bool, progress: ProgressMode, log_level: LogLevel
) -> int:
    """Show a run from its beginning to its summary, and give its exit code.

    Args:
        begin: reads what is asked for, and says how to run it.
        nothing: why there may be nothing to do, in words.
        as_json: print the result as JSON.
        progress: how the run is shown.
        log_level: of libraries.

    """
    from batchinfer.cli.progress import Tally
    from batchinfer.cli.signals import Signals
    from batchinfer.cli.summary import summary
    from batchinfer.cli.watchdog import Watchdog
    from batchinfer.job.secrets import Secrets
    from batchinfer.run.events import Event

    tally = Tally()
    with Signals() as signals, Watchdog() as watchdog, stdout_kept_clean():
        with kept(Secrets.of_environment(os.environ), log_level):
            spec, work = begin()
        with kept(spec.secrets, log_level), display(progress, tally, signals.stop) as shown:

            def listen(event: Event) -> None:
                for listener in (signals.watch, watchdog, tally, shown):
                    listener(event)

            work(listen, signals.stop)
    result = tally.result
    assert result is not None
    for error in result.errors:
        tell(f"error: {error}")
    if as_json:
        show_json(result.to_json())
    else:
        show(summary(spec.name, tally, spec.errors.threshold, nothing))
    return result.exit_code


def display(mode: ProgressMode, tally: Tally, stop: StopRequest) -> Display:
    """What shows a run on stderr."""
    from batchinfer.cli.progress import PlainDisplay

    if mode is ProgressMode.AUTO:
        mode = ProgressMode.BAR if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else ProgressMode.PLAIN
    if mode is not ProgressMode.BAR:
        return PlainDisplay(tally, stop, lines=mode is ProgressMode.PLAIN)
    from batchinfer.cli.live import LiveDisplay

    return LiveDisplay(tally, stop)

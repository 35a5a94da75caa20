"""`batchinfer run`."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.options import JobFile, Json, Params, Sets
from batchinfer.cli.streams import show, show_json, stdout_kept_clean, tell

if TYPE_CHECKING:
    from batchinfer.cli.progress import Display, Tally
    from batchinfer.run.stop import StopRequest


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


@guarded
def run(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove the former output and begin anew.")] = False,
    single_writer: Annotated[
        bool,
        typer.Option(
            "--single-writer",
            help="Run on a store without conditional creates: you see to it that no second run writes there.",
        ),
    ] = False,
    as_json: Json = False,
    progress: Annotated[
        ProgressMode, typer.Option(help="auto: a bar on a terminal, else plain lines.")
    ] = ProgressMode.AUTO,
    log_level: Annotated[LogLevel, typer.Option(help="Of libraries, on stderr.")] = LogLevel.WARNING,
) -> int:
    """Run a job, or go on with it: the same command resumes."""
    from batchinfer.api import Job
    from batchinfer.cli.progress import Tally
    from batchinfer.cli.signals import Signals
    from batchinfer.cli.summary import summary
    from batchinfer.run.events import Event

    logging.basicConfig(
        level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s", handlers=[_StderrHandler()]
    )
    tally = Tally()
    with Signals() as signals, stdout_kept_clean():
        values = [*(set_ or ()), *(["run.single_writer=true"] if single_writer else ())]
        asked = Job.from_yaml(job, assignments(param), values)
        with _display(progress, tally, signals.stop) as display:

            def listen(event: Event) -> None:
                for listener in (signals.watch, tally, display):
                    listener(event)

            asked.run(restart=restart, listener=listen, stop=signals.stop)
    result = tally.result
    assert result is not None
    for error in result.errors:
        tell(f"error: {error}")
    if as_json:
        show_json(result.to_json())
    else:
        show(summary(asked.spec.name, tally, asked.spec.errors.threshold))
    return result.exit_code


def _display(mode: ProgressMode, tally: Tally, stop: StopRequest) -> Display:
    from batchinfer.cli.progress import PlainDisplay

    if mode is ProgressMode.AUTO:
        mode = ProgressMode.BAR if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else ProgressMode.PLAIN
    if mode is not ProgressMode.BAR:
        return PlainDisplay(tally, stop, lines=mode is ProgressMode.PLAIN)
    from batchinfer.cli.live import LiveDisplay

    return LiveDisplay(tally, stop)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at that moment: the live display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

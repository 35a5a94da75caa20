"""A run from its beginning to its summary, as the terminal and other programs are told of it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.cli.logs import kept
from batchinfer.cli.options import IfLocked, LogLevel, ProgressMode
from batchinfer.cli.outcome import check_place, deliver
from batchinfer.cli.streams import are_json, show, stdout_kept_clean, tell
from batchinfer.errors import LockedError, SkippedError

if TYPE_CHECKING:
    from batchinfer.job.spec import JobSpec
    from batchinfer.report.lines import Display
    from batchinfer.report.tally import Tally
    from batchinfer.run.events import Listener, RunResult
    from batchinfer.run.stop import StopRequest

    Begun = tuple[JobSpec, Callable[[Listener, StopRequest], object]]

_WAIT_SECONDS = 5.0
"""Between looks whether another runner has ended."""


@dataclass(frozen=True)
class Telling:
    """Where and how a run is told of."""

    as_json: bool
    """Print the result as JSON."""
    result_file: str | None
    metrics_file: str | None
    progress: ProgressMode
    log_level: LogLevel
    """Of libraries."""

    def check(self) -> None:
        """Refuse files that can't be written, before anything is run. Raises RefusedError."""
        check_place(self.result_file, "--result-file")
        check_place(self.metrics_file, "--metrics-file")


def follow(begin: Callable[[], Begun], nothing: str, telling: Telling, if_locked: IfLocked) -> int:
    """Show a run from its beginning to its summary, and give its exit code.

    Args:
        begin: reads what is asked for, and says how to run it.
        nothing: why there may be nothing to do, in words.
        telling: where and how.
        if_locked: what to do while another runner works on the output.

    Raises SkippedError as `if_locked` has it.

    """
    from batchinfer.cli.summary import summary

    telling.check()
    (spec, tally), result = followed(begin, telling, if_locked)
    if not telling.as_json:
        show(summary(spec.name, tally, spec.errors.threshold, nothing, page=spec.report.html))
    deliver(result.to_json(), as_json=telling.as_json, result_file=telling.result_file)
    return result.exit_code


def followed(
    begin: Callable[[], Begun], telling: Telling, if_locked: IfLocked
) -> tuple[tuple[JobSpec, Tally], RunResult]:
    """Show a run up to its end and the errors that it ends with; the job, its figures and what it came to. See `follow`."""
    from batchinfer.cli.signals import Signals
    from batchinfer.cli.watchdog import Watchdog
    from batchinfer.job.secrets import Secrets
    from batchinfer.report.tally import Tally
    from batchinfer.run.events import Event

    tally = Tally()
    with Signals() as signals, Watchdog() as watchdog, stdout_kept_clean():
        with kept(Secrets.of_environment(os.environ), telling.log_level):
            spec, work = begin()
        with (
            kept(spec.secrets, telling.log_level),
            display(telling.progress, tally, signals.stop) as shown,
            measured(telling.metrics_file, spec.name) as metrics,
        ):
            listeners: list[Listener] = [signals.watch, watchdog, tally, shown, *metrics]

            def listen(event: Event) -> None:
                for listener in listeners:
                    listener(event)

            unlocked(lambda: work(listen, signals.stop), if_locked)
    result = tally.result
    assert result is not None
    for error in result.errors:
        tell(f"error: {error}")
    return (spec, tally), result


def unlocked(work: Callable[[], object], if_locked: IfLocked) -> None:
    """Do the work once no other runner works on the output, or as is asked. Raises SkippedError."""
    said = False
    while True:
        try:
            work()
        except LockedError as error:
            if if_locked is IfLocked.SKIP:
                raise SkippedError(f"{error} (--if-locked skip)") from error
            if if_locked is IfLocked.FAIL:
                raise
            if not said:
                tell(f"batchinfer: {error}; waiting until it has ended")
            said = True
            time.sleep(_WAIT_SECONDS)
        else:
            return


@contextlib.contextmanager
def measured(path: str | None, name: str) -> Iterator[list[Listener]]:
    """Listeners that keep the metrics file of a job, where one is asked for, also where an exception ends the run."""
    if path is None:
        yield []
        return
    from batchinfer.report.metrics import MetricsFile as File

    metrics = File(path, name)
    try:
        yield [metrics]
    except BaseException as error:
        metrics.failed(error)
        raise


def display(mode: ProgressMode, tally: Tally, stop: StopRequest) -> Display:
    """What shows a run on stderr."""
    from batchinfer.report.lines import Lines

    if mode is ProgressMode.AUTO:
        for_people = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not are_json()
        mode = ProgressMode.BAR if for_people else ProgressMode.PLAIN
    if mode is not ProgressMode.BAR:
        return Lines(tally, stop, lambda text: tell(f"batchinfer: {text}"), failures_alone=mode is ProgressMode.NONE)
    from batchinfer.cli.live import LiveDisplay

    return LiveDisplay(tally, stop)

"""Running in this thread, or in one of its own, with a display: one run of an output at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from batchinfer.api.notebook import Widget
from batchinfer.api.progress import Display, Progress, display
from batchinfer.api.words import outcome
from batchinfer.errors import LockedError
from batchinfer.plan.table import ShowsTable, Table
from batchinfer.report.figures import duration, rate
from batchinfer.report.results import ended_by
from batchinfer.report.tally import Tally
from batchinfer.report.words import ENDED, stopping
from batchinfer.run.events import Event, Listener, State
from batchinfer.run.stop import StopRequest

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from batchinfer.api.run import Run


Work = Callable[[Listener, StopRequest], "Run"]
"""Runs a job, telling a listener of it, until its end or until it is asked to stop."""


@dataclass(frozen=True, repr=False)
class Status:
    """How far a run is."""

    state: State
    rows: int
    """Of the job, done by this run and those before."""
    planned: int
    """0 before the job is planned."""
    dead: int
    """Found by this run so far; once it has ended, of the job."""
    rows_per_second: float
    """Of late."""
    eta: float | None
    """Seconds to go; None where that can't be told."""
    seconds: float
    """Since the run was begun; once it has ended, how long it took."""
    error: str | None
    """What ended it, where an exception did."""

    def __repr__(self) -> str:
        words = [f"{self.rows:,} of {self.planned:,} rows, {self.dead:,} dead" if self.planned else "not planned yet"]
        words += [rate(self.rows_per_second)] if self.rows_per_second else []
        words += [f"ETA {duration(self.eta, whole_seconds=True)}"] if self.eta is not None else []
        words += [
            f"{duration(self.seconds)} so far" if self.state is State.RUNNING else f"took {duration(self.seconds)}"
        ]
        return f"Status({self.state}: {', '.join([*words, *([self.error] if self.error else [])])})"


@dataclass(frozen=True)
class Asked:
    """What is to be run, and how it is followed."""

    name: str
    """Of the job."""
    output: str
    """Its path."""
    work: Work
    progress: Progress = "auto"
    listener: Listener | None = None
    stop: StopRequest | None = None

    def run(self) -> Run:
        """Run it here. Raises LockedError while this process runs it in the background, else what the work raises."""
        _refuse_second(self.output)
        tally, stop = Tally(), StopRequest() if self.stop is None else self.stop
        with display(self.progress, self.name, tally, stop) as shown:
            return self.work(_telling(tally, shown, self.listener), stop)

    def begin(self) -> BackgroundRun:
        """Run it in a thread of its own. Raises LockedError as `run` does."""
        _refuse_second(self.output)
        return BackgroundRun(self)


def _telling(tally: Tally, shown: Display, listener: Listener | None) -> Listener:
    def told(event: Event) -> None:
        tally(event)
        shown(event)
        if listener is not None:
            listener(event)

    return told


class _Thread(threading.Thread):
    """A background run; the threads of a process tell which outputs it runs."""

    def __init__(self, output: str, work: Callable[[], None], future: Future[Run]) -> None:
        super().__init__(target=work, name=f"batchinfer-run {output}")
        self.output, self.future = output, future


def _before_exit(thread: _Thread, stop: StopRequest) -> None:
    """Have a program that ends wait for the run while thread pools can be used still, which it needs until its end.

    When the interpreter joins threads by itself, and when `atexit` calls, pools take no more work. The hook is the one by which they are
    told; where there is none, a run that nobody waits for ends with an error, and the next one goes on from there.
    """
    kept = weakref.ref(thread)

    def wait() -> None:
        running = kept()
        try:
            if running is not None:
                concurrent.futures.wait([running.future])  # not join: an interrupted one takes the thread for ended
        except KeyboardInterrupt:
            stop.ask("interrupted", cancelled=True)
            wait()

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # the program ends already
            register(wait)


def _refuse_second(output: str) -> None:
    """A runner in another process is found by the ledger at once; one in this process only by its heartbeat, after seconds."""
    runs = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    if any(thread.output == output and not thread.future.done() for thread in runs):
        raise LockedError(
            f"{output}: a background run of this process is at work here; wait() for it, or cancel() it, then run again"
        )


class BackgroundRun(ShowsTable):
    """A run that goes on while the notebook or program does something else. Made by `Job.run(background=True)`.

    A program that ends waits for it; Ctrl-C then cancels it.
    """

    def __init__(self, asked: Asked) -> None:
        self.name, self.output = asked.name, asked.output
        self._tally, self._stop = Tally(), StopRequest() if asked.stop is None else asked.stop
        self._display = display(asked.progress, asked.name, self._tally, self._stop)
        self._future: Future[Run] = Future()
        self._asked = asked
        self._took: float | None = None
        self._display.__enter__()  # here, so that it is shown in the cell that began it
        context = contextvars.copy_context()  # by which a kernel knows that cell
        thread = _Thread(asked.output, lambda: context.run(self._go), self._future)
        thread.start()
        _before_exit(thread, self._stop)

    def _go(self) -> None:
        told = _telling(self._tally, self._display, self._asked.listener)
        try:
            with contextlib.ExitStack() as stack:
                stack.push(self._display)
                stack.callback(self._note_end)
                run = self._asked.work(told, self._stop)
        except BaseException as e:  # noqa: BLE001 - raised again by `wait`
            if not isinstance(self._display, Widget):  # perhaps nobody waits
                log.warning("%s: the background run of %s ended: %s: %s", self.output, self.name, type(e).__name__, e)
            self._future.set_exception(e)
        else:
            self._future.set_result(run)

    def _note_end(self) -> None:
        self._took = self._tally.seconds

    @overload
    def wait(self) -> Run: ...
    @overload
    def wait(self, timeout: float | None) -> Run | None: ...
    def wait(self, timeout: float | None = None) -> Run | None:
        """The run once it has ended; None where it goes on after `timeout` seconds.

        An interrupt (Ctrl-C, the notebook's stop button) ends the waiting and not the run: see `cancel`. Raises what ended the run, where
        an exception did.
        """
        concurrent.futures.wait([self._future], timeout)
        if not self._future.done():
            return None
        self._display.refresh()  # a front end that follows one cell at a time has seen the beginning alone
        return self._future.result()

    def cancel(self) -> bool:
        """Ask it to finish the batches in hand, save them and end (exit code 130); False where it has ended. Running again goes on."""
        if self._future.done():
            return False
        self._stop.ask("cancelled", cancelled=True)
        return True

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    @property
    def result(self) -> Run | None:
        """The run once it has ended; None while it goes on. Raises what ended it, where an exception did."""
        return self._future.result() if self._future.done() else None

    def status(self) -> Status:
        """How far it is, without looking at the output."""
        tally, ended = self._tally, self.done
        state, error, dead = State.RUNNING, None, tally.dead
        failure = self._future.exception() if ended else None
        if failure is not None:
            state, error = ended_by(failure)[0], str(failure) or type(failure).__name__
        elif ended and tally.result is not None:
            state, dead = tally.result.state, tally.result.rows.dead
        pace = 0.0 if ended else tally.pace
        seconds = tally.seconds if self._took is None else self._took
        return Status(state, tally.rows, tally.planned, dead, pace, tally.eta if pace else None, seconds, error)

    def table(self) -> Table:
        """See ShowsTable."""
        result, status = self._tally.result, self.status()
        if self.done and status.error is None and result is not None:
            return outcome(self.name, result.to_json(), result.rows, result.output)
        took = f"{'after' if self.done else 'for'} {duration(status.seconds)}"
        rows = [("rows", self._rows()), ("output", self.output)]
        rows += [("error", status.error)] if status.error is not None else []
        rows += [("stopping", stopping(self._stop))] if self._stop and not self.done else []
        return Table(self.name, f"{ENDED[status.state]} {took}", tuple(rows))

    def _line(self) -> str:
        return f"BackgroundRun({self.name!r}: {self.status().state}, {self._rows()}, {self.output})"

    def _rows(self) -> str:
        result = self._tally.result
        if self.done and result is not None:
            return f"{result.rows.succeeded} of {result.rows.planned} rows, {result.rows.dead} dead"
        return self._tally.line if self._tally.started else "not planned yet"

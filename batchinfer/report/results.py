"""`run_results.json`: what a run did, on the store beside its state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from batchinfer.errors import BatchinferError
from batchinfer.ledger import epochs, records
from batchinfer.ledger.parts import Counts
from batchinfer.run.events import Broken, Event, Finished, Listener, Started, State, rows_to_json
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


def recorded(store: Store, work: Callable[[Listener], object], listener: Listener | None = None) -> None:
    """Do the work of a runner, with `run_results.json` kept beside it and `listener` told of the same events."""
    results = ResultsFile(store)

    def told(event: Event) -> None:
        results(event)
        if listener is not None:
            listener(event)

    try:
        work(told)
    except BaseException as e:
        results.failed(e)
        raise


class ResultsFile:
    """A listener that keeps `run_results.json` true while the run goes on and after it ends."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._started: Started | None = None
        self._rows = Counts()

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Started):
            self._started, self._rows = event, event.rows
            self._put(event.job, self._unfinished(event, State.RUNNING, None, []))
        elif isinstance(event, Broken):
            self._rows = event.rows
        elif isinstance(event, Finished):
            standing = None if self._started else records.find(self._store, event.result.job.run_results)
            # A run without work keeps the file of the one that did it.
            if standing is None or standing.get("exit_code") != event.result.exit_code:
                self._put(event.result.job, event.result.to_json())

    def failed(self, error: BaseException) -> None:
        """Record that an exception ended the run."""
        if self._started is not None:
            code = error.exit_code if isinstance(error, BatchinferError) else 1
            if isinstance(error, KeyboardInterrupt):
                code = 130
            state = State.INTERRUPTED if code == 75 else State.CANCELLED if code == 130 else State.FAILED
            with contextlib.suppress(BatchinferError):  # the store may be what failed
                self._put(self._started.job, self._unfinished(self._started, state, code, [str(error)]))

    def _put(self, job: JobPaths, value: dict[str, Any]) -> None:
        """Store it, unless a later runner has taken over: the file is its own then."""
        if self._started is None or epochs.latest(self._store, job) == self._started.epoch:
            self._store.put(job.run_results, records.to_bytes(value))

    def _unfinished(self, event: Started, state: State, exit_code: int | None, errors: list[str]) -> dict[str, Any]:
        return {
            "state": str(state),
            "exit_code": exit_code,
            "rows": rows_to_json(self._rows),
            "job": event.job.job8,
            "executor": event.executor,
            "errors": errors,
        }

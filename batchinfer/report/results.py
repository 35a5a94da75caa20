"""`run_results.json`: what a run did, on the store beside its state."""

from __future__ import annotations

import contextlib
from typing import Any

from batchinfer.errors import BatchinferError, OutputError
from batchinfer.ledger import records
from batchinfer.run.events import Event, Finished, Started, State
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


class ResultsFile:
    """A listener that keeps `run_results.json` true while the run goes on and after it ends."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._started: Started | None = None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Started):
            self._started = event
            self._put(event.job, _unfinished(event, State.RUNNING, None, []))
        elif isinstance(event, Finished):
            # A run without work keeps the file of the one that did it.
            standing = None if self._started else self._standing(event.result.job)
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
                self._put(self._started.job, _unfinished(self._started, state, code, [str(error)]))

    def _standing(self, job: JobPaths) -> dict[str, Any] | None:
        try:
            return records.find(self._store, job.run_results)
        except OutputError:  # damaged, and about to be written anew
            return None

    def _put(self, job: JobPaths, value: dict[str, Any]) -> None:
        self._store.put(job.run_results, records.to_bytes(value))


def _unfinished(event: Started, state: State, exit_code: int | None, errors: list[str]) -> dict[str, Any]:
    planned = event.plan.rows
    rows = {"planned": planned, "succeeded": 0, "dead": 0, "filtered": 0, "not_attempted": planned}
    return {
        "state": str(state),
        "exit_code": exit_code,
        "rows": rows,
        "job": event.job.job8,
        "executor": event.executor,
        "errors": errors,
    }

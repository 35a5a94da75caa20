"""`run_results.json`: what a run did, on the store beside its state."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Protocol

from batchinfer.errors import BatchinferError, OutputError
from batchinfer.job.secrets import Secrets
from batchinfer.ledger import epochs, records
from batchinfer.ledger.parts import Counts
from batchinfer.ledger.spending import Spent
from batchinfer.plan import describe
from batchinfer.plan.fingerprint import model_digest
from batchinfer.report.watch import Watch
from batchinfer.run.events import Broken, Event, Finished, Listener, Started, State, rows_to_json
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

_PACKAGES = ("batchinfer", "torch", "ray", "pyarrow")


class Further(Protocol):
    """What more there is to record of a run; must not raise."""

    def begun(self, started: Started) -> Mapping[str, Any]:
        """The facts that are known before anything of a run is recorded. Not called where there is nothing to do."""

    def ended(self, started: Started, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those that are known once it has ended as the record says; who waits for the run waits for them, too."""


def recorded(
    store: Store,
    work: Callable[[Listener], object],
    listener: Listener | None = None,
    further: Further | None = None,
) -> None:
    """Do the work of a runner, with `run_results.json` kept beside it and `listener` told of the same events.

    Args:
        store: the output.
        work: what tells a listener of its events.
        listener: told of them, too.
        further: what more there is to record.

    """
    results = ResultsFile(store, further)

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

    def __init__(self, store: Store, further: Further | None = None) -> None:
        self._store, self._further = store, further
        self._started: Started | None = None
        self._known: Mapping[str, Any] = {}
        """Of what more there is to record, what was known when the run began."""
        self._rows = Counts()
        self._spent: Spent | None = None
        self._watch = Watch()
        self._since = _now()

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        self._watch(event)
        if isinstance(event, Started):
            self._known = {} if self._further is None else self._further.begun(event)
            self._started, self._rows = event, event.rows
            self._put(event.job, self._unfinished(event, State.RUNNING, None, []))
        elif isinstance(event, Broken):
            self._rows, self._spent = event.rows, event.spent
        elif isinstance(event, Finished):
            # A run without work keeps the file of the one that did it.
            standing = None if self._started else self._standing(event.result.job)
            if standing is None or standing.get("exit_code") != event.result.exit_code:
                self._put(event.result.job, {**event.result.to_json(), **self._facts(ended=True)})

    def failed(self, error: BaseException) -> None:
        """Record that an exception ended the run."""
        if self._started is not None:
            state, code = ended_by(error)
            with contextlib.suppress(BatchinferError):  # the store may be what failed
                self._put(self._started.job, self._unfinished(self._started, state, code, [str(error)]))

    def _standing(self, job: JobPaths) -> dict[str, Any] | None:
        try:
            return records.find(self._store, job.run_results)
        except OutputError:  # damaged, and about to be written anew
            return None

    def _put(self, job: JobPaths, value: dict[str, Any]) -> None:
        """Store it, unless a later runner has taken over: the file is its own then."""
        started = self._started
        if started is not None and epochs.latest(self._store, job) != started.epoch:
            return
        if started is not None and self._further is not None and value["exit_code"] is not None:
            value = {**value, **self._further.ended(started, value)}
        self._store.put(job.run_results, records.to_bytes(value))

    def _unfinished(self, event: Started, state: State, exit_code: int | None, errors: list[str]) -> dict[str, Any]:
        return {
            "state": str(state),
            "exit_code": exit_code,
            "rows": rows_to_json(self._rows),
            "job": event.job.job8,
            "output": self._store.root,
            "executor": event.executor,
            **({} if self._spent is None else self._spent.to_json()),
            "errors": errors,
            **self._facts(ended=exit_code is not None),
        }

    def _facts(self, *, ended: bool) -> dict[str, Any]:
        """What ran, when and on what, and its course so far; nothing of a run without work."""
        if self._started is None:
            return {}
        plan, course = self._started.plan, self._watch.to_json()
        return {
            "name": plan.spec.name,
            "epoch": self._started.epoch,
            "began": self._since,
            "ended": _now() if ended else "",
            "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in _PACKAGES if _has(p)}},
            "plan": _without_secrets(describe.to_json(plan), plan.spec.secrets),
            "models": {step.name: model_digest(plan.fingerprint, step.name) for step in plan.spec.models},
            **course,
            **self._known,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _has(package: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def _without_secrets(value: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
    """The same with every secret in its texts taken out."""

    def hidden(inner: Any) -> Any:
        if isinstance(inner, str):
            return secrets.hide(inner)
        if isinstance(inner, list):
            return [hidden(item) for item in inner]
        return {key: hidden(item) for key, item in inner.items()} if isinstance(inner, dict) else inner

    return {key: hidden(item) for key, item in json.loads(json.dumps(value, default=str)).items()}


def ended_by(error: BaseException) -> tuple[State, int]:
    """State and exit code of a run that an exception ended."""
    code = error.exit_code if isinstance(error, BatchinferError) else 1
    if isinstance(error, KeyboardInterrupt):
        code = 130
    return State.INTERRUPTED if code == 75 else State.CANCELLED if code == 130 else State.FAILED, code

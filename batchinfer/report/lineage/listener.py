"""A listener that tells OpenLineage of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import RunState
from openlineage.client.uuid import generate_new_uuid, generate_static_uuid

from batchinfer.errors import BatchinferError, LockedError
from batchinfer.job.report import OpenLineage
from batchinfer.job.secrets import Secrets
from batchinfer.job.spec import JobSpec
from batchinfer.ledger import epochs, manifests, records
from batchinfer.ledger.parts import Counts
from batchinfer.ledger.spending import Spent
from batchinfer.measure.settings import Settings
from batchinfer.report.lineage.events import Standing, event, facts, identity
from batchinfer.report.outbox import Outbox
from batchinfer.report.results import ended_by
from batchinfer.run.events import Broken, Event, Finished, RunResult, Settled, Started, State
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

_ENDS = {0: RunState.COMPLETE, 75: RunState.ABORT, 130: RunState.ABORT}
"""By exit code; all others are FAIL."""


class Lineage:
    """Events of one run, made and sent in another thread. Each of its runners is a run of OpenLineage's, also one that resumes.

    Args:
        spec: the job.
        store: its output.
        client: that sends events.
        asked: how the job is named, and how long the end waits.
        secrets: which no message may repeat.
        environ: in which a scheduler may name the job's namespace, and the run that this one is a part of.
        clock: the time, with its zone.

    """

    def __init__(
        self,
        spec: JobSpec,
        store: Store,
        client: OpenLineageClient,
        asked: OpenLineage,
        secrets: Secrets,
        environ: Mapping[str, str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._spec, self._store, self._client = spec, store, client
        self._who, self._timeout, self._clock = identity(spec, asked, environ), asked.timeout, clock
        self._began = clock()
        self._outbox = Outbox("openlineage", secrets)
        self._run_id: UUID | None = None
        self._started: Started | None = None
        self._settings: Settings | None = None
        self._rows: Counts | None = None
        self._spent: Spent | None = None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Started):
            first, self._started = self._started is None, event
            if first:  # an extension may follow on another generation that is brought to its end
                self._outbox.put(lambda: self._begin(event))
                self._outbox.put(lambda: self._abort_killed(event))
        elif isinstance(event, Settled):
            self._settings = event.settings
        elif isinstance(event, Broken):
            self._rows, self._spent = event.rows, event.spent
        elif isinstance(event, Finished):
            self._end(event.result.exit_code, event.result.errors, event.result)

    def failed(self, error: BaseException) -> None:
        """An exception ended the run. Of one that never began, since another goes on, nothing is told."""
        if self._started is not None or not isinstance(error, LockedError):
            self._end(ended_by(error)[1], (str(error) or type(error).__name__,))

    def close(self) -> None:
        """Wait until all has arrived, within bounds."""
        self._outbox.close(self._timeout)

    def _end(self, code: int, errors: tuple[str, ...], result: RunResult | None = None) -> None:
        at, started = self._clock(), self._started
        if started is None:
            self._outbox.put(lambda: self._begin(None))
        self._outbox.put(lambda: self._finish(code, errors, result, at))

    def _begin(self, started: Started | None) -> None:
        if started is None:
            self._run_id = generate_new_uuid(self._began)
            self._emit(RunState.START, self._began, self._run_id, Standing(self._spec))
            return
        self._run_id = self._id_of(started.job, started.epoch) or generate_new_uuid(self._began)
        said = facts(None, **_of(started))
        self._emit(RunState.START, self._began, self._run_id, Standing(self._spec, started.plan, facts=said))

    def _finish(self, code: int, errors: tuple[str, ...], result: RunResult | None, at: datetime) -> None:
        assert self._run_id is not None
        started = self._started
        rows = result.rows if result is not None else self._rows
        spent = result.spent if result is not None and started is not None else self._spent
        settings = result.settings if result is not None and result.settings is not None else self._settings
        job = result.job if result is not None else None
        manifest = manifests.latest(self._store, job) if job is not None and _is_whole(result) else None
        said = facts(
            rows,
            **(_of(started) if started is not None else {"job": job.job8} if job is not None else {}),
            exit_code=code,
            state=str(result.state) if result is not None else None,
            workers=result.workers if result is not None else None,
            seconds=round(result.seconds, 3) if result is not None else None,
            **(spent.to_json() if spent is not None else {}),
            precision={name: step.precision for name, step in settings.models.items()} if settings else None,
        )
        plan = started.plan if started is not None else None
        known = Standing(self._spec, plan, settings, rows, manifest, () if code == 0 else errors, said)
        self._emit(_ENDS.get(code, RunState.FAIL), at, self._run_id, known)

    def _abort_killed(self, started: Started) -> None:
        """End the run of the runner before this one, where that was killed and nothing did."""
        before = started.epoch - 1
        with contextlib.suppress(BatchinferError):
            trace = epochs.trace(self._store, started.job, before)
            if trace is None or trace.clean or (killed := self._id_of(started.job, before)) is None:
                return
            message = "the run was killed: its runner is gone, and never recorded its end"
            said = {"job": started.job.job8, "epoch": before}
            self._emit(RunState.ABORT, self._began, killed, Standing(self._spec, errors=(message,), facts=said))

    def _id_of(self, job: JobPaths, epoch: int) -> UUID | None:
        """The run of a runner, by what it recorded of itself; None where that can't be read."""
        with contextlib.suppress(BatchinferError, KeyError, ValueError):
            record = records.read(self._store, job.epoch(epoch))
            data = f"{job.job8}/{epoch}/{record['runner']}".encode()
            return generate_static_uuid(datetime.fromisoformat(record["at"]), data)
        return None

    def _emit(self, kind: RunState, at: datetime, run_id: UUID, known: Standing) -> None:
        self._client.emit(event(kind, at, run_id, self._who, known))


def _is_whole(result: RunResult | None) -> bool:
    return result is not None and result.state in (State.SUCCEEDED, State.PARTIAL)


def _of(started: Started) -> dict[str, object]:
    return {
        "job": started.job.job8,
        "epoch": started.epoch,
        "fingerprint": started.plan.fingerprint.digest,
        "executor": started.executor,
        "models": {step.name: f"{step.engine} {step.uri}" for step in started.plan.spec.models},
    }

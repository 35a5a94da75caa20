"""How a job stands, by what its runners have left on the output: its rows, its generations, and who runs it."""

from __future__ import annotations

from typing import Any

from batchinfer.api import history
from batchinfer.api.hiding import HidingStore
from batchinfer.api.history import Summary
from batchinfer.api.waiting import wait
from batchinfer.api.words import outcome
from batchinfer.errors import BatchinferError
from batchinfer.ledger import epochs, jobs, records
from batchinfer.ledger.epochs import Standing
from batchinfer.ledger.parts import Counts
from batchinfer.plan.table import ShowsTable, Table
from batchinfer.run.events import State
from batchinfer.run.policy import verdict
from batchinfer.storage import paths
from batchinfer.storage.store import StorageOptions


class JobState(ShowsTable):
    """How far a job is, and whether it is being run."""

    def __init__(self, store: HidingStore, job: jobs.Job, storage: StorageOptions) -> None:
        self._store, self._job, self._storage = store, job, storage
        self.path = store.root
        self.name = job.name
        self.job8 = job.paths.job8
        """Names the job among those that were ever on this output."""

    @property
    def record(self) -> dict[str, Any]:
        """`run_results.json` as it stands; empty before the first run got that far."""
        return records.find(self._store, self._job.paths.run_results) or {}

    @property
    def state(self) -> State:
        """How far the job is. RUNNING stays where a run was killed: `status` tells whether its runner lives."""
        return State(self.record.get("state", State.RUNNING))

    @property
    def exit_code(self) -> int | None:
        """What the last run ended with; None while one goes on."""
        code: int | None = self.record.get("exit_code")
        return code

    @property
    def counts(self) -> Counts:
        """Rows by what became of them, over all runs of the job."""
        return history.counts(self._store, self._job.paths)

    @property
    def shards(self) -> tuple[int, int]:
        """How many shards are decided, and how many are planned, over all generations."""
        return history.shards(self._store, self._job.paths)

    @property
    def generations(self) -> tuple[Summary, ...]:
        """The first run, its extensions and the retries, in order."""
        return history.summaries(self._store, self._job.paths)

    def runner(self) -> Standing | None:
        """The newest runner of the job and whether it lives, as far as one look tells; None before the first."""
        return epochs.newest(self._store, self._job.paths)

    def cancel(self) -> bool:
        """Ask the job's runner to finish the batches in hand, checkpoint, and end (exit code 130); False where none may be alive.

        It may be on any machine: it looks with each of its heartbeats, every ten seconds. A later run goes on from there.
        """
        runner = self.runner()
        if runner is None or runner.state in ("closed", "dead"):
            return False
        epochs.cancel(self._store, self._job.paths, runner.number)
        return True

    def is_running(self) -> bool:
        """Whether the job's runner lives; where this machine can't tell, its heartbeat is watched for up to thirty seconds."""
        runner = self.runner()
        return runner is not None and epochs.is_alive(self._store, self._job.paths, runner)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code of the run that goes on, once that has ended, or of the last one.

        None where its runner is gone without having ended it (the same command goes on with it), or after `timeout` seconds. Reads the
        output alone.
        """
        return wait(self._store, self._job.paths, self.runner, lambda: self.exit_code, timeout)

    def verdict(self, threshold: int | str) -> int:
        """The exit code that a threshold for dead rows would give."""
        return verdict(self.counts.dead, threshold, self.counts.planned)

    def table(self) -> Table:
        """See ShowsTable."""
        try:
            return outcome(self.name, self.record, self.counts, self.path)
        except BatchinferError as e:  # a damaged or absent output shows itself too
            return Table(self.name, "can't be read", (("error", str(e)),))

    def _line(self) -> str:
        counts = self.counts
        return f"Run({self.name!r}: {self.state}, {counts.succeeded} of {counts.planned} rows, {counts.dead} dead, {self.path}/{paths.DATA})"

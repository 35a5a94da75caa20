"""What stands on an output: the parts whose rows are its results, and the generations that planned them."""

from __future__ import annotations

from dataclasses import dataclass

from batchinfer.ledger import generations, manifests
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.parts import Part, account
from batchinfer.plan.extension import planned_rows
from batchinfer.plan.generation import Generation
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


@dataclass(frozen=True)
class StandingOutput:
    """The output of a job as it stands, ended or not."""

    store: Store
    job: Job
    generations: tuple[Generation, ...]
    parts: tuple[Part, ...]
    """Those that count, by shard: of an extension that has not ended, those from before it."""

    @property
    def key(self) -> str | None:
        """The column that names a row, as the job says."""
        named: str | None = self.job.fingerprint.material["input"].get("key") if self.generations else None
        return named

    @property
    def not_attempted(self) -> int:
        """Planned rows that nothing became of: of a run that has not ended, or stopped early."""
        return account(self.parts, planned_rows(self.generations)).not_attempted

    @property
    def carried(self) -> tuple[str, ...]:
        """Columns of its rows that come from the input."""
        return tuple(self.generations[0].carried) if self.generations else ()


def standing_output(store: Store, job: Job) -> StandingOutput:
    """Read an output's records. While a generation goes on, its parts so far are read too.

    Raises OutputError where a record or such a part is damaged.
    """
    return StandingOutput(store, job, *standing_parts(store, job.paths))


def standing_parts(store: Store, job: JobPaths) -> tuple[tuple[Generation, ...], tuple[Part, ...]]:
    """The generations and parts of `StandingOutput`. Raises what `standing_output` raises."""
    manifest = manifests.latest(store, job)
    known = generations.every(store, job)
    if manifest is not None and known[-1].kind == "extension" and generations.is_open(known[-1], manifest):
        found, known = list(manifest.parts), known[:-1]  # until it ends, what was before counts as a whole
    else:
        found = generations.parts_so_far(store, job, known, manifest)
    return known, tuple(sorted(found, key=lambda p: p.shard))

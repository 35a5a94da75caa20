"""What the records of a job say of its rows and generations: counts, shards, dead letters."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from batchinfer.ledger import dead, generations, manifests, parts
from batchinfer.ledger.parts import Counts, account
from batchinfer.plan.extension import files_of, planned_rows, standing_shards, told
from batchinfer.plan.generation import Kind
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


@dataclass(frozen=True)
class Summary:
    """A generation of a job, for people."""

    kind: Kind
    rows: int
    """That it attempts: in a retry, dead rows of the generations before."""
    changes: str
    """What an extension found changed in the input, in words; empty for others."""
    selection: tuple[str, ...]
    """Which dead rows a retry was asked for; empty for all."""
    ended: bool


def counts(store: Store, job: JobPaths) -> Counts:
    """Rows by what became of them, over all runs of the job."""
    manifest = manifests.latest(store, job)
    if manifest is not None and generations.numbers(store, job)[-1] == manifest.generation:
        return manifest.counts
    known = generations.every(store, job)
    return account(generations.parts_so_far(store, job, known, manifest), planned_rows(known))


def letters(store: Store, job: JobPaths) -> pa.Table:
    """One dead letter for every row that ever died. See dead.letters."""
    known = generations.every(store, job)
    return dead.letters(store, generations.parts_so_far(store, job, known, manifests.latest(store, job)), known)


def shards(store: Store, job: JobPaths) -> tuple[int, int]:
    """How many shards are decided, and how many are planned, over all generations."""
    decided = parts.list_shards(store, job)
    standing = standing_shards(generations.every(store, job))
    return len(decided & standing.keys()), len(standing)


def summaries(store: Store, job: JobPaths) -> tuple[Summary, ...]:
    """The first run, its extensions and the retries, in order."""
    ended = manifests.newest(store, job)
    known = generations.every(store, job)
    return tuple(
        Summary(
            g.kind,
            g.rows,
            told(g, files_of(known[:n])) if g.kind == "extension" else "",
            g.selection,
            g.number <= ended,
        )
        for n, g in enumerate(known)
    )

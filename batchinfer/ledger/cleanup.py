"""What abandoned jobs and dead runners leave on an output, and its removal. Never touches what the current job still reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchinfer.errors import LockedError
from batchinfer.ledger import epochs, jobs, manifests, parts
from batchinfer.ledger.jobs import Job
from batchinfer.storage import paths
from batchinfer.storage.store import Store


@dataclass(frozen=True)
class Leftover:
    """An object that nobody needs."""

    path: str
    """Relative to the output."""
    size: int
    """Bytes."""
    why: str
    """What it is, in the plural, for people."""


def leftovers(store: Store, job: Job) -> list[Leftover]:
    """All that `clean` would remove, sorted by path."""
    return sorted(_find(store, job), key=lambda found: found.path)


def clean(store: Store, job: Job) -> list[Leftover]:
    """Remove the leftovers and say which. Raises LockedError while the job's runner is alive."""
    standing = epochs.newest(store, job.paths)
    if standing is not None and epochs.is_alive(store, job.paths, standing):
        raise LockedError(f"{store.root}: {standing.owner} is running this job; clean when it has ended")
    found = leftovers(store, job)
    for leftover in found:
        store.delete(leftover.path)
    return found


def _find(store: Store, job: Job) -> Iterator[Leftover]:
    former = jobs.former(store, job)
    decided = parts.list_shards(store, job.paths)
    manifest = manifests.latest(store, job.paths)
    for folder in (paths.DATA, paths.DEAD_LETTERS, paths.STATE):
        for entry in store.list(folder):
            path = entry.path
            if path.startswith(f"{paths.SCRATCH}/"):
                yield Leftover(path, entry.size, "temporary files")
            elif path.startswith(f"{paths.PROBES}/"):
                yield Leftover(path, entry.size, "probes of the store")
            elif paths.job8_of(path) in former:
                yield Leftover(path, entry.size, "files of former jobs")
            elif job.paths.shard_of_chunk(path) in decided:
                yield Leftover(path, entry.size, "checkpoints of finished shards")
            elif manifest is not None and job.paths.shard_of_part(path) in manifest.replaced:
                yield Leftover(path, entry.size, "parts of files that were rewritten or removed")
    if manifest is not None:  # which tells those that count from those of runners that lost a decision
        for entry in parts.unnamed_dead_letters(store, job.paths, manifest.parts, manifest.replaced):
            yield Leftover(entry.path, entry.size, "dead letters that no part names")

"""The generations of a job as recorded: the highest-numbered plan is the current one, and its manifest is its end."""

from __future__ import annotations

from dataclasses import replace

from batchinfer.ledger import parts, records
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Part
from batchinfer.plan.fingerprint import Fingerprint
from batchinfer.plan.generation import Generation
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


def numbers(store: Store, job: JobPaths) -> range:
    """The numbers of the generations that were begun, ascending."""
    return range(1, records.newest(store, job.plan) + 1)


def read(store: Store, job: JobPaths, number: int) -> Generation:
    """A generation. Raises FileNotFoundError where it wasn't begun."""
    return Generation.from_json(records.read(store, job.plan(number)))


def every(store: Store, job: JobPaths) -> tuple[Generation, ...]:
    """All generations that were begun, in order."""
    return tuple(read(store, job, number) for number in numbers(store, job))


def begin(store: Store, job: JobPaths, wanted: Generation) -> Generation:
    """Record a generation; the one that another runner recorded under its number first is adopted."""
    if records.create(store, job.plan(wanted.number), wanted.to_json()):
        return wanted
    return read(store, job, wanted.number)


def is_open(generation: Generation, manifest: Manifest | None) -> bool:
    """Whether a generation has not ended, by the newest manifest of its job."""
    return manifest is None or manifest.generation < generation.number


def accepts(store: Store, job: JobPaths, first: Fingerprint, other: Fingerprint) -> bool:
    """Whether a run of this fingerprint is one of the job that began with `first`: its own, that of its newest extension, or what a retry
    since was made with.

    A retry over other input files than were planned makes no run over those files one of this job: their rows aren't in it.
    """
    return other.digest in {mark.digest for mark in marks(store, job, first) if _size(mark) == _size(other)}


def marks(store: Store, job: JobPaths, first: Fingerprint) -> list[Fingerprint]:
    """What the job's rows are planned by, and what retries of them since were made with."""
    retried: list[Fingerprint] = []
    for number in reversed(numbers(store, job)[1:]):  # a job may be extended daily: what was before counts no more
        generation = read(store, job, number)
        if generation.kind == "extension":
            first = generation.fingerprint
            break
        retried.append(generation.fingerprint)
    return [first, *(mark for mark in retried if _size(mark) == _size(first))]


def _size(fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Number and rows of the input files."""
    files = fingerprint.material.get("input", {}).get("files", {})
    return files.get("count"), files.get("rows")


def parts_so_far(
    store: Store, job: JobPaths, generations: tuple[Generation, ...], manifest: Manifest | None
) -> list[Part]:
    """The parts of the manifest and, while a generation is open, those of it that stand, which costs reading them; without those that
    it replaces.
    """
    replaced = set(generations[-1].replaced) if generations else set()
    listed = [p for p in manifest.parts if p.shard not in replaced] if manifest is not None else []
    if not generations or not is_open(generations[-1], manifest):
        return listed
    standing = parts.list_shards(store, job)
    return listed + [
        replace(parts.read(store, job, shard.number), retries=shard.retries)
        for shard in generations[-1].shards
        if shard.number in standing
    ]

"""Wrong ways of deciding a shard: its dead letters, its part, its chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from batchinfer.ledger import chunks, parts
from batchinfer.ledger.parts import Decision, Part
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.mutants.registry import mutant


@contextlib.contextmanager
def _committing(commit: Callable[[Store, JobPaths, Decision, bytes, bytes | None], Part]) -> Iterator[None]:
    with mock.patch.object(parts, "commit", commit):
        yield


@contextlib.contextmanager
def _creating(create: Callable[[Store, JobPaths, Decision, bytes], object]) -> Iterator[None]:
    """Another way of creating the part; what comes before and after it is right."""

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        _put_dead_letters(store, job, decision, dead_letters)
        create(store, job, decision, data)
        chunks.delete(store, job, decision.shard)
        return parts.read(store, job, decision.shard)

    with _committing(commit):
        yield


def _put_dead_letters(store: Store, job: JobPaths, decision: Decision, dead_letters: bytes | None) -> str | None:
    path = None if decision.dead_letters is None else job.dead_letters(decision.shard, decision.dead_letters[:12])
    if path is not None and dead_letters is not None:
        store.put(path, dead_letters)
    return path


@mutant
def dead_letters_after_the_part() -> Iterator[None]:
    """The decision stands before the file that it names."""

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        store.create(job.part(decision.shard), data)
        _put_dead_letters(store, job, decision, dead_letters)
        chunks.delete(store, job, decision.shard)
        return parts.read(store, job, decision.shard)

    with _committing(commit):
        yield


@mutant
def a_listing_decides() -> Iterator[None]:
    """The part is put where a listing shows none."""

    def create(store: Store, job: JobPaths, decision: Decision, data: bytes) -> None:
        if decision.shard not in parts.list_shards(store, job):
            store.put(job.part(decision.shard), data)

    with _creating(create):
        yield


@mutant
def a_look_decides() -> Iterator[None]:
    """The part is put where reading finds none, as `exists` would."""

    def create(store: Store, job: JobPaths, decision: Decision, data: bytes) -> None:
        try:
            store.read(job.part(decision.shard))
        except FileNotFoundError:
            store.put(job.part(decision.shard), data)

    with _creating(create):
        yield


@mutant
def the_loser_removes_its_dead_letters() -> Iterator[None]:
    """They may be the winner's too: equal dead letters have one name."""
    right = parts.commit

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        path = _put_dead_letters(store, job, decision, dead_letters)
        won = store.create(job.part(decision.shard), data)
        if not won and path is not None:
            store.delete(path)
        return right(store, job, decision, data, None)

    with _committing(commit):
        yield


@mutant
def chunks_go_before_the_part() -> Iterator[None]:
    """A crash between the two makes the whole shard be done again."""
    right = parts.commit

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        chunks.delete(store, job, decision.shard)
        return right(store, job, decision, data, dead_letters)

    with _committing(commit):
        yield


@mutant
def our_own_parts_are_listed() -> Iterator[None]:
    """A runner that lost a decision lists the part that it meant to create."""

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        _put_dead_letters(store, job, decision, dead_letters)
        store.create(job.part(decision.shard), data)
        chunks.delete(store, job, decision.shard)
        return parts._describe(job, job.part(decision.shard), decision, data)

    with _committing(commit):
        yield


@mutant
def unnamed_dead_letters_go_at_once() -> Iterator[None]:
    """Dead letters that no part names yet may be those of a part that is about to be created."""
    right = parts.commit

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        standing = [parts.read(store, job, shard) for shard in sorted(parts.list_shards(store, job))]
        named = {p.dead_letters for p in standing}
        for entry in store.list(paths.DEAD_LETTERS):
            if entry.path not in named:
                store.delete(entry.path)
        return right(store, job, decision, data, dead_letters)

    with _committing(commit):
        yield

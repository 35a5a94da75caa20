"""Wrong versions of the real code. Each breaks one rule of the protocol; a simulator that doesn't catch one is no good."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pyarrow as pa

from batchinfer.ledger import chunks, jobs, manifests, parts, records
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Decision, Part
from batchinfer.run import judge
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.remote import FsspecStore
from batchinfer.storage.store import Store

Mutant = Callable[[], AbstractContextManager[object]]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Callable[[], Iterator[None]]) -> Mutant:
    """Enter a mutant under its name."""
    made = contextlib.contextmanager(make)
    MUTANTS[make.__name__.replace("_", "-")] = made
    return made


@contextlib.contextmanager
def _creating(create: Callable[[FsspecStore, str, bytes], bool]) -> Iterator[None]:
    """Another `create` of the store; the probe at the start gets the right one, as a store that fails it is refused."""
    right = FsspecStore.create

    def chosen(self: FsspecStore, path: str, data: bytes) -> bool:
        return right(self, path, data) if path.startswith(paths.PROBES) else create(self, path, data)

    with mock.patch.object(FsspecStore, "create", chosen):
        yield


@contextlib.contextmanager
def _committing(commit: Callable[[Store, JobPaths, Decision, bytes, bytes | None], Part]) -> Iterator[None]:
    with mock.patch.object(parts, "commit", commit):
        yield


def _put_dead_letters(store: Store, job: JobPaths, decision: Decision, dead_letters: bytes | None) -> str | None:
    path = None if decision.dead_letters is None else job.dead_letters(decision.shard, decision.dead_letters[:12])
    if path is not None and dead_letters is not None:
        store.put(path, dead_letters)
    return path


@mutant
def no_conditional_create() -> Iterator[None]:
    """Creating replaces what stands there."""

    def create(self: FsspecStore, path: str, data: bytes) -> bool:
        self.put(path, data)
        return True

    with _creating(create):
        yield


@mutant
def no_read_back_after_a_lost_create() -> Iterator[None]:
    """Whatever says that the name exists is another's."""

    def create(self: FsspecStore, path: str, data: bytes) -> bool:
        def request() -> bool:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            return True

        return self._call("create", path, request)

    with _creating(create):
        yield


@mutant
def what_exists_is_ours() -> Iterator[None]:
    """A create that finds the name taken counts as our own, whose answer was lost."""

    def create(self: FsspecStore, path: str, data: bytes) -> bool:
        def request() -> bool:
            with contextlib.suppress(FileExistsError):
                self._fs.pipe_file(self._full(path), data, mode="create")
            return True

        return self._call("create", path, request)

    with _creating(create):
        yield


@mutant
def an_unknown_outcome_is_cleaned_up() -> Iterator[None]:
    """A create that failed is undone, so that it can be tried afresh."""

    def create(self: FsspecStore, path: str, data: bytes) -> bool:
        def request() -> bool:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return bool(self._fs.cat_file(self._full(path)) == data)
            except OSError:
                self.delete(path)
                raise
            return True

        return self._call("create", path, request)

    with _creating(create):
        yield


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

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        _put_dead_letters(store, job, decision, dead_letters)
        if decision.shard not in parts.list_shards(store, job):
            store.put(job.part(decision.shard), data)
        chunks.delete(store, job, decision.shard)
        return parts.read(store, job, decision.shard)

    with _committing(commit):
        yield


@mutant
def a_look_decides() -> Iterator[None]:
    """The part is put where reading finds none, as `exists` would."""

    def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
        _put_dead_letters(store, job, decision, dead_letters)
        try:
            store.read(job.part(decision.shard))
        except FileNotFoundError:
            store.put(job.part(decision.shard), data)
        chunks.delete(store, job, decision.shard)
        return parts.read(store, job, decision.shard)

    with _committing(commit):
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
def chunks_are_not_checked() -> Iterator[None]:
    """A chunk counts whatever its digest, its shard and its settings."""

    def load(store: Store, job: JobPaths, shard: int, outputs: pa.Schema, settings: str) -> pa.Table:
        del settings
        tables = [chunks.schema(outputs).empty_table()]
        for entry in store.list(job.chunks(shard)):
            with contextlib.suppress(FileNotFoundError):
                data = store.read(entry.path)
                tables.append(pa.ipc.open_file(pa.py_buffer(data)).read_all().replace_schema_metadata(None))
        return chunks._first_of_each(pa.concat_tables(tables))

    with mock.patch.object(chunks, "load", load):
        yield


@mutant
def success_before_the_manifest() -> Iterator[None]:
    """Readers are told that all is there before it is written down what all is."""
    right = manifests.create

    def create(store: Store, job: JobPaths, listed: list[Part], generation: int, verdict: int) -> Manifest:
        if verdict == 0:
            manifests.mark_success(store)
        return right(store, job, listed, generation, verdict)

    with mock.patch.object(manifests, "create", create):
        yield


@mutant
def the_manifest_is_put() -> Iterator[None]:
    """Two runners that end a generation both write its manifest."""
    right = records.create

    def create(store: Store, path: str, value: dict[str, Any]) -> bool:
        if "/manifests/" not in path:
            return right(store, path, value)
        store.put(path, records.to_bytes({**value, "nonce": secrets.token_hex(16)}))
        return True

    with mock.patch.object(records, "create", create):
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
def a_restart_removes_parts_before_its_record() -> Iterator[None]:
    """A crash between the two leaves the former job without its parts."""
    right = jobs.find_or_create

    def find_or_create(store: Store, *arguments: Any, fresh: bool, **options: Any) -> jobs.Job:
        former = jobs.current(store)
        if fresh and former is not None:
            store.delete(paths.SUCCESS)
            for shard in parts.list_shards(store, former.paths):
                store.delete(former.paths.part(shard))
        return right(store, *arguments, fresh=fresh, **options)

    with mock.patch.object(jobs, "find_or_create", find_or_create):
        yield


@mutant
def a_restart_leaves_success() -> Iterator[None]:
    """_SUCCESS of the former job vouches for the new one."""

    class Sparing:
        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def delete(self, path: str) -> None:
            if path != paths.SUCCESS:
                self._store.delete(path)

    right = jobs.find_or_create

    def find_or_create(store: Store, *arguments: Any, **options: Any) -> jobs.Job:
        return right(Sparing(store), *arguments, **options)

    with mock.patch.object(jobs, "find_or_create", find_or_create):
        yield


@mutant
def a_listing_tells_the_newest_record() -> Iterator[None]:
    """A late listing hides the job, the generation or the manifest that counts."""

    def newest(store: Store, spell: Callable[[int], str]) -> int:
        return max(records.numbers(store, spell(1).rpartition("/")[0]), default=0)

    with mock.patch.object(records, "newest", newest):
        yield


@mutant
def late_parts_stay() -> Iterator[None]:
    """The runner of a replaced job leaves what it put under data/ since."""
    with mock.patch.object(jobs, "withdraw"):
        yield


@mutant
def success_is_not_looked_at_again() -> Iterator[None]:
    """A verdict is marked although its job or generation was replaced in that moment."""
    right, mark = judge.refuse_superseded, manifests.mark_success
    marked: list[int] = []

    def refuse_superseded(store: Store, job: jobs.Job, generation: int) -> None:
        if marked:
            marked.clear()
        else:
            right(store, job, generation)

    def mark_success(store: Store) -> None:
        mark(store)
        marked.append(1)

    with (
        mock.patch.object(judge, "refuse_superseded", refuse_superseded),
        mock.patch.object(manifests, "mark_success", mark_success),
    ):
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

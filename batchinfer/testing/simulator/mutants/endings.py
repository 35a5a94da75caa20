"""Wrong ways of ending a generation, of beginning a job in the place of another, and of finding the newest record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

from batchinfer.ledger import jobs, manifests, parts, records
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Part
from batchinfer.run import judge
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.mutants.registry import mutant
from batchinfer.testing.simulator.mutants.sparing import Sparing


@mutant
def success_before_the_manifest() -> Iterator[None]:
    """Readers are told that all is there before it is written down what all is."""
    right = manifests.create

    def create(
        store: Store,
        job: JobPaths,
        listed: list[Part],
        generation: int,
        verdict: int,
        precision: Mapping[str, Any],
        replaced: Iterable[int],
    ) -> Manifest:
        if verdict == 0:
            manifests.mark_success(store)
        return right(store, job, listed, generation, verdict, precision, replaced)

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

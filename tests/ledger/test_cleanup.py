"""What `clean` removes, and what it never touches."""

from __future__ import annotations

from typing import Any

import pytest

from batchinfer.errors import LockedError
from batchinfer.ledger import cleanup, manifests, parts
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.jobs import Job
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from tests.ledger.test_jobs import take
from tests.ledger.test_parts import decide

ABANDONED = "0" * 12


def put(store: Any, *names: str) -> None:
    for name in names:
        store.put(name, b"12345")


def found(store: Any, job: Job) -> dict[str, str]:
    """Why each leftover is one, by path."""
    return {leftover.path: leftover.why for leftover in cleanup.leftovers(store, job)}


@pytest.fixture
def former(store: Any) -> JobPaths:
    """The names of a job that another has replaced."""
    return take(store).paths


@pytest.fixture
def current(store: Any, former: JobPaths) -> Job:
    return take(store, fresh=True)


def test_everything_of_former_jobs_is_left_over_and_nothing_of_strangers(
    store: Any, former: JobPaths, current: Job
) -> None:
    old = [former.part(0), former.dead_letters(0, ABANDONED), former.plan(1), former.chunk(0, ABANDONED)]
    stranger = JobPaths("ffffffff")
    put(store, *old, stranger.part(0), stranger.plan(1), "data/README", "notes.txt")
    put(store, current.paths.plan(1), paths.SUCCESS)
    assert found(store, current) == dict.fromkeys(old, "files of former jobs")


def test_temporary_files_and_probes_are_left_over(store: Any, current: Job) -> None:
    put(store, f"{paths.SCRATCH}/x", f"{paths.PROBES}/y")
    assert found(store, current) == {
        f"{paths.SCRATCH}/x": "temporary files",
        f"{paths.PROBES}/y": "probes of the store",
    }


def test_checkpoints_stay_until_their_shard_is_decided(store: Any, current: Job) -> None:
    parts.commit(store, current.paths, *decide(shard=2))
    decided, open_shard = current.paths.chunk(2, ABANDONED), current.paths.chunk(3, ABANDONED)
    put(store, decided, open_shard)
    assert found(store, current) == {decided: "checkpoints of finished shards"}


def test_dead_letters_that_no_part_names_stay_until_a_manifest_tells_which_count(store: Any, current: Job) -> None:
    part = parts.commit(store, current.paths, *decide(shard=0, dead=(1,)))
    lost = current.paths.dead_letters(0, ABANDONED)
    put(store, lost)
    assert found(store, current) == {}
    manifests.create(store, current.paths, [part], 1, 3)
    assert found(store, current) == {lost: "dead letters that no part names"}


def test_cleaning_removes_what_it_says_and_no_more(store: Any, former: JobPaths, current: Job) -> None:
    part = parts.commit(store, current.paths, *decide(shard=0, dead=(1,)))
    manifests.create(store, current.paths, [part], 1, 3)
    before = store.paths
    put(store, former.part(0), former.plan(1))
    removed = cleanup.clean(store, current)
    assert [(one.path, one.size) for one in removed] == [(former.plan(1), 5), (former.part(0), 5)]
    assert store.paths == before
    assert cleanup.clean(store, current) == []


def test_nothing_is_removed_while_the_jobs_runner_lives(store: Any, former: JobPaths, current: Job) -> None:
    put(store, former.part(0))
    epoch = Epoch.begin(store, current.paths)
    with pytest.raises(LockedError, match="clean when it has ended"):
        cleanup.clean(store, current)
    assert former.part(0) in store.paths
    epoch.close("end")
    assert [one.path for one in cleanup.clean(store, current)] == [former.part(0)]

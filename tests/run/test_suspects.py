"""Deaths by shard, through the heartbeats of one runner after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batchinfer.errors import StorageError
from batchinfer.ledger import epochs, records
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.host import Host
from batchinfer.ledger.jobs import Job
from batchinfer.plan.fingerprint import Fingerprint
from batchinfer.run.suspects import Suspects
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.context import Failed, Failure

JOB = JobPaths("0123abcd")


class Still(Host):
    """A machine where nothing happens by itself."""

    def every(self, seconds: float, action: Callable[[], bool], name: str) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def runner(store: Store, number: int, left: list[int], workers: int = 1) -> Suspects:
    """The next runner, which begins with these shards left."""
    records.create(store, JOB.epoch(number), {"pid": 1})
    epoch = Epoch(store, JOB, number, lambda: None, lambda _: None, Still())
    suspects = Suspects(store, Job(1, JOB, "n", Fingerprint("0", {})), epoch)
    suspects.begin(left, workers)
    return suspects


def close(store: Store, number: int) -> None:
    store.put(JOB.closed(number), records.to_bytes({"end": "end"}))


def in_quarantine(suspects: Suspects, shards: range = range(10)) -> list[int]:
    return [n for n in shards if suspects.quarantined(n)]


def test_two_unclean_ends_with_one_shard_in_hand_bring_it_to_quarantine(store: Store) -> None:
    assert in_quarantine(runner(store, 1, [0, 1, 2, 3, 4])) == []
    assert in_quarantine(runner(store, 2, [1, 2, 3, 4])) == []  # it died of 1 or 2
    assert in_quarantine(runner(store, 3, [2, 3, 4])) == [2]  # and of 2 or 3
    assert in_quarantine(runner(store, 4, [2, 3, 4])) == [2, 3]


def test_a_clean_end_suspects_nobody_and_forgets_nothing(store: Store) -> None:
    first = runner(store, 1, [0, 1, 2])
    assert first.count(Failed(1, Failure.DIED, "died"), 3) == 1
    close(store, 1)
    second = runner(store, 2, [1, 2])
    assert in_quarantine(second) == []
    assert second.count(Failed(1, Failure.DIED, "died"), 3) == 2
    assert in_quarantine(second) == [1]
    close(store, 2)
    assert in_quarantine(runner(store, 3, [1, 2])) == [1]


def test_more_workers_hold_more_shards(store: Store) -> None:
    runner(store, 1, list(range(10)), workers=2)
    runner(store, 2, list(range(10)), workers=2)
    assert in_quarantine(runner(store, 3, list(range(10)))) == [0, 1, 2, 3]


def test_a_death_stands_in_the_heartbeat_at_once_and_in_later_ones(store: Store) -> None:
    suspects = runner(store, 1, [0, 1])
    suspects.count(Failed(1, Failure.HUNG, "hung"), 3)
    found = epochs.trace(store, JOB, 1)
    assert found is not None
    assert not found.clean
    assert found.notes["deaths"] == {"1": 2}
    assert found.notes["in_hand"] == 2


class _Away:
    """A store that never answers a write."""

    root = "away"

    def put(self, path: str, data: bytes) -> None:
        threading.Event().wait(120)
        raise StorageError("away")


def test_an_end_is_not_held_up_by_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_CLOSE_SECONDS", 0.5)
    epoch = Epoch(_Away(), JOB, 1, lambda: None, lambda _: None, Still())  # type: ignore[arg-type]
    closing = threading.Thread(target=epoch.close, args=("end",), daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()

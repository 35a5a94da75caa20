"""What a worker's stages do with results when something has gone wrong."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import BatchinferError, CircuitBreakerError, InputError, StoppedError, StorageError
from batchinfer.pipeline.graph import graph_of
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.context import Failed, Failure, Outcome
from batchinfer.worker.items import End, Results
from batchinfer.worker.shard_run import ShardRun
from batchinfer.worker.stages import Stages
from tests.worker.test_shard_run import JOB, SHARD, context, good, shard_run, windows


class FailingStore:
    """Another store, whose puts are counted, and fail with `error` where there is one."""

    def __init__(self, store: Store, error: BatchinferError | None = None) -> None:
        self._store, self.error, self.puts = store, error, 0

    def put(self, path: str, data: bytes) -> None:
        self.puts += 1
        if self.error is not None:
            raise self.error
        self._store.put(path, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def begun(store: Any, interval: float) -> tuple[Stages, ShardRun]:
    outcome: Future[Outcome] = Future()
    of = context(interval)
    run = shard_run(store, outcome, of)
    return Stages(of, store, None, graph_of(of.spec), None, None, None), run  # type: ignore[arg-type]


def write(stages: Stages, run: ShardRun, number: int) -> None:
    window = windows()[number]
    rows = run.begin(window)
    stages.write(Results(run, rows, good(run, rows, window.ordinals.tolist()), fresh=True))


def test_a_store_that_is_away_is_asked_once_and_not_again_for_each_batch_that_is_computed(tmp_path: Path) -> None:
    store = FailingStore(open_store(str(tmp_path)), StorageError("away"))
    stages, run = begun(store, interval=1e-6)
    for number in range(3):
        write(stages, run, number)
        time.sleep(1e-3)
    stages.write(End(run))
    outcome = run.outcome.result(0)
    assert isinstance(outcome, Failed)
    assert outcome.failure is Failure.TRANSIENT
    assert store.puts == 1


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (StoppedError("stopped"), True),
        (InputError("a page that can't be read"), True),
        (StorageError("away"), False),
        (CircuitBreakerError("all fail"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_computed_is_saved_after_an_error_that_says_nothing_against_it(
    tmp_path: Path, error: BatchinferError, kept: bool
) -> None:
    store = FailingStore(open_store(str(tmp_path)))
    stages, run = begun(store, interval=1000)
    write(stages, run, 0)
    run.fail(error)
    write(stages, run, 1)  # it was on the device
    stages.write(End(run))
    assert store.puts == kept
    again = shard_run(store, Future(), context())
    assert len(again.steps[0].known) == (8 if kept else 0)
    assert len(store.list(JOB.chunks(SHARD.number))) == kept

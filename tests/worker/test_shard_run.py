"""A shard's way from results to its part, through a store on disk."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.data.reader import Window
from batchinfer.errors import BatchinferError
from batchinfer.job.spec import JobSpec
from batchinfer.ledger import parts
from batchinfer.ledger.host import HERE, Host
from batchinfer.ledger.parts import Counts, Decision, Part
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.pipeline.graph import graph_of
from batchinfer.plan.plan import Reading
from batchinfer.plan.shards import Shard
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.context import Context, Outcome, RowError
from batchinfer.worker.shard_run import ShardRun
from batchinfer.worker.window_rows import WindowRows
from tests.settings import of_one

JOB = JobPaths("0123abcd")
WINDOW = 4
INPUT = pa.schema([("id", pa.int64()), ("text", pa.string())])
STEP = StepSettings("fp32", Budget(4), 1, pa.schema([("score", pa.float32())]))
SETTINGS = of_one(STEP)
FILE = InputFile("/in/a.parquet", 1, "1", "f", 100)
SHARD = Shard(7, 1000, (RowRange(FILE, 50, 10),))
ERROR = RowError("exception", "ValueError", "no", 2)


def context(interval: float = 1000.0) -> Context:
    job = {
        "version": 1,
        "name": "n",
        "input": {"path": "/in", "key": "id"},
        "steps": [{"engine": "python", "uri": "m:C", "inputs": {"x": "text"}, "outputs": {"y": "score"}}],
        "output": {"path": "/out", "carry": ["text"]},
        "checkpoint": {"interval": interval},
    }
    return Context(JobSpec.model_validate(job), Reading(INPUT, None, ("text",), "id", WINDOW), JOB, 1)


def windows(filtered: set[int] = frozenset()) -> list[Window]:  # type: ignore[assignment]
    made = []
    for first in range(0, SHARD.rows, WINDOW):
        rows = min(WINDOW, SHARD.rows - first)
        keep = [n for n in range(first, first + rows) if n not in filtered]
        table = pa.table({"id": [n * 10 for n in keep], "text": [f"t{n}" for n in keep]}, INPUT)
        made.append(Window(first, rows, table, np.array(keep, np.int64), SHARD.ranges))
    return made


def shard_run(
    store: Any,
    outcome: Future[Outcome],
    of: Context,
    settings: Settings = SETTINGS,
    host: Host = HERE,
    engine: Any = None,
) -> ShardRun:
    return ShardRun(SHARD, of, graph_of(of.spec), settings, store, outcome, [engine], [None], host)


def begin(store: Store, interval: float = 1000.0, settings: Settings = SETTINGS, host: Host = HERE) -> ShardRun:
    return shard_run(store, Future(), context(interval), settings, host)


def good(
    run: ShardRun, rows: WindowRows, ordinals: list[int], invalid: dict[int, RowError] | None = None, cut: bool = False
) -> pa.Table:
    at = np.array(ordinals, np.int64)
    return run.results(
        rows, at, [pa.array(at / 10, pa.float32())], np.array([cut] * len(at)) if cut else None, invalid or {}
    )


def batches_of(window: Window, dead: set[int]) -> list[list[int]]:
    """The window's rows in batches of two, from its end, the dead ones apart."""
    alive = [int(n) for n in window.ordinals[::-1] if n not in dead]
    bad = [[int(n)] for n in window.ordinals if n in dead]
    return (
        [*([*b] for b in itertools.batched(alive, 2)), *bad]
        if hasattr(itertools, "batched")
        else [*(alive[i : i + 2] for i in range(0, len(alive), 2)), *bad]
    )


def feed(run: ShardRun, dead: set[int] = frozenset(), filtered: set[int] = frozenset(), order: Any = list) -> None:  # type: ignore[assignment]
    """All rows, in batches whose order `order` decides across windows."""
    todo = []
    for window in windows(filtered):
        rows = run.begin(window)
        if not len(window.table):
            todo.append((rows, pa.table({})))
        for some in batches_of(window, dead):
            table = (
                run.dead_rows(rows, np.array(some, np.int64), [ERROR] * len(some))
                if dead.issuperset(some)
                else good(run, rows, some)
            )
            todo.append((rows, table))
    for rows, table in order(todo):
        run.accept(rows, table, fresh=True)


def read(store: Store, part: Part) -> pa.Table:
    return pq.read_table(io.BytesIO(store.read(part.path)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path), scratch="tmp")


def test_rows_come_back_in_input_order_with_what_is_carried(store: Store) -> None:
    run = begin(store)
    feed(run)
    part = run.commit()
    table = read(store, part)
    assert table.column_names == ["text", "score"]
    assert table["text"].to_pylist() == [f"t{n}" for n in range(10)]
    assert table["score"].to_pylist() == pytest.approx([n / 10 for n in range(10)])
    assert part.counts == Counts(10, 10)
    assert parts.read(store, JOB, 7) == part


def test_every_row_is_predicted_dead_or_filtered_and_named_as_such(store: Store) -> None:
    run = begin(store)
    feed(run, dead={1, 9}, filtered={0, 5, 6})
    part = run.commit()
    assert part.counts == Counts(10, 5, 2, 3)
    assert read(store, part)["text"].to_pylist() == ["t2", "t3", "t4", "t7", "t8"]
    metadata = {
        k.decode().removeprefix("batchinfer."): v.decode()
        for k, v in pq.read_metadata(io.BytesIO(store.read(part.path))).metadata.items()
    }
    decision = Decision.from_metadata(metadata, "here")
    assert (decision.dead.tolist(), decision.filtered.tolist(), decision.first) == ([1, 9], [0, 5, 6], 1000)
    assert part.dead_letters is not None
    letters = pq.read_table(io.BytesIO(store.read(part.dead_letters))).to_pylist()
    assert [(r["shard"], r["row"], r["source_file"], r["source_row"], r["key"]) for r in letters] == [
        (7, 1001, "/in/a.parquet", 51, "10"),
        (7, 1009, "/in/a.parquet", 59, "90"),
    ]
    assert {(r["step"], r["error_class"], r["error_type"], r["message"], r["attempts"]) for r in letters} == {
        ("model", "exception", "ValueError", "no", 2)
    }


@pytest.mark.parametrize("order", [lambda t: t[::-1], lambda t: t[::2] + t[1::2], lambda t: t[3:] + t[:3]])
def test_results_that_arrive_in_another_order_give_the_same_bytes(tmp_path: Path, order: Any) -> None:
    made = []
    for n, arrival in enumerate((list, order)):
        store = open_store(str(tmp_path / str(n)))
        run = begin(store)
        feed(run, dead={2}, filtered={4, 5, 6, 7}, order=arrival)
        made.append(run.commit())
    assert made[0] == made[1]


def test_invalid_outputs_are_dead_and_their_values_are_not_kept(store: Store) -> None:
    run = begin(store)
    invalid = RowError("invalid_output", "NotFinite", "NaN", 1)
    for window in windows():
        rows = run.begin(window)
        run.accept(rows, good(run, rows, window.ordinals.tolist(), {1: invalid}), fresh=True)
    part = run.commit()
    assert part.counts == Counts(10, 7, 3)
    assert read(store, part)["text"].to_pylist() == ["t0", "t2", "t3", "t4", "t6", "t7", "t8"]


def test_truncated_rows_are_counted_where_they_succeed(store: Store) -> None:
    run = begin(store)
    for window in windows():
        rows = run.begin(window)
        run.accept(rows, good(run, rows, window.ordinals.tolist(), {0: ERROR}, cut=True), fresh=True)
    assert run.commit().counts == Counts(10, 7, 3, 0, 0, 7)


def test_a_shard_whose_rows_are_all_dead_has_a_part_of_no_rows_with_the_schema(store: Store) -> None:
    run = begin(store)
    feed(run, dead=set(range(10)))
    table = read(store, run.commit())
    assert (len(table), table.schema.names) == (0, ["text", "score"])
    assert table.schema.field("score").type == pa.float32()


def test_a_shard_whose_rows_are_all_filtered_has_a_part_of_no_rows(store: Store) -> None:
    run = begin(store)
    feed(run, filtered=set(range(10)))
    part = run.commit()
    assert part.counts == Counts(10, 0, 0, 10)
    assert part.dead_letters is None


def test_a_shard_that_misses_rows_is_never_committed(store: Store) -> None:
    run = begin(store)
    window = windows()[0]
    rows = run.begin(window)
    run.accept(rows, good(run, rows, window.ordinals.tolist()), fresh=True)
    with pytest.raises(BatchinferError, match="not accounted for"):
        run.commit()
    assert store.list("data") == []


def test_nothing_is_checkpointed_before_the_interval_or_without_results(store: Store) -> None:
    run = begin(store, interval=1000)
    assert not run.checkpoint_due()
    feed(run)
    assert not run.checkpoint_due()
    run.commit()
    assert store.list("_batchinfer/0123abcd/wip") == []


def test_results_are_due_once_the_interval_has_passed(store: Store) -> None:
    run = begin(store, interval=1e-9)
    assert not run.checkpoint_due()
    feed(run)
    assert run.checkpoint_due()
    run.checkpoint()
    assert not run.checkpoint_due()
    assert len(store.list(JOB.chunks(7))) == 1
    run.checkpoint()
    assert len(store.list(JOB.chunks(7))) == 1


class Clock(Host):
    """A machine whose time stands still unless told."""

    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time


class SlowStore:
    """Another store, in which a put takes some seconds of a clock's."""

    def __init__(self, store: Store, clock: Clock, seconds: float) -> None:
        self._store, self._clock, self.seconds = store, clock, seconds

    def put(self, path: str, data: bytes) -> None:
        self._clock.time += self.seconds
        self._store.put(path, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_the_interval_begins_with_the_models_first_answer(store: Store) -> None:
    clock = Clock()
    run = begin(store, interval=5, host=clock)
    run.count(run.begin(windows()[0]), None, np.arange(4))
    clock.time += 5  # the writing thread was busy with the part before
    feed(run)
    assert run.checkpoint_due()


@pytest.mark.parametrize(("storing", "after"), [(0, 5), (1, 4), (2, 4), (4, 8), (60, 65)])
def test_what_storing_takes_belongs_to_the_interval_unless_the_store_is_slow(
    store: Store, storing: float, after: float
) -> None:
    """From the beginning of one checkpoint to that of the next."""
    clock = Clock()
    run = begin(SlowStore(store, clock, storing), interval=5, host=clock)  # type: ignore[arg-type]
    feed(run)
    began = clock.time
    run.checkpoint()
    feed(run)
    clock.time = began + after - 0.1
    assert not run.checkpoint_due()
    clock.time = began + after
    assert run.checkpoint_due()


def resumed(store: Store, dead: set[int], filtered: set[int]) -> Part:
    """The shard by a second worker, which takes what it can from checkpoints."""
    run = begin(store)
    for window in windows(filtered):
        rows = run.begin(window)
        known = run.steps[0].from_checkpoint(window.ordinals)
        if known is not None:
            run.accept(rows, known, fresh=False)
            continue
        if not len(window.table):
            run.accept(rows, pa.table({}), fresh=False)
        for some in batches_of(window, dead):
            known = run.steps[0].from_checkpoint(np.array(some, np.int64))
            fresh = known is None
            if known is None:
                known = (
                    run.dead_rows(rows, np.array(some), [ERROR] * len(some))
                    if dead.issuperset(some)
                    else good(run, rows, some)
                )
            run.accept(rows, known, fresh=fresh)
    return run.commit()


@pytest.mark.parametrize("done", range(8))
def test_a_shard_that_is_resumed_from_any_point_has_the_same_bytes_and_leaves_no_chunks(
    tmp_path: Path, done: int
) -> None:
    dead, filtered = {2, 8}, {4, 5}
    plain = begin(one := open_store(str(tmp_path / "1")))
    feed(plain, dead, filtered)
    expected = plain.commit()
    store = open_store(str(tmp_path / "2"))
    killed = begin(store)
    feed(killed, dead, filtered, order=lambda todo: todo[:done])
    killed.checkpoint()
    part = resumed(store, dead, filtered)
    assert part == expected
    assert [e.path for e in store.list()] == [e.path for e in one.list()]


def test_checkpoints_of_other_settings_are_not_used(store: Store) -> None:
    run = begin(store)
    feed(run)
    run.checkpoint()
    other = of_one(StepSettings("bf16", Budget(4), 1, SETTINGS.outputs))
    assert len(begin(store, settings=other).steps[0].known) == 0
    assert len(begin(store).steps[0].known) == 10


def test_a_batch_is_taken_from_a_checkpoint_only_as_a_whole(store: Store) -> None:
    run = begin(store)
    window = windows()[0]
    rows = run.begin(window)
    run.accept(rows, good(run, rows, [3, 1]), fresh=True)
    run.checkpoint()
    again = begin(store).steps[0]
    assert again.known.tolist() == [1, 3]
    taken = again.from_checkpoint(np.array([3, 1]))
    assert taken is not None
    assert taken["_ordinal"].to_pylist() == [3, 1]
    assert again.from_checkpoint(np.array([1, 2])) is None
    assert again.from_checkpoint(np.array([9])) is None
    assert again.from_checkpoint(np.array([], np.int64)) is None


def test_the_first_error_of_a_shard_counts(store: Store) -> None:
    run = begin(store)
    first = ValueError("first")
    run.fail(first)
    run.fail(ValueError("second"))
    assert run.error is first

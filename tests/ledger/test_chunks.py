"""Checkpoints, and what is not taken for one."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.ledger import chunks
from batchinfer.storage.paths import JobPaths

OUTPUTS = pa.schema([("score", pa.float32()), ("label", pa.string())])
DEAD = {"error_class": "exception", "error_type": "ValueError", "message": "no", "attempts": 2, "retryable": False}


def rows(*ordinals: int, score: float = 0.5, outputs: pa.Schema = OUTPUTS, dead: tuple[int, ...] = ()) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "_ordinal": n,
                "_truncated": n % 2 == 0,
                "_dead": DEAD if n in dead else None,
                "score": score,
                "label": "x",
            }
            for n in ordinals
        ],
        chunks.schema(outputs),
    )


def load(store: Any, job: JobPaths, settings: str = "s1", shard: int = 3) -> pa.Table:
    return chunks.load(store, job, shard, {"model": OUTPUTS}, settings)["model"]


def only(store: Any) -> str:
    (path,) = store.paths
    return str(path)


def test_a_chunk_comes_back_as_it_was_put_in_order(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(5, 1, 2, dead=(2,)), "model", "s1")
    chunks.put(store, job, 3, rows(0, 9), "model", "s1")
    assert load(store, job).equals(rows(0, 1, 2, 5, 9, dead=(2,)))


def test_a_chunk_is_named_by_its_digest_and_equal_results_are_one_chunk(store: Any, job: JobPaths) -> None:
    for _ in range(2):
        chunks.put(store, job, 3, rows(1, 2), "model", "s1")
    sha = hashlib.sha256(store.read(only(store))).hexdigest()
    assert only(store) == f"_batchinfer/{job.job8}/wip/0000003/{sha[:12]}.arrow"


def test_no_chunks_give_an_empty_table_of_the_schema(store: Any, job: JobPaths) -> None:
    assert load(store, job).equals(chunks.schema(OUTPUTS).empty_table())


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -200])
def test_a_torn_chunk_is_passed_over(store: Any, job: JobPaths, keep: int) -> None:
    chunks.put(store, job, 3, rows(1, 2), "model", "s1")
    store.put(only(store), store.read(only(store))[:keep])
    assert len(load(store, job)) == 0


def test_a_chunk_with_any_bit_flipped_is_passed_over(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(1, 2), "model", "s1")
    path = only(store)
    data = store.read(path)
    for at in range(0, len(data), 37):
        store.put(path, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        assert len(load(store, job)) == 0


def test_a_renamed_chunk_is_passed_over(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(1, 2), "model", "s1")
    path, folder = only(store), job.chunks(3)
    data = store.read(path)
    store.delete(path)
    for name in (f"{folder}/{'0' * 12}.arrow", f"{folder}/x.arrow", f"{folder}/deep/{path[-18:]}"):
        store.put(name, data)
    assert len(load(store, job)) == 0


def test_a_chunk_that_was_moved_to_another_shard_is_passed_over(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 4, rows(1, 2), "model", "s1")
    store.put(only(store).replace("/0000004/", "/0000003/"), store.read(only(store)))
    assert len(load(store, job)) == 0
    assert len(load(store, job, shard=4)) == 2


def test_a_chunk_of_other_settings_is_passed_over_even_with_other_columns(store: Any, job: JobPaths) -> None:
    other = pa.schema([("score", pa.string())])
    table = pa.Table.from_pylist(
        [{"_ordinal": 1, "_truncated": False, "_dead": None, "score": "x"}], chunks.schema(other)
    )
    chunks.put(store, job, 3, table, "model", "s2")
    chunks.put(store, job, 3, rows(7), "model", "s1")
    assert load(store, job)["_ordinal"].to_pylist() == [7]


def test_a_chunk_that_vanishes_after_the_listing_is_passed_over(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(1), "model", "s1")
    chunks.put(store, job, 3, rows(2), "model", "s1")

    def before(verb: str, path: str) -> None:
        if verb == "read":
            store.before = lambda _verb, _path: None
            store.delete(path)

    store.before = before
    assert len(load(store, job)) == 1


def test_an_ordinal_that_two_runners_computed_is_taken_once(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(1, 2, 3, score=0.5), "model", "s1")
    chunks.put(store, job, 3, rows(2, 3, 4, score=0.25), "model", "s1")
    assert load(store, job)["_ordinal"].to_pylist() == [1, 2, 3, 4]


def test_batches_with_dictionaries_of_their_own_go_into_one_chunk(store: Any, job: JobPaths) -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    outputs = pa.schema([("label", kind)])

    def batch(ordinal: int, label: str) -> pa.Table:
        columns = [
            pa.array([ordinal]),
            pa.array([False]),
            pa.nulls(1, chunks.DEAD_TYPE),
            pa.array([label]).dictionary_encode(),
        ]
        return pa.Table.from_arrays(columns, schema=chunks.schema(outputs))

    table = pa.concat_tables([batch(0, "good"), batch(1, "bad")])
    chunks.put(store, job, 3, table, "model", "s1")
    assert chunks.load(store, job, 3, {"model": outputs}, "s1")["model"]["label"].to_pylist() == ["good", "bad"]


def test_deleting_takes_one_shards_chunks_alone(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 3, rows(1), "model", "s1")
    chunks.put(store, job, 30, rows(1), "model", "s1")
    chunks.delete(store, job, 3)
    chunks.delete(store, job, 3)
    assert len(load(store, job)) == 0
    assert len(load(store, job, shard=30)) == 1

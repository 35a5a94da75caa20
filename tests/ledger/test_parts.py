"""The one decision about a shard, and the end of a generation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.data.part import PartWriter
from batchinfer.errors import OutputError, StorageError
from batchinfer.ledger import chunks, manifests, parts, records
from batchinfer.ledger.parts import Counts, Decision, Part
from batchinfer.storage.paths import JobPaths

SCHEMA = pa.schema([("id", pa.int64())])


def decide(
    shard: int = 2, good: int = 3, dead: tuple[int, ...] = (), filtered: tuple[int, ...] = (), value: int = 0
) -> tuple[Decision, bytes, bytes | None]:
    """A decision, its part, and its dead letters."""
    letters = b"letters of %d" % value if dead else None
    decision = Decision(
        shard,
        shard * 10,
        Counts(good + len(dead) + len(filtered), good, len(dead), len(filtered)),
        np.array(dead, np.int64),
        np.array(filtered, np.int64),
        hashlib.sha256(letters).hexdigest() if letters else None,
    )
    writer = PartWriter(SCHEMA)
    writer.write(pa.table({"id": pa.array([value] * good, pa.int64())}))
    return decision, writer.finish(decision.to_metadata()), letters


def test_what_became_of_the_rows_reads_back_from_the_part(store: Any, job: JobPaths) -> None:
    decision, data, letters = decide(dead=(1, 4), filtered=(0, 5, 6))
    committed = parts.commit(store, job, decision, data, letters)
    assert parts.read(store, job, 2) == committed
    assert committed.counts == Counts(8, 3, 2, 3)
    assert committed.sha256 == hashlib.sha256(data).hexdigest()
    assert committed.bytes == len(data)
    assert committed.dead_letters == f"_dead_letter/part-0000002-0123abcd-{decision.dead_letters[:12]}.parquet"
    assert Part.from_json(committed.to_json()) == committed
    back = Decision.from_metadata(decision.to_metadata(), "here")
    assert (back.dead.tolist(), back.filtered.tolist(), back.first) == ([1, 4], [0, 5, 6], 20)


def test_dead_letters_come_first_then_the_part_and_the_chunks_go_last(store: Any, job: JobPaths) -> None:
    table = chunks.schema(SCHEMA).empty_table()
    chunks.put(store, job, 2, table, "model", "s1")
    chunk = store.paths[0]
    store.changes.clear()
    decision, data, letters = decide(dead=(1,))
    committed = parts.commit(store, job, decision, data, letters)
    assert store.changes == [f"put {committed.dead_letters}", f"create {committed.path}", f"delete {chunk}"]


def test_a_shard_without_dead_rows_has_no_dead_letters(store: Any, job: JobPaths) -> None:
    decision, data, letters = decide()
    assert parts.commit(store, job, decision, data, letters).dead_letters is None
    assert store.paths == [job.part(2)]


def test_losing_the_decision_adopts_the_part_that_stands(store: Any, job: JobPaths) -> None:
    winner = parts.commit(store, job, *decide(value=1, dead=(1,)))
    loser = parts.commit(store, job, *decide(value=2, dead=(2, 3)))
    assert loser == winner
    assert loser.counts.dead == 1
    assert hashlib.sha256(store.read(job.part(2))).hexdigest() == winner.sha256
    (unnamed,) = parts.unnamed_dead_letters(store, job, [loser])
    assert set(store.paths) == {winner.dead_letters, winner.path, unnamed.path}


def test_dead_letters_of_other_jobs_and_of_undecided_shards_are_not_ours_to_remove(store: Any, job: JobPaths) -> None:
    part = parts.commit(store, job, *decide(dead=(1,)))
    for path in (
        JobPaths("ffffffff").dead_letters(2, "0" * 12),
        job.dead_letters(3, "0" * 12),  # its part may be created in a moment
        "_dead_letter/readme",
    ):
        store.put(path, b"")
    assert parts.unnamed_dead_letters(store, job, [part]) == []
    store.put(job.dead_letters(2, "0" * 12), b"")
    assert [e.path for e in parts.unnamed_dead_letters(store, job, [part])] == [job.dead_letters(2, "0" * 12)]


def test_a_part_that_could_not_be_created_leaves_the_chunks(store: Any, job: JobPaths) -> None:
    chunks.put(store, job, 2, chunks.schema(SCHEMA).empty_table(), "model", "s1")
    before = store.paths

    def fail(verb: str, path: str) -> None:
        if verb == "create":
            raise StorageError("away")

    store.before = fail
    with pytest.raises(StorageError):
        parts.commit(store, job, *decide())
    assert store.paths == before


def test_the_decided_shards_are_those_with_a_part_of_this_job(store: Any, job: JobPaths) -> None:
    for name in (job.part(1), job.part(12345678), "data/_SUCCESS", JobPaths("ffffffff").part(5), "data/part-1.parquet"):
        store.put(name, b"")
    assert parts.list_shards(store, job) == {1, 12345678}


def test_a_missing_part_is_missing(store: Any, job: JobPaths) -> None:
    with pytest.raises(FileNotFoundError):
        parts.read(store, job, 2)


@pytest.mark.parametrize("keep", [0, 3, 50, -1, -8])
def test_a_torn_part_is_said_to_be_damaged(store: Any, job: JobPaths, keep: int) -> None:
    _, data, _ = decide()
    store.put(job.part(2), data[:keep])
    with pytest.raises(OutputError, match=r"memory://out/data/part-0000002-0123abcd.parquet: this part is damaged"):
        parts.read(store, job, 2)


def test_a_part_whose_footer_is_altered_is_never_read_as_another_and_never_crashes(store: Any, job: JobPaths) -> None:
    decision, data, letters = decide(dead=(1, 4), filtered=(0,))
    good = parts.commit(store, job, decision, data, letters)
    at = data.index(b'{"counts"')
    for offset in range(at, at + 120):
        store.put(job.part(2), data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :])
        try:
            found = parts.read(store, job, 2)
        except OutputError:
            continue
        assert (found.counts, found.shard) == (good.counts, 2) or found.counts.truncated != good.counts.truncated


def test_a_part_under_the_name_of_another_shard_is_refused(store: Any, job: JobPaths) -> None:
    _, data, _ = decide(shard=3)
    store.put(job.part(2), data)
    with pytest.raises(OutputError, match="says that it is of shard 3"):
        parts.read(store, job, 2)


def test_a_parquet_file_of_others_is_no_part(store: Any, job: JobPaths) -> None:
    writer = PartWriter(SCHEMA)
    store.put(job.part(2), writer.finish({}))
    with pytest.raises(OutputError, match="not a part of batchinfer"):
        parts.read(store, job, 2)


def test_equal_work_gives_equal_bytes_in_every_job(store: Any, job: JobPaths) -> None:
    assert decide(dead=(1,))[1] == decide(dead=(1,))[1]
    one = parts.commit(store, job, *decide(dead=(1,)))
    other = parts.commit(store, JobPaths("ffffffff"), *decide(dead=(1,)))
    assert one.sha256 == other.sha256


def test_counts_that_do_not_add_up_are_a_bug_that_is_said() -> None:
    Counts(10, 5, 2, 2, 1).check("here")
    with pytest.raises(OutputError, match="here: rows are not accounted for"):
        Counts(10, 5, 2, 2, 0).check("here")
    assert Counts(1, 1) + Counts(3, 1, 1, 1) == Counts(4, 2, 1, 1)


# Manifests.


def standing(store: Any, job: JobPaths) -> list[Part]:
    return [parts.commit(store, job, *decide(shard=n, dead=(1,), value=n)) for n in (1, 0)]


def test_a_manifest_lists_the_parts_in_order_and_sums_the_rows(store: Any, job: JobPaths) -> None:
    assert manifests.latest(store, job) is None
    manifest = manifests.create(store, job, standing(store, job), 1, 3)
    assert [p.shard for p in manifest.parts] == [0, 1]
    assert manifest.counts == Counts(8, 6, 2)
    assert manifests.latest(store, job) == manifest
    assert manifest.verdict == 3


def test_a_generation_is_ended_once_and_the_loser_adopts_the_winners_manifest(store: Any, job: JobPaths) -> None:
    both = standing(store, job)
    winner = manifests.create(store, job, both, 1, 0)
    loser = manifests.create(store, job, both, 1, 3)
    assert loser == winner
    assert manifests.latest(store, job) == winner


def test_the_newest_generation_counts(store: Any, job: JobPaths) -> None:
    both = standing(store, job)
    for generation in (1, 2, 10):
        manifests.create(store, job, both, generation, 0)
    store.put(f"{job.folder}/manifests/0011.json.tmp", b"")
    newest = manifests.latest(store, job)
    assert newest is not None
    assert newest.generation == 10


def test_rows_that_are_not_accounted_for_make_no_manifest(store: Any, job: JobPaths) -> None:
    both = standing(store, job)
    wrong = replace(both[0], counts=replace(both[0].counts, succeeded=2))
    with pytest.raises(OutputError, match="not accounted for"):
        manifests.create(store, job, [wrong, both[1]], 1, 0)
    assert manifests.latest(store, job) is None


def test_errors_in_two_parts_that_cancel_out_are_found(store: Any, job: JobPaths) -> None:
    both = standing(store, job)
    more = replace(both[0], counts=replace(both[0].counts, succeeded=4))
    less = replace(both[1], counts=replace(both[1].counts, succeeded=2))
    with pytest.raises(OutputError, match="not accounted for"):
        manifests.create(store, job, [more, less], 1, 0)


def test_success_is_an_empty_file_in_data(store: Any) -> None:
    manifests.mark_success(store)
    manifests.mark_success(store)
    assert store.read("data/_SUCCESS") == b""


# Records.


def test_a_record_reads_back_and_carries_a_nonce_of_its_own(store: Any) -> None:
    assert records.create(store, "a/0001.json", {"x": [1, None, "ä"]})
    assert not records.create(store, "a/0001.json", {"x": [1, None, "ä"]})
    read = records.read(store, "a/0001.json")
    assert read["x"] == [1, None, "ä"]
    assert len(read["nonce"]) == 32


def test_a_record_that_is_missing_is_found_as_none(store: Any) -> None:
    assert records.find(store, "a/0001.json") is None
    with pytest.raises(FileNotFoundError):
        records.read(store, "a/0001.json")


def test_a_file_name_that_is_no_utf8_survives_a_record(store: Any) -> None:
    name = b"caf\xe9.parquet".decode("utf-8", "surrogateescape")
    records.create(store, "a/0001.json", {"file": name})
    assert records.read(store, "a/0001.json")["file"] == name


def test_numbers_are_read_from_records_alone(store: Any) -> None:
    for name in ("0010.json", "0002.json", "123456.json", "1.json", "x.json", "0003.json~", "０００４.json"):
        store.put(f"a/{name}", b"")
    assert records.numbers(store, "a") == [2, 10, 123456]

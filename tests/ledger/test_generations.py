"""Generations: begun once, counted once, and what a retry leaves of dead letters."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.data import ordinals
from batchinfer.data.dead_letters import DeadRow, to_bytes
from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.data.part import PartWriter
from batchinfer.errors import OutputError
from batchinfer.ledger import dead, generations, manifests, parts
from batchinfer.ledger.parts import Counts, Decision, Part, account
from batchinfer.plan.fingerprint import Fingerprint, digest_of
from batchinfer.plan.generation import Generation, Kind
from batchinfer.plan.shards import Shard
from batchinfer.storage.paths import JobPaths

FILE = InputFile("/in/a.parquet", 10, "1", "f", 20)
FIRST = (Shard(0, 0, (RowRange(FILE, 0, 10),)), Shard(1, 10, (RowRange(FILE, 10, 10),)))


def mark(value: str = "old", count: int = 1) -> Fingerprint:
    material = {"input": {"files": {"count": count, "rows": 20}}, "steps": value}
    return Fingerprint(digest_of(material), material)


def generation(
    number: int, kind: Kind, shards: tuple[Shard, ...], fingerprint: Fingerprint | None = None
) -> Generation:
    return Generation(number, kind, fingerprint or mark(), 5, {"id": "int64"}, (FILE,), shards)


def again(number: int, rows: list[int], left_by: dict[int, list[int]]) -> Shard:
    """A retry's shard of single rows; `left_by`: the ordinals of the dead rows by shard."""
    retries = tuple((shard, ordinals.encode(np.array(at))) for shard, at in left_by.items())
    return Shard(number, rows[0], tuple(RowRange(FILE, r, 1) for r in rows), tuple(rows), retries)


def decide(store: Any, job: JobPaths, shard: Shard, died: tuple[int, ...] = (), error: str = "E") -> Part:
    """Commit a part in which these of the job's rows died."""
    rows = shard.job_rows().tolist()
    letters = [DeadRow(shard.number, r, FILE.path, r, None, "model", "exception", error, "", 2) for r in died]
    data = to_bytes(letters) if letters else None
    decision = Decision(
        shard.number,
        shard.first,
        Counts(len(rows), len(rows) - len(died), len(died)),
        np.array([rows.index(r) for r in died], np.int64),
        np.empty(0, np.int64),
        hashlib.sha256(data).hexdigest() if data else None,
    )
    writer = PartWriter(pa.schema([("id", pa.int64())]))
    writer.write(pa.table({"id": pa.array([r for r in rows if r not in died], pa.int64())}))
    return replace(
        parts.commit(store, job, decision, writer.finish(decision.to_metadata()), data), retries=shard.retries
    )


def test_a_generation_is_begun_once_and_the_loser_adopts_the_winners(store: Any, job: JobPaths) -> None:
    winner = generations.begin(store, job, generation(1, "run", FIRST))
    loser = generations.begin(store, job, generation(1, "run", FIRST[:1], mark("new")))
    assert loser == winner == generations.read(store, job, 1)
    assert generations.every(store, job) == (winner,)


def test_a_generation_is_open_until_its_manifest_stands(store: Any, job: JobPaths) -> None:
    first = generations.begin(store, job, generation(1, "run", FIRST))
    assert generations.is_open(first, None)
    manifest = manifests.create(store, job, [decide(store, job, s) for s in FIRST], 1, 0)
    assert not generations.is_open(first, manifest)
    assert generations.is_open(generation(2, "retry", ()), manifest)


def test_a_retrys_fingerprint_is_the_jobs_too_unless_the_input_has_other_rows(store: Any, job: JobPaths) -> None:
    generations.begin(store, job, generation(1, "run", FIRST))
    generations.begin(store, job, generation(2, "retry", FIRST, mark("new")))
    generations.begin(store, job, generation(3, "retry", FIRST, mark("new", count=2)))
    accepted = [generations.accepts(store, job, mark(), m) for m in (mark(), mark("new"), mark("other"))]
    assert accepted == [True, True, False]
    assert not generations.accepts(store, job, mark(), mark("new", count=2))


def test_rows_are_counted_once_through_three_generations(store: Any, job: JobPaths) -> None:
    first = [decide(store, job, FIRST[0], (2, 3)), decide(store, job, FIRST[1], (15,))]
    assert account(first) == Counts(20, 17, 3)
    second = decide(store, job, again(2, [2, 3, 15], {0: [2, 3], 1: [5]}), (3,))
    assert account([*first, second]) == Counts(20, 19, 1)
    third = decide(store, job, again(3, [3], {2: [1]}))
    assert account([*first, second, third]) == Counts(20, 20)


def test_a_shard_that_was_given_up_leaves_its_rows_dead(store: Any, job: JobPaths) -> None:
    first = [decide(store, job, FIRST[0], (2, 3)), decide(store, job, FIRST[1])]
    given_up = replace(first[1], shard=2, counts=Counts(2, not_attempted=2), retries=((0, "x"),))
    assert account([*first, given_up]) == Counts(20, 18, 2)


def test_the_newest_letter_of_each_row_counts_until_a_part_settles_it(store: Any, job: JobPaths) -> None:
    shards = (*FIRST, again(2, [2, 3, 15], {0: [2, 3], 1: [5]}), again(3, [3], {2: [1]}))
    every = (generation(1, "run", FIRST), generation(2, "retry", shards[2:3]), generation(3, "retry", shards[3:]))
    standing = [decide(store, job, FIRST[0], (2, 3), "A"), decide(store, job, FIRST[1], (15,), "A")]
    seen = []
    for shard, died in ((None, ()), (shards[2], (3,)), (shards[3], ())):
        if shard is not None:
            standing.append(decide(store, job, shard, died, "B"))
        table = dead.letters(store, standing, every)
        seen.append(
            [(r["row"], r["error_type"], r["resolved_by"] and r["resolved_by"][5:17]) for r in table.to_pylist()]
        )
    two, three = "part-0000002", "part-0000003"
    assert seen == [
        [(2, "A", None), (3, "A", None), (15, "A", None)],
        [(2, "A", two), (3, "B", None), (15, "A", two)],
        [(2, "A", two), (3, "B", three), (15, "A", two)],
    ]
    assert dead.counted(dead.letters(store, standing[:3], every))["row"].to_pylist() == [3]


def test_while_a_retry_is_open_its_standing_parts_count(store: Any, job: JobPaths) -> None:
    shard = again(2, [2, 3], {0: [2, 3]})
    every = (
        generations.begin(store, job, generation(1, "run", FIRST)),
        generations.begin(store, job, generation(2, "retry", (shard, again(3, [15], {1: [5]})))),
    )
    first = [decide(store, job, FIRST[0], (2, 3)), decide(store, job, FIRST[1], (15,))]
    manifest = manifests.create(store, job, first, 1, 3)
    assert account(generations.parts_so_far(store, job, every, manifest)) == Counts(20, 17, 3)
    part = decide(store, job, shard)
    assert generations.parts_so_far(store, job, every, manifest) == [*first, part]
    assert account(generations.parts_so_far(store, job, every, manifest)) == Counts(20, 19, 1)


def test_dead_letters_that_are_gone_are_named(store: Any, job: JobPaths) -> None:
    part = decide(store, job, FIRST[0], (2, 3))
    store.delete(part.dead_letters)
    with pytest.raises(OutputError, match=f"{part.dead_letters}: 2 dead rows .* gone"):
        dead.letters(store, [part], [generation(1, "run", FIRST)])


def test_a_part_says_its_columns_and_its_decision_from_its_footer(store: Any, job: JobPaths) -> None:
    part = decide(store, job, FIRST[0], (2, 3))
    assert parts.schema(store, part) == pa.schema([("id", pa.int64())])
    assert parts.decision(store, part).dead.tolist() == [2, 3]
    store.delete(part.path)
    with pytest.raises(OutputError, match=part.path):
        parts.decision(store, part)

"""Dead rows cut into shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.data import ordinals
from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.errors import InputError
from batchinfer.job.spec import JobSpec
from batchinfer.plan.fingerprint import Fingerprint
from batchinfer.plan.plan import Plan, Reading
from batchinfer.plan.retry import retry_shards
from batchinfer.plan.shards import Shard

A, B = InputFile("/in/a.parquet", 10, "1", "f", 100), InputFile("/in/b.parquet", 20, "2", "e", 50)
FIRST = {
    0: Shard(0, 0, (RowRange(A, 0, 60),)),
    1: Shard(1, 60, (RowRange(A, 60, 40), RowRange(B, 0, 20))),
    2: Shard(2, 120, (RowRange(B, 20, 30),)),
}


def plan(shard: int, files: tuple[InputFile, ...] = (A, B)) -> Plan:
    job: dict[str, Any] = {
        "version": 1,
        "name": "j",
        "input": {"path": "/in"},
        "steps": [{"engine": "torch", "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": {"y": "y"}}],
        "batching": {"shard": shard, "window": 5},
        "output": {"path": "/out"},
    }
    reading = Reading(pa.schema([("x", pa.int64())]), None, ("x",), None, 5)
    return Plan(JobSpec.model_validate(job), Fingerprint("", {}), reading, files, tuple(FIRST.values()), 0)


def letters(rows: list[int], shard_of: dict[int, int]) -> pa.Table:
    where = [("/in/a.parquet", r) if r < 100 else ("/in/b.parquet", r - 100) for r in rows]
    return pa.table(
        {
            "shard": pa.array([shard_of[r] for r in rows], pa.int64()),
            "row": pa.array(rows, pa.int64()),
            "source_file": pa.array([path for path, _ in where], pa.string()),
            "source_row": pa.array([row for _, row in where], pa.int64()),
        }
    )


def dead_rows(shards: dict[int, Shard], shard: Shard) -> list[int]:
    """The job's rows that a retry's shard says that it attempts again."""
    found = [shards[n].job_rows()[ordinals.decode(text)] for n, text in shard.retries]
    return sorted(np.concatenate(found).tolist())


@given(st.sets(st.integers(0, 149), min_size=1), st.integers(1, 40), st.data())
def test_every_dead_row_is_attempted_once_where_it_lies_through_two_generations(
    rows: set[int], size: int, data: st.DataObject
) -> None:
    shards = dict(FIRST)
    left_by = {r: n for n, s in FIRST.items() for r in s.job_rows().tolist()}
    for _ in range(2):
        ordered = sorted(rows)
        made = retry_shards(letters(ordered, left_by), plan(size), shards)
        assert [s.number for s in made] == list(range(max(shards) + 1, max(shards) + 1 + len(made)))
        assert [r for s in made for r in s.job_rows().tolist()] == ordered
        assert all(0 < s.rows <= size and s.first == s.job_rows()[0] for s in made)
        for shard in made:
            read = [r.start + n + (100 if r.file is B else 0) for r in shard.ranges for n in range(r.rows)]
            assert read == shard.job_rows().tolist() == dead_rows(shards, shard)
        shards |= {s.number: s for s in made}
        left_by |= {r: s.number for s in made for r in s.job_rows().tolist()}
        rows = data.draw(st.sets(st.sampled_from(ordered), min_size=1))


def test_rows_that_follow_each_other_are_one_range_as_far_as_their_file_goes() -> None:
    left_by = {r: n for n, s in FIRST.items() for r in s.job_rows().tolist()}
    (shard,) = retry_shards(letters([58, 59, 60, 98, 99, 100, 101], left_by), plan(100), FIRST)
    assert [(r.file.path[-9:], r.start, r.rows) for r in shard.ranges] == [
        ("a.parquet", 58, 3),
        ("a.parquet", 98, 2),
        ("b.parquet", 0, 2),
    ]
    assert shard.rows_at == (58, 98, 100)
    assert shard.retries == (
        (0, ordinals.encode(np.array([58, 59]))),
        (1, ordinals.encode(np.array([0, 38, 39, 40, 41]))),
    )


def test_no_dead_rows_are_no_shards() -> None:
    assert retry_shards(letters([], {}), plan(10), FIRST) == ()


def test_a_file_that_is_gone_or_shorter_is_named() -> None:
    with pytest.raises(InputError, match=r"b\.parquet: dead rows came from this file"):
        retry_shards(letters([100], {100: 1}), plan(10, (A,)), FIRST)
    shorter = InputFile(A.path, 9, "2", "d", 99)
    assert len(retry_shards(letters([98], {98: 1}), plan(10, (shorter, B)), FIRST)) == 1
    with pytest.raises(InputError, match=r"a\.parquet: row 99 of this file is dead, and now it has 99 rows"):
        retry_shards(letters([99], {99: 1}), plan(10, (shorter, B)), FIRST)

"""Which rows a canary takes."""

from __future__ import annotations

import itertools

import pytest

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.plan.canary import GROWTH, rounds
from batchinfer.plan.shards import Shard


def job(*rows: int, pruned: frozenset[int] = frozenset()) -> list[Shard]:
    """A shard for each file of so many rows."""
    files = [InputFile(f"/{n}.parquet", 1, "v", "f", count) for n, count in enumerate(rows)]
    return [Shard(n, 0, (RowRange(file, 0, file.rows, n in pruned),)) for n, file in enumerate(files)]


def spans(shard: Shard) -> list[tuple[str, int, int]]:
    return [(r.file.path, r.start, r.start + r.rows) for r in shard.ranges]


def test_the_first_round_has_the_rows_that_are_asked_for_spread_evenly_from_the_first_to_the_last() -> None:
    first, *_ = rounds(job(10_000), 80, 8)
    assert [shard.rows for shard in first] == [10] * 8
    begins = [shard.ranges[0].start for shard in first]
    assert (begins[0], begins[-1]) == (0, 9990)
    assert max(b - a for a, b in itertools.pairwise(begins)) - min(b - a for a, b in itertools.pairwise(begins)) <= 1


def test_rounds_grow_to_the_size_of_the_job_and_number_their_shards_on() -> None:
    found = rounds(job(10_000), 80, 8)
    assert [sum(s.rows for s in one) for one in found] == [80 * GROWTH**n for n in range(4)]
    shards = [shard for one in found for shard in one]
    assert [s.number for s in shards] == list(range(32))
    assert [s.first for s in shards] == [sum(s.rows for s in shards[:n]) for n in range(32)]


def test_a_piece_may_lie_in_two_files() -> None:
    found = rounds(job(15, 5, 80), 20, 2)
    assert [spans(shard) for shard in found[0]] == [[("/0.parquet", 0, 10)], [("/2.parquet", 70, 80)]]
    assert spans(rounds(job(15, 5, 80), 100, 2)[0][0]) == [
        ("/0.parquet", 0, 15),
        ("/1.parquet", 0, 5),
        ("/2.parquet", 0, 30),
    ]


@pytest.mark.parametrize(("rows", "asked", "pieces"), [(3, 512, 8), (100, 512, 8), (100, 1, 8), (1, 1, 1), (9, 9, 8)])
def test_small_jobs_are_one_round_that_stays_inside_them(rows: int, asked: int, pieces: int) -> None:
    first, *_ = rounds(job(rows), asked, pieces)
    assert len(first) == min(rows, pieces)
    assert all(0 <= begin < end <= rows for shard in first for _, begin, end in spans(shard))
    if asked >= rows:
        assert len(rounds(job(rows), asked, pieces)) == 1


def test_rows_that_statistics_rule_out_are_left_out() -> None:
    found = rounds(job(100, 100, 100, pruned=frozenset({1})), 16, 8)
    assert {path for one in found for shard in one for path, _, _ in spans(shard)} == {"/0.parquet", "/2.parquet"}


def test_a_job_without_rows_to_read_has_no_canary() -> None:
    assert rounds(job(0), 512, 8) == ()
    assert rounds(job(50, pruned=frozenset({0})), 512, 8) == ()

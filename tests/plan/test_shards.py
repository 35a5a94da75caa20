from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.data.inputs import InputFile
from batchinfer.data.scan import RowGroup, ScannedFile
from batchinfer.data.statistics import ColumnStats
from batchinfer.data.where import Where
from batchinfer.plan.shards import auto_sizes, cut

SCHEMA = pa.schema([("x", pa.int64())])
WHERE = Where("x = 1")


def scanned(name: str, groups: list[tuple[int, bool]], schema: pa.Schema = SCHEMA, size: int = 8) -> ScannedFile:
    """Row groups as (rows, whether statistics rule out x = 1)."""
    rows = sum(r for r, _ in groups)
    made = tuple(RowGroup(r, {"x": ColumnStats(5, 9, 0) if pruned else ColumnStats(0, 9, 0)}) for r, pruned in groups)
    return ScannedFile(InputFile(name, 1, "", "", rows), schema, made, tuple(size * rows for _ in schema))


@settings(deadline=None)
@given(
    files=st.lists(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=6), max_size=6),
    limit=st.one_of(st.none(), st.integers(0, 200)),
    most=st.integers(1, 60),
)
def test_every_row_is_in_one_range_of_one_shard_in_order(
    files: list[list[tuple[int, bool]]], limit: int | None, most: int
) -> None:
    inputs = [scanned(f"f{i}", groups) for i, groups in enumerate(files)]
    shards = cut(inputs, WHERE, limit, most)
    got = [(r.file.path, row, r.pruned) for s in shards for r in s.ranges for row in range(r.start, r.start + r.rows)]
    want = [
        (f.file.path, row, pruned)
        for f, groups in zip(inputs, files, strict=True)
        for row, pruned in enumerate(p for rows, p in groups for _ in range(rows))
    ]
    assert got == want[:limit]
    assert [s.number for s in shards] == list(range(len(shards)))
    first = 0
    for s in shards:
        assert s.first == first
        assert s.rows > 0
        assert sum(r.rows for r in s.ranges if not r.pruned) <= most
        for a, b in zip(s.ranges, s.ranges[1:], strict=False):
            assert (a.file, a.pruned) != (b.file, b.pruned)
        first += s.rows


def test_shards_end_at_row_groups_and_small_files_share_one() -> None:
    big, small = (
        scanned("a", [(60, False), (60, False), (250, False)]),
        [scanned(f"s{i}", [(10, False)]) for i in range(5)],
    )
    shards = cut([big, *small], None, None, 100)
    assert [s.rows for s in shards] == [60, 60, 83, 83, 94, 40]
    assert [len(s.ranges) for s in shards] == [1, 1, 1, 1, 2, 4]


def test_pruned_row_groups_ride_along_and_alone_make_one_shard() -> None:
    assert [(s.rows, len(s.ranges)) for s in cut([scanned("a", [(500, True)] * 9)], WHERE, None, 100)] == [(4500, 1)]
    assert [s.rows for s in cut([scanned("a", [(90, False), (500, True), (90, False)])], WHERE, None, 100)] == [590, 90]


def test_no_rows_or_a_limit_of_zero_give_no_shard() -> None:
    assert cut([scanned("a", [(0, False)])], None, None, 10) == ()
    assert cut([scanned("a", [(5, False)])], None, 0, 10) == ()
    assert cut([], None, None, 10) == ()


def test_sizes_follow_the_bytes_of_a_row() -> None:
    floats = pa.schema([(f"f{i}", pa.float32()) for i in range(32)])
    light = scanned("a", [(1_000_000, False)], floats, 4)
    assert auto_sizes([light], floats.names, numeric=True) == (262_144, 65_536)
    assert auto_sizes([light], ["f0"], numeric=True) == (983_040, 65_536)
    text = pa.schema([("t", pa.string())])
    assert auto_sizes([scanned("a", [(1000, False)], text, 200)], ["t"], numeric=False) == (8 * 4096, 4096)
    assert auto_sizes([scanned("a", [(1000, False)], text, 2**20)], ["t"], numeric=False) == (8 * 64, 64)
    assert auto_sizes([], [], numeric=False) == (8 * 4096, 4096)
